package govern

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

type phase int

const (
	observing phase = iota
	trial
	kept
)

const (
	baselineEpochs = 3    // measured before the first plan
	trialEpochs    = 3    // after which a plan that is neither better nor worse is decided on
	findFailures   = 3    // one after another, after which all is put back
	maxBackoff     = 64   // epochs
	fruitless      = 4    // epochs until the next plan, if none promised enough
	settled        = 10   // epochs that a plan is kept for before earlier failures are forgotten
	drift          = 0.25 // of all load, that has changed since the plan
	quiet          = 0.01 // score at which nobody waits
)

// key is one item for all time.
type key struct {
	name  string
	pid   int
	birth uint64
}

func keyOf(it observe.Item) key { return key{it.Name, it.PID, it.Birth} }

// known is what is remembered of an item.
type known struct {
	pin    []int // when first seen
	sample observe.Sample
	seen   int // number of the epoch
}

// state is what the loop remembers.
type state struct {
	number int           // of the epoch
	epoch  time.Duration // length of the next one
	cost   float64       // CPU time of an epoch, smoothed, in ns
	share  float64

	phase     phase
	items     map[key]*known
	topology  *host.Topology
	predictor observe.Predictor
	pairs     observe.Pairs
	failures  int    // of Find, one after another
	aside     string // the reason told last

	baseline scores // in the state observing
	trials   scores // of the plan that is applied
	fails    int    // plans that did not pay, one after another
	wait     int    // epochs until the next plan
	loads    map[string]float64
	age      int // epochs that the plan is applied for
}

// step is one epoch.
func (g *Governor) step(ctx context.Context) error {
	s := &g.s
	s.number++
	topology, err := g.c.Host()
	var found []observe.Item
	if err == nil {
		found, err = g.c.Find()
	}
	if err != nil {
		s.failures++
		g.tell(Event{Kind: Failed, Reason: err.Error()})
		if s.failures == findFailures && s.phase != observing {
			return g.revert("this host cannot be observed")
		}
		return nil
	}
	s.failures = 0
	items, vcpus, changed := g.look(found)
	if s.topology != nil && !reflect.DeepEqual(topology, s.topology) {
		changed = "CPUs came or went"
	}
	s.topology = topology
	if changed != "" {
		s.fails, s.wait, s.baseline = 0, 0, nil
		if s.phase != observing {
			if err := g.revert(changed); err != nil {
				return err
			}
		}
	}
	score, ok := Score(items, len(s.topology.CPUs))
	g.tell(Event{Kind: Observed, Items: items, Score: score, Baseline: s.baseline.mean(), Noise: s.baseline.noise()})
	if s.phase != observing {
		s.age++
		if ok {
			return g.judge(ctx, score, items, vcpus)
		}
		return nil
	}
	if changed == "" && ok {
		s.baseline.add(score)
	}
	if s.wait > 0 {
		s.wait--
		return nil
	}
	switch reason := g.pointless(items, ok); {
	case reason != "":
		if reason != s.aside {
			g.tell(Event{Kind: StoodAside, Reason: reason})
		}
		s.aside = reason
		return nil
	case len(s.baseline) < baselineEpochs:
		return nil
	}
	return g.propose(ctx, items, vcpus)
}

// look reads the items, learns from what they did, and tells whether any came or went. Those read for the first time are not in the results yet.
func (g *Governor) look(found []observe.Item) (items []Item, vcpus []observe.Item, changed string) {
	s := &g.s
	if s.items == nil {
		s.items = map[key]*known{}
	}
	deltas := map[string]observe.Sample{}
	var longest time.Duration
	for _, it := range found {
		now, err := g.c.Read(it)
		if errors.Is(err, observe.ErrGone) {
			continue
		}
		k := s.items[keyOf(it)]
		if err != nil {
			g.tell(Event{Kind: Failed, Reason: fmt.Sprintf("%s: %v", it.Name, err)})
			if k != nil {
				k.seen = s.number
			}
			continue
		}
		if k == nil {
			s.items[keyOf(it)] = &known{pin: it.Pin, sample: now, seen: s.number}
			changed = it.Name + " came"
			continue
		}
		it.Pin = k.pin
		delta, dt := now.Since(k.sample)
		k.sample, k.seen = now, s.number
		if dt <= 0 {
			continue
		}
		s.predictor.Observe(it.Name, dt, delta)
		deltas[it.Name], longest = delta, max(longest, dt)
		load := s.predictor.Predict(it.Name)
		items = append(items, Item{Name: it.Name, CPU: now.CPU, Run: delta.Run.Seconds() / dt.Seconds(), Wait: delta.Wait.Seconds() / dt.Seconds(),
			Load: load.CPUs, Wakeups: load.Wakeups, Latency: load.Latency, Gang: it.Gang, Pin: it.Pin})
		vcpus = append(vcpus, it)
	}
	for id, k := range s.items {
		if k.seen != s.number {
			delete(s.items, id)
			s.predictor.Forget(id.name)
			changed = id.name + " went"
		}
	}
	if longest > 0 {
		s.pairs.Observe(longest, deltas)
	}
	return items, vcpus, changed
}

