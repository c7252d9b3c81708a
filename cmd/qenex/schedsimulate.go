//go:build !kernelonly

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/picture"
	"github.com/qenex/qenex-kernel/scheduler/simulate"
)

type schedSimulateCmd struct {
	seedFlag    `embed:""`
	Mix         string        `default:"mixed" enum:"gangs,pingpong,batch,servers,mixed" placeholder:"NAME" help:"What runs: gangs (vCPUs that share spinlocks), pingpong (pairs that wake each other), batch, servers, or mixed; batch hogs run beside all (default: ${default}). As in: --mix gangs"`
	Host        string        `default:"2x1" placeholder:"SHAPE" help:"The host: [PACKAGESx]CORESxTHREADS, at most 256 CPUs; more than 8 cores of a package have a cache for each 8, if they can be divided so (default: ${default}). As in: --host 2x64x2"`
	VCPUs       int           `name:"vcpus" placeholder:"N" help:"About how many vCPUs, up to some 2,000 (default: as many as fit the host). As in: --vcpus 64"`
	Runs        int           `default:"1" placeholder:"N" help:"How many generated traces, with seeds that follow --seed; the table has medians (default: ${default}). As in: --runs 20"`
	Policy      string        `default:"all" enum:"all,kernel,balance,gang,random,greedy,planner" placeholder:"NAME" help:"Under which policy: kernel (nothing is set), balance (balance scheduling), gang (gang scheduling), random, greedy, planner (simulated quantum annealing), or all; kernel is always in the table (default: ${default}). As in: --policy planner"`
	Trace       string        `placeholder:"FILE" xor:"trace" help:"Play this trace instead of a generated one; - is standard input. As in: --trace recorded.jsonl"`
	Record      time.Duration `placeholder:"TIME" xor:"trace" help:"Play a trace of the guests of this host, which is recorded first, for so long or until Ctrl-C. As in: --record 30s"`
	Save        string        `placeholder:"FILE" help:"Write the trace that is played, to play it again with --trace. As in: --record 30s --save recorded.jsonl"`
	Calibrate   bool          `xor:"calibration" help:"Measure first what switches, wake-ups and caches cost on this machine, which should be quiet, and use that. As in: --calibrate --json | jq .calibration >machine.json"`
	Calibration string        `placeholder:"FILE" xor:"calibration" help:"Use such measurements. As in: --calibration machine.json"`
	PNG         string        `name:"png" placeholder:"FILE" help:"Draw who ran when into a PNG file: of the planner, or of the policy given. As in: --png gantt.png"`
	From        time.Duration `default:"1s" placeholder:"TIME" help:"Where the picture begins (default: ${default}). As in: --from 0s"`
	Window      time.Duration `default:"200ms" placeholder:"TIME" help:"How much time the picture shows (default: ${default}). As in: --window 1s"`
	JSON        bool          `name:"json" help:"Print JSON: host, calibration and all results. As in: --json | jq '.results[] | {policy, wake_p99_ns}'"`
}

// Help is the text behind the flags.
func (c *schedSimulateCmd) Help() string {
	return `The same flags give the same results, but for planner CPU, which is this machine's. Score is the geometric mean of makespan and of the 99th percentiles of
wake-ups and locks over the kernel's: below 1 is better. Seeds from 1000001 on are held out: nothing was tuned on them.

Examples:
  qenex sched simulate --mix gangs --runs 10
  qenex sched simulate --mix mixed --host 2x64x2 --policy planner --seed 1000001
  qenex sched simulate --record 30s --save recorded.jsonl
  qenex sched simulate --mix gangs --policy planner --png gantt.png`
}

// simulated is what qenex sched simulate --json prints.
type simulated struct {
	Host        *host.Topology        `json:"host"`
	Calibration *simulate.Calibration `json:"calibration"`
	Traces      []tracePlayed         `json:"traces"`
	Results     []*simulate.Result    `json:"results"` // of the first trace under all policies, then of the next
}

type tracePlayed struct {
	simulate.Header
	VCPUs int `json:"vcpus"`
}

// parseHost reads [PACKAGESx]CORESxTHREADS.
func parseHost(text string) (*host.Topology, error) {
	n, cpus := []int{}, 1
	for word := range strings.SplitSeq(text, "x") {
		i, err := strconv.Atoi(word)
		if err != nil || i < 1 || i > simulate.MaxCPUs {
			break
		}
		n, cpus = append(n, i), cpus*i
	}
	if len(n) == 2 {
		n = append([]int{1}, n...)
	}
	if len(n) != 3 || strings.Count(text, "x") > 2 || cpus > simulate.MaxCPUs {
		return nil, usageError("--host %q: write PACKAGESxCORESxTHREADS or CORESxTHREADS, of at most %d CPUs, as in 2x64x2", text, simulate.MaxCPUs)
	}
	if n[1] > 8 && n[1]%8 == 0 {
		return host.Synthetic(n[0], 1, n[1]/8, 8, n[2]), nil
	}
	return host.Synthetic(n[0], 1, 1, n[1], n[2]), nil
}

