//go:build !kernelonly

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/govern"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
)

// governFlags are those of the commands that place the running guests.
type governFlags struct {
	seedFlag   `embed:""`
	For        *time.Duration `placeholder:"TIME" help:"End after this time (default: at Ctrl-C). As in: --for 30s"`
	Epoch      time.Duration  `default:"1s" placeholder:"TIME" help:"How often guests are looked at (default: ${default}); less often if that would cost too much. As in: --epoch 200ms"`
	Budget     time.Duration  `default:"5ms" placeholder:"TIME" help:"How long a plan is searched (default: ${default}). As in: --budget 20ms"`
	Hysteresis float64        `default:"0.05" placeholder:"SHARE" help:"A plan is tried if it promises to save this share of the present cost (default: ${default}). As in: --hysteresis 0.2"`
	Weights    string         `placeholder:"JSON|FILE" help:"Weights of the objective, where they are not the default ones; qenex sched plan --json shows all. As in: --weights '{\"crowding\":2}'"`
	JSON       bool           `name:"json" help:"Print every event as a line of JSON. As in: --json | jq 'select(.event == \"reverted\")'"`
}

// config checks the flags.
func (f *governFlags) config() (c govern.Config, err error) {
	switch {
	case f.For != nil && *f.For <= 0:
		return c, usageError("--for %v: there must be some time", *f.For)
	case f.Epoch < 10*time.Millisecond || f.Epoch > time.Hour:
		return c, usageError("--epoch %v: 10ms to 1h are possible", f.Epoch)
	case f.Budget <= 0 || f.Budget > f.Epoch:
		return c, usageError("--budget %v: more than nothing and at most an epoch, %v, is possible", f.Budget, f.Epoch)
	case !(f.Hysteresis > 0 && f.Hysteresis < 1):
		return c, usageError("--hysteresis %v: more than 0 and less than 1 is possible", f.Hysteresis)
	}
	weights, err := f.weights()
	if err != nil {
		return c, err
	}
	self, err := os.Executable()
	return govern.Config{
		Epoch: f.Epoch, Budget: f.Budget, Hysteresis: f.Hysteresis, Seed: f.Seed, Weights: weights, Guard: []string{self, "sched", "guard"},
	}, err
}

// weights reads those of the objective.
func (f *governFlags) weights() (w planner.Weights, err error) {
	if f.Weights == "" {
		return planner.DefaultWeights(), nil
	}
	text := []byte(f.Weights)
	if !strings.HasPrefix(f.Weights, "{") {
		if text, err = os.ReadFile(f.Weights); err != nil {
			return w, inputError("--weights: %w", err)
		}
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return w, inputError("--weights: %w", err)
	}
	if err := w.Check(); err != nil {
		return w, inputError("--weights: %w", err)
	}
	return w, nil
}