// pointless says why no plan can help, or "".
func (g *Governor) pointless(items []Item, busy bool) string {
	s := &g.s
	switch {
	case len(s.items) == 0:
		return "there are no guests"
	case len(s.topology.CPUs) < 2:
		return "there is one CPU"
	case !busy && len(items) > 0:
		return "all guests are idle"
	case len(s.baseline) >= baselineEpochs && s.baseline.mean() < quiet && len(s.pairs.Links()) == 0 && g.c.Prepare == nil:
		return "nobody waits"
	}
	return ""
}

// revert puts all back.
func (g *Governor) revert(reason string) error {
	s := &g.s
	r, err := g.c.Apply.Restore()
	if err != nil {
		g.tell(Event{Kind: Failed, Reason: err.Error()}) // a guest's threads that cannot be put back now are tried again at the end
	}
	score := s.trials.mean()
	g.tell(Event{Kind: Reverted, Reason: reason, Restored: &r, Score: score, Baseline: s.baseline.mean(), Noise: s.baseline.noise()})
	s.phase, s.trials, s.age, s.baseline, s.aside = observing, nil, 0, nil, ""
	return nil
}

// fail reverts a plan that does not pay, and lets the next one wait.
func (g *Governor) fail(reason string) error {
	s := &g.s
	s.wait = min(maxBackoff, 1<<s.fails)
	s.fails = min(s.fails+1, 10)
	return g.revert(reason)
}

// judge decides on the plan that is applied, after an epoch with it.
func (g *Governor) judge(ctx context.Context, score float64, items []Item, vcpus []observe.Item) error {
	s := &g.s
	s.trials.add(score)
	mean, noise := s.baseline.mean(), s.baseline.noise()
	if s.phase == trial {
		g.tell(Event{Kind: Measured, Score: score, Baseline: mean, Noise: noise})
	}
	switch {
	case score > mean+noise:
		return g.fail(fmt.Sprintf("a score of %.3f is worse than %.3f without the plan", score, mean))
	case s.phase == trial && s.trials.mean() > mean+noise/3 && len(s.trials) >= trialEpochs:
		return g.fail(fmt.Sprintf("a score of %.3f on average is no better than %.3f without the plan", s.trials.mean(), mean))
	case s.phase == trial && (score < mean-noise || len(s.trials) >= trialEpochs):
		s.phase = kept
		g.tell(Event{Kind: Kept, Score: s.trials.mean(), Baseline: mean, Noise: noise})
	case s.phase == kept && s.age >= g.c.Recheck:
		return g.revert("the measurement without a plan is old")
	case s.phase == kept && g.drifted(items):
		return g.propose(ctx, items, vcpus)
	}
	if s.phase == kept && s.age >= settled {
		s.fails = 0
	}
	return nil
}

// drifted tells whether loads are no longer what the plan was made for.
func (g *Governor) drifted(items []Item) bool {
	var sum, change float64
	for _, it := range items {
		was := g.s.loads[it.Name]
		sum, change = sum+max(was, it.Load), change+math.Abs(it.Load-was)
	}
	return change > drift*sum && change > drift // of a CPU at least
}

