package simulate

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Planner is the policy of package plan: what vCPUs will need is predicted from what they did, a placement is searched, and its settings
// are applied if they are predicted to be worth their cost. Use it for one run.
type Planner struct {
	Every      time.Duration // an epoch; 0 is 100 ms
	Sweeps     int           // of annealing; 0 is 100, below 0 none: greedy placements with the same settings
	Method     anneal.Method
	Seed       uint64
	Hysteresis float64 // share of the cost that a new plan must save; 0 is 0.05
	Weights    plan.Weights
	Settings   plan.Policy // zero: plan's default
	Label      string      // the policy's name, if not "planner"

	watch watcher
	now   map[int]int // applied: CPU index by vCPU
}

// Name returns the policy's name.
func (p *Planner) Name() string { return cmp.Or(p.Label, "planner") }

// Start does nothing: before there are observations, the kernel decides.
func (p *Planner) Start(*Machine) error { return nil }

// Epoch returns the length of an epoch.
func (p *Planner) Epoch() time.Duration { return cmp.Or(p.Every, 100*time.Millisecond) }

// Plan observes, plans and applies.
func (p *Planner) Plan(m *Machine) error {
	problem, ids, _ := p.watch.problem(m, p.Epoch())
	if len(ids) == 0 {
		return nil
	}
	problem.Weights = p.Weights
	stay, complete := make([]int, len(ids)), true
	for k, id := range ids {
		at, ok := p.now[id]
		complete = complete && ok
		stay[k] = at
		if ok {
			problem.VCPUs[k].Now = m.Host.CPUs[at].ID
		}
	}
	o := plan.Options{Method: p.Method, Seed: p.Seed, Sweeps: max(0, cmp.Or(p.Sweeps, 100))}
	pl, err := problem.Solve(context.Background(), o)
	if err != nil {
		return err
	}
	m.Charge(len(ids), pl.Elapsed)
	if complete {
		old, err := problem.Cost(stay)
		if err != nil {
			return err
		}
		if old.Broken <= pl.Cost.Broken && pl.Cost.Total > old.Total*(1-cmp.Or(p.Hysteresis, 0.05)) {
			pl.CPU, pl.Cost = stay, old // classes may have changed even so
		} else {
			m.result.Plans++
		}
	} else {
		m.result.Plans++
	}
	p.now = map[int]int{}
	settings := p.Settings
	if settings == (plan.Policy{}) {
		settings = plan.DefaultPolicy()
	}
	for k, s := range problem.SettingsOf(pl, settings) {
		id := ids[k]
		p.now[id] = pl.CPU[k]
		err := m.Allow(id, s.CPUs)
		if err == nil {
			err = m.Weigh(id, cmp.Or(s.Weight, 100))
		}
		if err == nil {
			err = m.Slice(id, s.Slice)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watcher turns what a machine shows into problems.
type watcher struct {
	loads map[int]*forecast
	rates map[[2]int]float64
	known []int
}

// forecast predicts a load: by its last value or by a slow average, whichever has been nearer to the truth.
type forecast struct {
	last, slow           float64
	lastError, slowError float64
	wakes                float64 // a second
	seen                 int
}

func (f *forecast) observe(load, wakes float64) {
	if f.seen++; f.seen == 1 {
		f.last, f.slow, f.wakes = load, load, wakes
		return
	}
	f.lastError += 0.2 * (math.Abs(load-f.last) - f.lastError)
	f.slowError += 0.2 * (math.Abs(load-f.slow) - f.slowError)
	f.last = load
	f.slow += 0.3 * (load - f.slow)
	f.wakes += 0.3 * (wakes - f.wakes)
}

func (f *forecast) predict() float64 {
	if f.lastError < f.slowError {
		return f.last
	}
	return f.slow
}

// What wakes at least so often a second and uses no more than so much of a CPU is served for its latency.
const (
	latencyWakes = 50
	latencyLoad  = 0.6
)

// problem returns the vCPUs that are there as a problem, with their indexes, and whether others were there at the last call.
func (w *watcher) problem(m *Machine, epoch time.Duration) (p *plan.Problem, ids []int, changed bool) {
	if w.loads == nil {
		w.loads, w.rates = map[int]*forecast{}, map[[2]int]float64{}
	}
	p = &plan.Problem{Host: m.Host}
	where := map[int]int{}
	for id := range m.vcpus {
		if !m.Present(id) {
			continue
		}
		s := m.Take(id)
		f := w.loads[id]
		if f == nil {
			f = &forecast{}
			w.loads[id] = f
		}
		// The load is what it would use: while it waits for a CPU it does not sleep.
		slept := max(0, float64(epoch-s.Run-s.Wait))
		load := 0.0
		if s.Run > 0 {
			load = float64(s.Run) / (float64(s.Run) + slept)
		}
		f.observe(load, float64(s.Voluntary)/epoch.Seconds())
		v := &m.Trace.VCPUs[id]
		where[id] = len(ids)
		ids = append(ids, id)
		load = min(f.predict(), 1)
		p.VCPUs = append(p.VCPUs, plan.VCPU{Name: v.Name, Tenant: v.Tenant, Load: load, Cache: v.Cache, Gang: v.Gang, Pin: v.Pin,
			Latency: f.wakes >= latencyWakes && load <= latencyLoad, Now: m.Host.CPUs[m.Where(id)].ID})
	}
	for pair, rate := range w.rates {
		w.rates[pair] = 0.7 * rate
	}
	m.TakeLinks(func(a, b, times int) { w.rates[[2]int{a, b}] += 0.3 * float64(times) / epoch.Seconds() })
	for pair, rate := range w.rates {
		a, okA := where[pair[0]]
		b, okB := where[pair[1]]
		if !okA || !okB || rate < 1 {
			delete(w.rates, pair)
			continue
		}
		link := plan.Link{A: a, B: b, Rate: rate}
		if most := max(w.loads[pair[0]].wakes, w.loads[pair[1]].wakes); most > 0 {
			link.Alternate = min(1, rate/2/most) // rate counts both directions
		}
		p.Links = append(p.Links, link)
	}
	slices.SortFunc(p.Links, func(a, b plan.Link) int { return cmp.Or(cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B)) })
	changed = !slices.Equal(ids, w.known)
	w.known = ids
	return p, ids, changed
}
