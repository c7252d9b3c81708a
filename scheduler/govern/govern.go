// Package govern is the loop of the scheduler: it observes, plans, applies, measures, and keeps what pays or takes it back. How each of these
// is done does not enter; neither do flags or output.
//
//	observing --baseline known, a plan promises enough--> trial --better, or no worse for some epochs--> kept
//	    ^                                                   |                                             |
//	    |<------------ worse, for one epoch ----------------+<---- loads have drifted, another plan ------+
//	    |<------------ guests or CPUs came or went, worse for one epoch, or measured long ago ------------+
//
// In the state observing nothing is set, and the baseline is measured. After a plan that did not pay the next one waits, each time twice as long,
// until guests come or go.
package govern

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/plan"
	"golang.org/x/sys/unix"
)

// Config says how to govern. Zero fields have the defaults named.
type Config struct {
	Epoch      time.Duration // time from one look to the next; 1 s
	Budget     time.Duration // for one plan; 5 ms
	Share      float64       // of one CPU, that observing and planning may use: epochs become longer rather than use more; 0.005
	Hysteresis float64       // share of the present cost that a plan must promise to save; 0.05. Below 0, every plan is tried
	Recheck    int           // epochs after which a kept plan is lifted, to measure again what the host is like without; 300
	Seed       uint64
	Weights    plan.Weights // of the objective
	Policy     plan.Policy  // by which a plan becomes settings; plan.DefaultPolicy
	Guard      []string     // command line of the applier's guard, see apply.Options

	// Prepare adds to a problem what only the user knows: gangs, pairs that must be apart, pins, links. vcpus[i] is the item of p.VCPUs[i]; one
	// that uses several CPUs is several of them. nil: nothing.
	Prepare func(p *plan.Problem, vcpus []observe.Item)
	// Events is told all that happens, from the goroutine of Run; nil: nobody is.
	Events func(Event)

	// The world: nil is this host.
	Find  func() ([]observe.Item, error)
	Read  func(observe.Item) (observe.Sample, error)
	Host  func() (*host.Topology, error)
	Apply Applier
	Clock Clock
	CPU   func() time.Duration // that this process has used
}

// Applier is [apply.Applier] or a stand-in. Run closes it.
type Applier interface {
	Apply([]apply.Target, []plan.Setting) (apply.Report, error)
	Restore() (apply.Restored, error)
	Close() error
}

// Clock is the time.
type Clock interface {
	Now() time.Time
	Sleep(ctx context.Context, d time.Duration) // until d has passed or ctx has ended
}

type clock struct{}

func (clock) Now() time.Time { return time.Now() }
func (clock) Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func processCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Governor places the guests of a host while Run runs.
type Governor struct {
	c       Config
	watcher *observe.Watcher // nil if Find and Read are given
	s       state
}

// New checks a configuration and, unless it is given an Applier, makes one. The caller calls Run, which ends it.
func New(c Config) (*Governor, error) {
	switch {
	case c.Epoch < 0 || c.Budget < 0 || c.Recheck < 0:
		return nil, fmt.Errorf("governing: an epoch of %v, a budget of %v or a recheck after %d epochs is negative", c.Epoch, c.Budget, c.Recheck)
	case math.IsNaN(c.Hysteresis) || math.IsInf(c.Hysteresis, 0):
		return nil, fmt.Errorf("governing: a hysteresis of %v is no number", c.Hysteresis)
	case !(c.Share >= 0 && c.Share <= 1):
		return nil, fmt.Errorf("governing: a share of %v is not from 0 to 1", c.Share)
	}
	set(&c.Epoch, time.Second)
	set(&c.Budget, 5*time.Millisecond)
	set(&c.Share, 0.005)
	set(&c.Hysteresis, 0.05)
	set(&c.Recheck, 300)
	set(&c.Policy, plan.DefaultPolicy())
	set[Clock](&c.Clock, clock{})
	g := &Governor{}
	if c.Find == nil || c.Read == nil {
		g.watcher = observe.NewWatcher()
	}
	if c.Find == nil {
		c.Find = g.watcher.Find
	}
	if c.Read == nil {
		c.Read = g.watcher.Read
	}
	if c.Host == nil {
		c.Host = host.This
	}
	if c.CPU == nil {
		c.CPU = processCPU
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Apply == nil {
		a, err := apply.New(apply.Options{Guard: c.Guard})
		if err != nil {
			return nil, fmt.Errorf("governing: %w", err)
		}
		c.Apply = a
	}
	g.c = c
	g.s.epoch = c.Epoch
	return g, nil
}

func set[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// Run governs until ctx ends, and then, or if it fails, puts all back as it was. It is called once.
func (g *Governor) Run(ctx context.Context) (err error) {
	defer func() {
		err = errors.Join(err, g.c.Apply.Close())
		if g.watcher != nil {
			g.watcher.Close()
		}
	}()
	for ctx.Err() == nil {
		before := g.c.CPU()
		if err := g.step(ctx); err != nil {
			_, restore := g.c.Apply.Restore()
			return fmt.Errorf("governing: %w", errors.Join(err, restore))
		}
		g.pace(g.c.CPU() - before)
		g.c.Clock.Sleep(ctx, g.s.epoch)
	}
	if g.s.phase != observing {
		return g.revert("the end")
	}
	return nil
}

// pace makes epochs so long that what they cost stays within the share.
func (g *Governor) pace(cost time.Duration) {
	const follow, longest = 0.3, time.Minute
	s := &g.s
	if s.number == 1 {
		s.cost = float64(cost)
	}
	s.cost += follow * (float64(cost) - s.cost)
	s.epoch = max(g.c.Epoch, min(longest, time.Duration(s.cost/g.c.Share)))
	s.share = s.cost / float64(s.epoch)
}

func (g *Governor) tell(e Event) {
	e.At, e.Number, e.Epoch, e.Share = g.c.Clock.Now(), g.s.number, g.s.epoch, g.s.share
	g.c.Events(e)
}