// Run simulates.
func (c *schedSimulateCmd) Run() error {
	top, err := parseHost(c.Host)
	switch {
	case err != nil:
		return err
	case c.Runs < 1 || c.Runs > 1000 || c.VCPUs < 0 || c.VCPUs > simulate.MaxVCPUs:
		return usageError("--runs %d, --vcpus %d: 1 to 1000 runs and at most %d vCPUs are possible", c.Runs, c.VCPUs, simulate.MaxVCPUs)
	case c.Record < 0 || c.Record > time.Hour || c.From < 0 || c.Window <= 0:
		return usageError("--record %v, --from %v, --window %v: a time to record is at most an hour, and no time is below 0", c.Record, c.From, c.Window)
	}
	out := simulated{Host: top}
	if out.Calibration, err = c.calibration(); err != nil {
		return err
	}
	traces, err := c.traces(top)
	if err != nil {
		return err
	}
	if c.Save != "" {
		if err := saveTrace(traces[0], c.Save); err != nil {
			return err
		}
	}
	var runs [][]*simulate.Result
	for _, t := range traces {
		results, err := c.play(top, t, out.Calibration)
		if err != nil {
			return inputError("%w", err)
		}
		runs = append(runs, results)
		out.Results = append(out.Results, results...)
		out.Traces = append(out.Traces, tracePlayed{t.Header, len(t.VCPUs)})
	}
	if c.JSON {
		return printJSON(out)
	}
	_, err = fmt.Print(simulate.Table(simulate.Summarize(runs)))
	return err
}

// play plays a trace under the policies asked for, and draws.
func (c *schedSimulateCmd) play(top *host.Topology, t *simulate.Trace, cal *simulate.Calibration) (results []*simulate.Result, err error) {
	drawn := c.Policy
	if drawn == "all" {
		drawn = "planner"
	}
	for _, p := range simulate.Policies(c.Seed) {
		if c.Policy != "all" && c.Policy != p.Name() && p.Name() != "kernel" {
			continue
		}
		draw := c.PNG != "" && p.Name() == drawn
		r, err := simulate.Run(top, t, p, cal, simulate.Options{Timeline: draw})
		if err != nil {
			return nil, err
		}
		if draw {
			if err := c.gantt(top, t, r).Save(context.Background(), c.PNG); err != nil {
				return nil, err
			}
			r.Timeline = nil
			c.PNG = "" // of the first trace only
		}
		results = append(results, r)
	}
	return results, nil
}

// gantt is the picture of a part of a run.
func (c *schedSimulateCmd) gantt(top *host.Topology, t *simulate.Trace, r *simulate.Result) *picture.Chart {
	from := min(c.From, max(0, r.Makespan-c.Window))
	to := from + c.Window
	g := &picture.Gantt{}
	for _, cpu := range top.CPUs {
		g.CPUs = append(g.CPUs, cpu.ID)
	}
	for _, v := range t.VCPUs {
		g.VCPUs = append(g.VCPUs, picture.VCPU{Name: cut(v.Name, picture.MaxName), Group: groupOf(v.Name, v.Gang)})
	}
	for _, s := range r.Timeline {
		if s.To > from && s.From < to && len(g.Spans) < picture.MaxSpans {
			g.Spans = append(g.Spans, picture.Span{CPU: s.CPU, VCPU: s.VCPU, From: max(s.From, from), To: min(s.To, to)})
		}
	}
	title := fmt.Sprintf("%s, %d vCPUs on %d CPUs, seed %d: %s", t.Kind, len(t.VCPUs), len(top.CPUs), t.Seed, r.Policy)
	return &picture.Chart{Title: cut(title, picture.MaxName), Gantt: g}
}

func (c *schedSimulateCmd) calibration() (*simulate.Calibration, error) {
	if c.Calibrate {
		return simulate.Calibrate()
	}
	if c.Calibration == "" {
		return simulate.DefaultCalibration(), nil
	}
	f, err := os.Open(c.Calibration)
	if err != nil {
		return nil, inputError("--calibration: %w", err)
	}
	cal, err := simulate.ReadCalibration(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, inputError("--calibration %s: %w", c.Calibration, err)
	}
	return cal, nil
}

