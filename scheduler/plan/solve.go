package plan

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

// Options say how to search. With neither Time nor Sweeps the plan is that of the greedy planners.
type Options struct {
	// Method is SQA, SA or Greedy; "" is SA: at equal time it finds better plans than SQA (BenchmarkPlan64x32, BenchmarkPlan2000x256).
	Method anneal.Method
	Seed   uint64
	Time   time.Duration // how long to search, all in all
	Sweeps int           // how many sweeps to search: what is found then depends on the problem and the seed only
}

// Solve searches a plan of low cost: never a worse one than Greedy's, whatever the budget. It begins with the best of several greedy
// placements and, if that is known and allowed, of what is now; then it anneals. If ctx ends, the plan is the best found until then.
func (p *Problem) Solve(ctx context.Context, o Options) (*Plan, error) {
	begun := time.Now()
	if o.Method == "" {
		o.Method = anneal.SA
	}
	if o.Method != anneal.SQA && o.Method != anneal.SA && o.Method != anneal.Greedy {
		return nil, fmt.Errorf("plan: method %.40q is none of %s, %s, %s", o.Method, anneal.SQA, anneal.SA, anneal.Greedy)
	}
	if o.Time < 0 || o.Sweeps < 0 {
		return nil, fmt.Errorf("plan: a budget of %v and %d sweeps: neither may be below 0", o.Time, o.Sweeps)
	}
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	cpu, method := f.begin(), string(anneal.Greedy)
	cost := f.cost(cpu)
	sweeps := 0
	for tries := 0; tries == 0 || cost.Broken > 0 && tries < 3; tries++ {
		left := o.Time
		if left > 0 {
			left = max(0, left-time.Since(begun))
		}
		if left == 0 && (o.Time > 0 || o.Sweeps == 0) || ctx.Err() != nil {
			break
		}
		s := f.newState()
		s.penalty = f.penalty(cpu) * float64(int(1)<<(2*tries))
		s.start(cpu)
		n, err := anneal.Improve(ctx, s, anneal.Options{Method: o.Method, Seed: o.Seed + uint64(tries), Time: left, Sweeps: o.Sweeps})
		if err != nil {
			return nil, err
		}
		sweeps += n
		if found := s.placement(); better(f.cost(found), cost) {
			cpu, cost = found, f.cost(found)
		}
		method = string(o.Method)
	}
	pl, err := f.plan(cpu, method, begun)
	if err != nil {
		return nil, err
	}
	pl.Sweeps = sweeps
	return pl, nil
}

// begin returns the best of several greedy placements, and of what is now.
func (f *field) begin() []int {
	var best []int
	var least Cost
	offer := func(cpu []int) {
		if c := f.cost(cpu); best == nil || better(c, least) {
			best, least = cpu, c
		}
	}
	s := f.newState()
	if now := f.now(); now != nil {
		offer(now)
	}
	for _, o := range []struct {
		order  []int
		choose func(s *state, i int) int32
	}{
		{f.order(f.byLoad), (*state).leastLoaded},
		{f.order(f.byLoad), (*state).cheapest},
		{f.order(f.byGang), (*state).cheapest},
		{f.byLinks(), (*state).cheapest},
	} {
		s.penalty = 1e9
		for _, i := range o.order {
			s.add(i, o.choose(s, i))
		}
		offer(s.placement())
		for i := range s.at {
			s.remove(i)
		}
	}
	return best
}

// now returns what is now, or nil if that is not known of all or outside a pin.
func (f *field) now() []int {
	cpu := make([]int, len(f.items))
	for i, it := range f.items {
		if it.now < 0 || !slices.Contains(it.may, it.now) {
			return nil
		}
		cpu[i] = int(it.now)
	}
	return cpu
}

// byLinks orders vCPUs so that each follows those it is linked with: groups that talk come one after the other, the largest load first.
func (f *field) byLinks() []int {
	order, seen := make([]int, 0, len(f.items)), make([]bool, len(f.items))
	for _, first := range f.order(f.byLoad) {
		if seen[first] {
			continue
		}
		seen[first] = true
		order = append(order, first)
		for k := len(order) - 1; k < len(order); k++ {
			for _, l := range f.links[order[k]] {
				if !seen[l.to] {
					seen[l.to] = true
					order = append(order, int(l.to))
				}
			}
		}
	}
	return order
}

// penalty is more than what a vCPU may cost where it stands well.
func (f *field) penalty(cpu []int) float64 {
	s := f.newState()
	s.start(cpu)
	most := 0.0
	for i := range s.at {
		p := s.at[i]
		s.remove(i)
		most = max(most, s.place(i, p)+s.talk(i, p))
		s.add(i, p)
	}
	return 2*most + 1
}