// propose makes a plan and applies it if it promises enough.
func (g *Governor) propose(ctx context.Context, items []Item, vcpus []observe.Item) error {
	s := &g.s
	p, part := g.problem(items, vcpus)
	pl, err := p.Solve(ctx, plan.Options{Seed: g.c.Seed + uint64(s.number), Time: g.c.Budget})
	now := make([]int, len(p.VCPUs))
	for i, v := range p.VCPUs {
		now[i], _ = p.Host.Index(v.Now) // 0 where not known, as of one that never ran
	}
	var cost plan.Cost
	if err == nil {
		cost, err = p.Cost(now)
	}
	if err != nil {
		if err.Error() != s.aside {
			g.tell(Event{Kind: StoodAside, Reason: err.Error()})
		}
		s.aside = err.Error()
		return nil
	}
	settings := g.settings(p, pl, part, len(items))
	proposal := &Proposal{Settings: settings, Now: cost, Then: pl.Cost, Gain: cost.Total - pl.Cost.Total, Method: pl.Method, Elapsed: pl.Elapsed}
	targets := make([]apply.Target, len(vcpus))
	s.loads = map[string]float64{}
	waits := false
	for i, it := range vcpus {
		proposal.Names = append(proposal.Names, it.Name)
		targets[i] = apply.Target{PID: it.PID, Birth: it.Birth, TIDs: it.TIDs, Whole: it.Whole, Name: it.Name}
		s.loads[it.Name] = items[i].Load
		// A slice and a weight help it, wherever it is: no part of the cost.
		waits = waits || items[i].Latency && items[i].Wait > 0.1*items[i].Run
	}
	g.tell(Event{Kind: Planned, Plan: proposal})
	if g.c.Hysteresis >= 0 && cost.Broken <= pl.Cost.Broken && proposal.Gain <= g.c.Hysteresis*cost.Total && !(waits && s.phase == observing) {
		reason := "no plan promises enough"
		if s.phase == observing && reason != s.aside {
			g.tell(Event{Kind: StoodAside, Reason: reason})
			s.aside = reason
		}
		if s.phase == observing {
			s.wait = fruitless
		}
		return nil
	}
	report, err := g.c.Apply.Apply(targets, settings)
	if err != nil {
		return err
	}
	s.phase, s.trials, s.age, s.aside = trial, nil, 0, ""
	g.tell(Event{Kind: Applied, Plan: proposal, Report: &report})
	return nil
}

// problem models the items. Item i is the vCPUs v with part[v] == i.
func (g *Governor) problem(items []Item, vcpus []observe.Item) (p *plan.Problem, part []int) {
	s := &g.s
	p = &plan.Problem{Host: s.topology, Weights: g.c.Weights}
	first := map[string]int{}
	var owners []observe.Item
	for i, it := range items {
		n := 1
		if vcpus[i].Whole {
			// Its threads may wait behind each other: what waits counts no more than what runs.
			n = max(1, min(int(math.Ceil(min(it.Load, 2*it.Run)-0.1)), len(s.topology.CPUs)))
		}
		first[it.Name] = len(p.VCPUs)
		for range n {
			p.VCPUs = append(p.VCPUs, plan.VCPU{Name: it.Name, Tenant: vcpus[i].Tenant, Load: min(1, it.Load/float64(n)), Latency: it.Latency,
				Gang: it.Gang, Pin: it.Pin, Now: it.CPU})
			part, owners = append(part, i), append(owners, vcpus[i])
		}
	}
	for _, l := range s.pairs.Links() {
		a, okA := first[l.A]
		b, okB := first[l.B]
		if okA && okB && a != b {
			link := plan.Link{A: a, B: b, Rate: min(l.Rate, plan.MaxRate)}
			// Who never wakes but for the other waits for it.
			if most := max(items[part[a]].Wakeups, items[part[b]].Wakeups); most > 0 {
				link.Alternate = min(1, link.Rate/most)
			}
			p.Links = append(p.Links, link)
		}
	}
	if g.c.Prepare != nil {
		g.c.Prepare(p, owners)
	}
	return p, part
}

// settings joins those of the vCPUs that one item is.
func (g *Governor) settings(p *plan.Problem, pl *plan.Plan, part []int, items int) []plan.Setting {
	out := make([]plan.Setting, items)
	for v, one := range p.SettingsOf(pl, g.c.Policy) {
		to := &out[part[v]]
		if to.CPUs == nil {
			*to = one
			continue
		}
		to.CPUs = append(slices.Clone(to.CPUs), one.CPUs...)
		slices.Sort(to.CPUs)
		to.CPUs = slices.Compact(to.CPUs)
	}
	return out
}