// traces are what is played.
func (c *schedSimulateCmd) traces(top *host.Topology) ([]*simulate.Trace, error) {
	if c.Record > 0 {
		ctx, stop := untilSignal()
		defer stop()
		t, err := recordGuests(ctx, c.Record)
		return []*simulate.Trace{t}, err
	}
	if c.Trace != "" {
		r, _, closer, err := openProblem(c.Trace)
		if err != nil {
			return nil, err
		}
		t, err := simulate.Read(r)
		if err = errors.Join(err, closer()); err != nil {
			return nil, inputError("--trace %s: %w", c.Trace, err)
		}
		return []*simulate.Trace{t}, nil
	}
	var list []*simulate.Trace
	for i := range c.Runs {
		t, err := c.generate(top, c.Seed+uint64(i))
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// generate makes a trace for a host, or of about as many vCPUs as asked for.
func (c *schedSimulateCmd) generate(top *host.Topology, seed uint64) (t *simulate.Trace, err error) {
	for _, size := range simulate.Sizes {
		if t, err = simulate.Generate(c.Mix, size, seed); err != nil {
			return nil, err
		}
		if most, err := simulate.HostOf(size); err != nil {
			return nil, err
		} else if c.VCPUs == 0 && len(top.CPUs) <= len(most.CPUs) || c.VCPUs > 0 && c.VCPUs <= len(t.VCPUs) {
			break
		}
	}
	if c.VCPUs > len(t.VCPUs) {
		return nil, usageError("--vcpus %d: there are no more than %d in this mix", c.VCPUs, len(t.VCPUs))
	}
	if c.VCPUs > 0 {
		fewer(t, c.VCPUs)
	}
	return t, t.Check()
}

// fewer leaves so many vCPUs in a trace, or somewhat fewer: those that share locks, channels or a VM all stay, or all go.
func fewer(t *simulate.Trace, most int) {
	group := make([]int, len(t.VCPUs)) // the first vCPU that each belongs together with
	for i := range group {
		group[i] = i
	}
	first := map[string]int{}
	join := func(i int, key string) {
		j, known := first[key]
		if !known {
			first[key] = i
			return
		}
		a, b := group[i], group[j]
		for k, g := range group {
			if g == max(a, b) {
				group[k] = min(a, b)
			}
		}
	}
	for i, v := range t.VCPUs {
		join(i, "vm "+v.VM)
		for _, op := range v.Program {
			switch op.Op {
			case simulate.Lock:
				join(i, fmt.Sprint("lock ", op.ID))
			case simulate.Send, simulate.Recv:
				join(i, fmt.Sprint("channel ", op.ID))
			}
		}
	}
	size := map[int]int{}
	for _, g := range group {
		size[g]++
	}
	stays, n := map[int]bool{}, 0
	for i, g := range group {
		if i == g && (n+size[g] <= most || n == 0) {
			stays[g] = true
			n += size[g]
		}
	}
	var list []simulate.VCPU
	for i, v := range t.VCPUs {
		if stays[group[i]] {
			list = append(list, v)
		}
	}
	t.VCPUs = slices.Clip(list)
}

func saveTrace(t *simulate.Trace, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(t.Write(f), f.Close())
}

// recordEpoch is how often guests are looked at for a recording.
const recordEpoch = 50 * time.Millisecond

// recordGuests records what the guests of this host do, for a while or until ctx ends.
func recordGuests(ctx context.Context, d time.Duration) (*simulate.Trace, error) {
	ctx, stop := context.WithTimeout(ctx, d)
	defer stop()
	defer progress(ctx, "recording", d)()
	w := observe.NewWatcher()
	defer w.Close()
	rec := simulate.NewRecorder()
	last := map[string]observe.Sample{}
	tick := time.NewTicker(recordEpoch)
	defer tick.Stop()
	for seen := 0; ; {
		items, err := w.Find()
		if err != nil {
			return nil, err
		}
		var all []simulate.Observed
		var epoch time.Duration
		now := map[string]observe.Sample{}
		for _, it := range items {
			s, err := w.Read(it)
			if errors.Is(err, observe.ErrGone) {
				continue
			} else if err != nil {
				return nil, err
			}
			now[it.Name] = s
			if before, known := last[it.Name]; known {
				delta, dt := s.Since(before)
				epoch = max(epoch, dt)
				all = append(all, simulate.Observed{Name: it.Name, VM: it.VM, Gang: it.Gang, Sample: simulate.Sample{Run: delta.Run, Wait: delta.Wait, Voluntary: delta.Voluntary}})
			}
		}
		last = now
		if len(all) > 0 {
			seen++
			if err := rec.Next(epoch, all); err != nil {
				return nil, err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if seen == 0 {
				return nil, inputError("no guest that you may look at ran while --record looked")
			}
			return rec.Trace()
		}
	}
}
