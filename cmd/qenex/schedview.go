//go:build !kernelonly

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/govern"
)

// schedView shows a governor on a terminal: the last look at the guests, the state of the plan, and what happened last.
type schedView struct {
	out   io.Writer
	look  bool // nothing is applied
	drawn bool
	last  govern.Event   // the last look
	base  *govern.Event  // the last event that knows what there is without a plan; nil: none yet
	plan  string         // its state
	past  []govern.Event // what happened, newest last
}

// viewPast is how many events are shown.
const viewPast = 8

// barWidth is the width of a CPU's bar, in characters.
const barWidth = 20

// show takes an event and draws.
func (v *schedView) show(e govern.Event) error {
	switch e.Kind {
	case govern.Observed:
		v.last = e
	case govern.Applied:
		v.plan = "on trial"
	case govern.Kept:
		v.plan = "kept"
	case govern.Reverted:
		v.plan = "taken back"
	}
	if e.Kind == govern.Measured || e.Kind == govern.Kept || e.Kind == govern.Reverted {
		v.base = &e
	}
	if e.Kind != govern.Observed {
		v.past = append(v.past, e)
		v.past = v.past[max(0, len(v.past)-viewPast):]
	}
	size := terminalSize()
	_, err := io.WriteString(v.out, v.frame(int(size.Columns), int(size.Rows)))
	v.drawn = true
	return err
}

// frame is what is to be written: all lines, each cut to the width, as many as there are rows.
func (v *schedView) frame(columns, rows int) string {
	if columns < 20 {
		columns = 80
	}
	if rows < 5 {
		rows = 24
	}
	lines := v.lines()
	lines = lines[:min(len(lines), rows-1)]
	var b strings.Builder
	if !v.drawn {
		b.WriteString("\x1b[2J")
	}
	b.WriteString("\x1b[H")
	for _, l := range lines {
		if r := []rune(l); len(r) > columns {
			l = string(r[:columns])
		}
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	return b.String()
}

func (v *schedView) lines() []string {
	e := v.last
	state := v.plan
	switch {
	case v.look:
		state = "nothing is applied"
	case state == "":
		state = "none yet"
	}
	score := fmt.Sprintf("score %.3f (0 is best: nobody waits)", e.Score)
	if v.base != nil {
		score += fmt.Sprintf(", without a plan %.3f, noise %.3f", v.base.Baseline, v.base.Noise)
	}
	lines := []string{
		fmt.Sprintf("epoch %d of %v   plan: %s   planner: %.2f %% of a CPU   Ctrl-C ends and puts all back", e.Number, e.Epoch.Round(time.Millisecond), state, 100*e.Share),
		score, "",
	}
	cpus := map[int][]govern.Item{}
	for _, it := range e.Items {
		cpus[it.CPU] = append(cpus[it.CPU], it)
	}
	for _, id := range slices.Sorted(maps.Keys(cpus)) {
		load, names := 0.0, []string{}
		for _, it := range cpus[id] {
			load += it.Run
			name := fmt.Sprintf("%s %.0f%%", plain(it.Name), 100*it.Run)
			if it.Wait > 0.005 {
				name += fmt.Sprintf(" (waits %.0f%%)", 100*it.Wait)
			}
			names = append(names, name)
		}
		full := max(0, min(barWidth, int(load*barWidth+0.5)))
		lines = append(lines, fmt.Sprintf("CPU %-3d [%s%s] %4.2f  %s", id, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), load, strings.Join(names, "  ")))
	}
	if len(e.Items) == 0 {
		lines = append(lines, "no guest runs that you may look at")
	}
	lines = append(lines, "")
	for _, p := range v.past {
		lines = append(lines, p.At.Format("15:04:05 ")+eventText(p))
	}
	return lines
}
