package govern

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// world is a host that is made up: it is its own clock, applier and guests, and runs as fast as it is asked.
type world struct {
	t        *testing.T
	now      time.Time
	cpu      time.Duration // used by the governor
	cost     time.Duration // of every look
	topology *host.Topology
	guests   map[string]*guest
	pays     bool
	applied  map[string]plan.Setting
	script   map[int]func() // by epoch
	epoch    int
	epochs   int // after which it ends
	end      context.CancelFunc
	findErr  error
	applyErr error
	restores int
	closed   int
	events   []Event
}

type guest struct {
	item    observe.Item
	total   observe.Sample
	run     float64 // CPUs
	latency bool
	gone    bool
}

func newWorld(t *testing.T, epochs int) *world {
	w := &world{t: t, now: time.Unix(1e9, 0), epochs: epochs, topology: host.Synthetic(1, 1, 1, 2, 1), guests: map[string]*guest{},
		applied: map[string]plan.Setting{}, script: map[int]func(){}}
	w.add("hog0", 0.9, false)
	w.add("hog1", 0.9, false)
	w.add("server", 0.05, true)
	return w
}

func (w *world) add(name string, run float64, latency bool) *guest {
	pid := 1000 + len(w.guests)
	g := &guest{item: observe.Item{Name: name, PID: pid, TIDs: []int{pid}, VM: name}, run: run, latency: latency}
	w.guests[name] = g
	return g
}

func (w *world) Now() time.Time { return w.now }

// Sleep lets the guests run: without a plan, all on CPU 0, latency guests wait as long as they run; with one that pays they hardly wait, with
// one that does not they wait longer.
func (w *world) Sleep(_ context.Context, d time.Duration) {
	w.now = w.now.Add(d)
	dt := d.Seconds()
	for name, g := range w.guests {
		wait := 0.05 * g.run
		if g.latency {
			wait = g.run * (1 + 0.02*float64(w.epoch%3)) // some noise
		}
		g.total.CPU = 0
		if s, ok := w.applied[name]; ok {
			g.total.CPU = s.CPUs[0]
			switch {
			case g.latency && w.pays:
				wait = 0.1 * g.run
			case g.latency:
				wait = 3 * g.run
			}
		}
		g.total.Run += time.Duration(g.run * dt * 1e9)
		g.total.Wait += time.Duration(wait * dt * 1e9)
		if g.latency {
			g.total.Voluntary += uint64(100 * dt)
			g.total.Slices += uint64(100 * dt)
		}
	}
	w.epoch++
	if f := w.script[w.epoch]; f != nil {
		f()
	}
	if w.epoch >= w.epochs {
		w.end()
	}
}

func (w *world) find() ([]observe.Item, error) {
	w.cpu += w.cost
	var items []observe.Item
	for _, name := range slices.Sorted(maps.Keys(w.guests)) {
		items = append(items, w.guests[name].item)
	}
	return items, w.findErr
}

func (w *world) read(it observe.Item) (observe.Sample, error) {
	g := w.guests[it.Name]
	if g.gone {
		return observe.Sample{}, observe.ErrGone
	}
	s := g.total
	s.At, s.Threads = w.now, len(it.TIDs)
	return s, nil
}

func (w *world) Apply(targets []apply.Target, settings []plan.Setting) (apply.Report, error) {
	clear(w.applied)
	for i, t := range targets {
		w.applied[t.Name] = settings[i]
	}
	return apply.Report{Threads: len(targets), Changed: len(targets)}, w.applyErr
}

func (w *world) Restore() (apply.Restored, error) {
	n := len(w.applied)
	clear(w.applied)
	w.restores++
	return apply.Restored{Threads: n}, nil
}

func (w *world) Close() error {
	w.closed++
	_, err := w.Restore()
	return err
}

// govern runs to the end of the world.
func (w *world) govern(c Config) error {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.end = cancel
	c.Find, c.Read, c.Apply, c.Clock = w.find, w.read, w, w
	c.Host = func() (*host.Topology, error) { return w.topology, nil }
	c.CPU = func() time.Duration { return w.cpu }
	c.Events = func(e Event) { w.events = append(w.events, e) }
	g, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	err = g.Run(ctx)
	if len(w.applied) != 0 || w.closed != 1 {
		w.t.Errorf("at the end %d guests are still placed, and the applier was closed %d times", len(w.applied), w.closed)
	}
	return err
}

func (w *world) of(kinds ...Kind) (events []Event) {
	for _, e := range w.events {
		if slices.Contains(kinds, e.Kind) {
			events = append(events, e)
		}
	}
	return events
}

// story is the events but observations.
func (w *world) story() (text []string) {
	for _, e := range w.events {
		if e.Kind != Observed {
			text = append(text, fmt.Sprintf("%d %s %s", e.Number, e.Kind, e.Reason))
		}
	}
	return text
}

var errWorld = errors.New("the world is out of order")
