package mix

import (
	"context"
	"fmt"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Policies are those that are compared: the kernel's default; placements that see siblings (balance), loads (greedy) or nothing
// (random), all by affinity; gangs that run in time slots of their own; the planner; and the planner's slices and weights without
// its placement, to tell what each of the two is worth.
func Policies(seed uint64) []Policy {
	return []Policy{
		kernel{},
		pinned{"balance", (*plan.Problem).Balance},
		Slots{Length: 20 * time.Millisecond},
		pinned{"greedy", (*plan.Problem).Greedy},
		pinned{"random", func(p *plan.Problem) (*plan.Plan, error) { return p.Random(seed) }},
		planned{name: "planner", seed: seed},
		planned{name: "classes", seed: seed, float: true},
	}
}

// PolicyNamed is the one of Policies with this name.
func PolicyNamed(name string, seed uint64) (Policy, error) {
	for _, p := range Policies(seed) {
		if p.Name() == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no policy %q", name)
}

// kernel leaves all to the kernel.
type kernel struct{}

func (kernel) Name() string { return "kernel" }

func (kernel) Begin(context.Context, *Running) (func() error, error) {
	return func() error { return nil }, nil
}

// What guests are declared to use, in CPUs. Of pairs and servers the most is what QENEX does for their system calls.
var declaredLoad = map[Kind]float64{Hog: 1, Lock: 1, Ping: 0.5, Pong: 0.5, Server: 0.2}

// declaredRate is the messages a second of a pair.
const declaredRate = 2000

// Problem describes a mix to package plan: what is declared, nothing that was measured.
func (m *Mix) Problem(h *host.Topology) *plan.Problem {
	p := &plan.Problem{Host: h}
	for i, g := range m.Guests {
		p.VCPUs = append(p.VCPUs, plan.VCPU{Name: g.Name, Load: declaredLoad[g.Kind], Latency: g.Latency(), Gang: g.Gang, Now: -1})
		if g.Peer > i {
			p.Links = append(p.Links, plan.Link{A: i, B: g.Peer, Rate: declaredRate, Alternate: 1})
		}
	}
	return p
}

// targets are the guests' processes, each as a whole.
func (r *Running) targets() []apply.Target {
	var all []apply.Target
	for i, pid := range r.PIDs {
		all = append(all, apply.Target{PID: pid, Whole: true, Name: r.Mix.Guests[i].Name})
	}
	return all
}

// settle applies settings once. A guest's threads inherit what they start with, so that nothing is left to do until the end.
func (r *Running) settle(settings []plan.Setting) (func() error, error) {
	a, err := apply.New(apply.Options{})
	if err != nil {
		return nil, err
	}
	report, err := a.Apply(r.targets(), settings)
	if err == nil && report.Refused > 0 {
		err = fmt.Errorf("%d of %d threads could not be placed: %q", report.Refused, report.Threads, report.Warnings)
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a.Close, nil
}

// pinned pins every guest to the CPU of a placement, and does nothing else.
type pinned struct {
	name  string
	place func(*plan.Problem) (*plan.Plan, error)
}

func (p pinned) Name() string { return p.name }

func (p pinned) Begin(_ context.Context, r *Running) (func() error, error) {
	h, err := host.This()
	if err != nil {
		return nil, err
	}
	pl, err := p.place(r.Mix.Problem(h))
	if err != nil {
		return nil, err
	}
	return r.settle(affinities(h, pl))
}

func affinities(h *host.Topology, pl *plan.Plan) []plan.Setting {
	var settings []plan.Setting
	for _, at := range pl.CPU {
		settings = append(settings, plan.Setting{CPUs: []int{h.CPUs[at].ID}})
	}
	return settings
}

// planned is the planner: simulated quantum annealing from the greedy placement, applied with the settings of package plan.
type planned struct {
	name  string
	seed  uint64
	float bool // leave the placement to the kernel
}

func (p planned) Name() string { return p.name }

func (p planned) Begin(ctx context.Context, r *Running) (func() error, error) {
	h, err := host.This()
	if err != nil {
		return nil, err
	}
	problem := r.Mix.Problem(h)
	pl, err := problem.Solve(ctx, plan.Options{Seed: p.seed, Time: 2 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	settings := problem.Settings(pl)
	for i := range settings {
		if p.float {
			settings[i].CPUs = nil
		}
	}
	return r.settle(settings)
}
