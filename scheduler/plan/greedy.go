package plan

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Greedy places one vCPU after the other, the largest load first, on the CPU with the least load for its capacity: it sees loads and
// constraints, and nothing else.
func (p *Problem) Greedy() (*Plan, error) {
	return p.oneByOne("greedy", func(f *field) []int { return f.order(f.byLoad) }, (*state).leastLoaded)
}

// Random places vCPUs at random, where constraints allow it.
func (p *Problem) Random(seed uint64) (*Plan, error) {
	r := rand.New(rand.NewPCG(seed, 0))
	return p.oneByOne("random", func(f *field) []int { return f.order(func(a, b int) int { return 0 }) }, func(s *state, i int) int32 {
		return s.pick(i, func(int32) float64 { return r.Float64() })
	})
}

// Balance is balance scheduling (Sukwong and Kim, EuroSys'11) as a placement: vCPUs of one gang, or else of one tenant, are on
// different CPUs as far as there are any, and then on the CPU with the least load.
func (p *Problem) Balance() (*Plan, error) {
	return p.oneByOne("balance", func(f *field) []int { return f.order(func(a, b int) int { return 0 }) }, func(s *state, i int) int32 {
		siblings := make([]float64, len(s.cpus))
		v := &s.p.VCPUs[i]
		for j, q := range s.at {
			u := &s.p.VCPUs[j]
			if q >= 0 && (v.Gang != 0 && u.Gang == v.Gang || v.Gang == 0 && v.Tenant != "" && u.Tenant == v.Tenant) {
				siblings[q]++
			}
		}
		return s.pick(i, func(q int32) float64 { return siblings[q]*float64(len(s.at)+1) + s.fill(i, q) })
	})
}

// Gangs gives every gang, the largest load first, CPUs of its own, near each other and with as little load as possible, so that its
// members can run at the same time; then come the others, as in Greedy.
func (p *Problem) Gangs() (*Plan, error) {
	return p.oneByOne("gangs", func(f *field) []int { return f.order(f.byGang) }, func(s *state, i int) int32 {
		it := &s.items[i]
		if it.gang < 0 {
			return s.leastLoaded(i)
		}
		mates := s.mates[int(it.gang)*len(s.cpus):][:len(s.cpus)]
		var at []int32
		for j := range s.items {
			if s.items[j].gang == it.gang && s.at[j] >= 0 {
				at = append(at, s.at[j])
			}
		}
		return s.pick(i, func(q int32) float64 {
			far := 0.0
			for _, r := range at {
				far += float64(s.dist[int(q)*len(s.cpus)+int(r)]) / 16 / float64(len(at))
			}
			return 1e6*mates[q] + 1e3*(s.cpus[q].load-mates[q])*s.cpus[q].inv + far
		})
	})
}

// oneByOne places vCPUs in an order, each where choose says.
func (p *Problem) oneByOne(method string, order func(f *field) []int, choose func(s *state, i int) int32) (*Plan, error) {
	begun := time.Now()
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	s := f.newState()
	for _, i := range order(f) {
		s.add(i, choose(s, i))
	}
	return f.plan(s.placement(), method, begun)
}

// plan makes a placement a plan, or says which constraint it breaks.
func (f *field) plan(cpu []int, method string, begun time.Time) (*Plan, error) {
	pl := &Plan{CPU: cpu, Cost: f.cost(cpu), Method: method, Elapsed: time.Since(begun)}
	if pl.Cost.Broken > 0 {
		return nil, fmt.Errorf("plan: %s found no placement that keeps all constraints; the best it found breaks %d: %s: %w", method, pl.Cost.Broken,
			f.broken(cpu), ErrContradiction)
	}
	return pl, nil
}

// pick returns the CPU with the least value of those that break the fewest constraints; one that is less loaded where values are equal.
func (s *state) pick(i int, value func(p int32) float64) int32 {
	best, fewest, least := int32(-1), 0, 0.0
	for _, p := range s.items[i].may {
		n := s.breaks(i, s.cpus[p].core)
		if best >= 0 && n > fewest {
			continue
		}
		if x := value(p); best < 0 || n < fewest || x < least {
			best, fewest, least = p, n, x
		}
	}
	return best
}

// fill is how full vCPU i makes a CPU and, as far as that is equal, its core.
func (s *state) fill(i int, p int32) float64 {
	c := &s.cpus[p]
	return (s.cpus[p].load+s.items[i].load)*c.inv + 1e-6*s.coreLoad[c.core] + 1e-9*float64(s.onCore[c.core])
}

func (s *state) leastLoaded(i int) int32 {
	return s.pick(i, func(p int32) float64 { return s.fill(i, p) })
}

// cheapest returns the CPU on which vCPU i costs least, beside those that are placed.
func (s *state) cheapest(i int) int32 {
	best, least := int32(-1), 0.0
	for _, p := range s.items[i].may {
		if x := s.place(i, p); best < 0 || x < least || len(s.links[i]) > 0 {
			if x += s.talk(i, p); best < 0 || x < least {
				best, least = p, x
			}
		}
	}
	return best
}

// order sorts vCPUs by what compares them, after those that constraints leave few CPUs: the first of each tenant that must be alone,
// those with many to be apart from, those with few CPUs in their pin.
func (f *field) order(compare func(a, b int) int) []int {
	order := make([]int, len(f.items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(len(f.items[a].may), len(f.items[b].may)), cmp.Compare(len(f.apart[b]), len(f.apart[a])), compare(a, b))
	})
	if f.tenants > 0 {
		first, rest := make([]int, 0, len(order)), make([]int, 0, len(order))
		seen := make([]bool, f.tenants)
		for _, i := range order {
			if t := f.items[i].tenant; !seen[t] {
				seen[t] = true
				first = append(first, i)
			} else {
				rest = append(rest, i)
			}
		}
		order = append(first, rest...)
	}
	return order
}

func (f *field) byLoad(a, b int) int { return cmp.Compare(f.items[b].load, f.items[a].load) }

// byGang puts gangs first, members together.
func (f *field) byGang(a, b int) int {
	x, y := f.items[a].gang, f.items[b].gang
	if (x < 0) != (y < 0) {
		return cmp.Compare(y, x)
	}
	return cmp.Or(cmp.Compare(x, y), f.byLoad(a, b))
}