// govern runs a governor until the time is over, Ctrl-C, or done says so of an event. show gets every event.
func (f *governFlags) govern(c govern.Config, show func(govern.Event) error, done func(govern.Event) bool) error {
	ctx, stop := untilSignal()
	defer stop()
	if f.For != nil {
		var over context.CancelFunc
		ctx, over = context.WithTimeout(ctx, *f.For)
		defer over()
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	var failed error
	c.Events = func(e govern.Event) {
		if err := show(e); err != nil && failed == nil {
			failed = err // nobody reads any more
			end()
		}
		if done(e) {
			end()
		}
	}
	g, err := govern.New(c)
	if err != nil {
		return err
	}
	return errors.Join(g.Run(ctx), failed)
}

type schedApplyCmd struct {
	governFlags `embed:""`
	Once        bool `help:"End when a plan was kept, or taken back, or none was needed. As in: --once"`
}

// Help is the text behind the flags.
func (c *schedApplyCmd) Help() string {
	return `Looks at the guests of this host, plans, sets their CPUs, slices and weights if that promises enough, measures, and takes back what does not pay. When it
ends, by Ctrl-C or --for, all is as it was before, and also if it is killed: a process of its own sees to that. Pinned vCPUs stay where their user pinned
them. Without root it places your own guests. What cannot be set here is said first.

Examples:
  qenex sched apply
  qenex sched apply --once --json
  qenex sched apply --for 30s --epoch 200ms`
}

// Run governs.
func (c *schedApplyCmd) Run() error {
	conf, err := c.config()
	if err != nil {
		return err
	}
	a, err := apply.New(apply.Options{Guard: conf.Guard})
	if err != nil {
		return err
	}
	conf.Apply = a
	for _, limit := range a.Limits() {
		fmt.Fprintln(os.Stderr, "qenex: warning:", limit)
	}
	return c.govern(conf, func(e govern.Event) error { return printEvent(e, c.JSON) }, func(e govern.Event) bool {
		return c.Once && (e.Kind == govern.Kept || e.Kind == govern.Reverted || e.Kind == govern.StoodAside)
	})
}

type schedWatchCmd struct {
	governFlags `embed:""`
	Look        bool `help:"Look and plan, and change nothing. As in: --look"`
}

// Help is the text behind the flags.
func (c *schedWatchCmd) Help() string {
	return `Does what qenex sched apply does and shows it: on a terminal the CPUs with their vCPUs, the state of the plan, and what was promised and measured; elsewhere a
line for each event. Scores are the share of time that vCPUs wait for a CPU, those that matter more counting more: 0 is best.

Examples:
  qenex sched watch
  qenex sched watch --look --for 10s
  qenex sched watch --epoch 200ms --json >events.jsonl`
}

// Run governs and shows.
func (c *schedWatchCmd) Run() error {
	conf, err := c.config()
	if err != nil {
		return err
	}
	if c.Look {
		conf.Apply, conf.Guard = lookOnly{}, nil
		conf.Hysteresis = 1e300 // no plan promises so much
	}
	show := func(e govern.Event) error { return printEvent(e, c.JSON) }
	if !c.JSON && isTerminal(1) {
		v := &schedView{out: os.Stdout, look: c.Look}
		show = v.show
	}
	if c.Look {
		all := show
		show = func(e govern.Event) error {
			if e.Kind == govern.Applied || e.Kind == govern.Measured || e.Kind == govern.Kept || e.Kind == govern.Reverted {
				return nil // nothing was
			}
			return all(e)
		}
	}
	return c.govern(conf, show, func(govern.Event) bool { return false })
}

// lookOnly is an Applier that changes nothing.
type lookOnly struct{}

func (lookOnly) Apply([]apply.Target, []planner.Setting) (apply.Report, error) {
	return apply.Report{}, nil
}
func (lookOnly) Restore() (apply.Restored, error) { return apply.Restored{}, nil }
func (lookOnly) Close() error                     { return nil }

type schedGuardCmd struct{}

// Run restores what a governor that is killed has changed.
func (c *schedGuardCmd) Run() error { return apply.Guard(os.Stdin) }

// printEvent prints an event as a line.
func printEvent(e govern.Event, asJSON bool) error {
	if asJSON {
		return printLine(os.Stdout, e)
	}
	_, err := fmt.Println(e.At.Format("15:04:05.000"), eventText(e))
	return err
}

// eventText is an event for people.
func eventText(e govern.Event) string {
	text := string(e.Kind)
	switch e.Kind {
	case govern.Observed:
		text += fmt.Sprintf(": %d vCPUs, score %.3f, planner %.2f %% of a CPU", len(e.Items), e.Score, 100*e.Share)
	case govern.Planned, govern.Applied:
		if p := e.Plan; p != nil {
			text += fmt.Sprintf(": cost %.3f instead of %.3f, by %s in %v", p.Then.Total, p.Now.Total, p.Method, p.Elapsed.Round(time.Microsecond))
		}
		if r := e.Report; r != nil {
			text += fmt.Sprintf("; %d of %d threads changed", r.Changed, r.Threads)
			if r.Refused+r.Foreign+r.Gone > 0 {
				text += fmt.Sprintf(", %d refused, %d changed by others, %d gone", r.Refused, r.Foreign, r.Gone)
			}
			for _, w := range r.Warnings {
				text += "; " + plain(w)
			}
		}
	case govern.Measured, govern.Kept, govern.Reverted:
		text += fmt.Sprintf(": score %.3f, %.3f without a plan, noise %.3f", e.Score, e.Baseline, e.Noise)
		if r := e.Restored; r != nil {
			text += fmt.Sprintf("; %d threads as before", r.Threads)
		}
	}
	if e.Reason != "" {
		text += ": " + plain(e.Reason)
	}
	return text
}
