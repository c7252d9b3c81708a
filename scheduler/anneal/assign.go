package anneal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Assignment is a problem in which every item gets one of its choices: a QUBO with one variable for an item's choice, of which exactly
// one is 1. No move leaves such states, so that no penalty has to hold them. It does not change.
type Assignment struct {
	offset  float64
	cost    []float64 // of every variable
	first   []int32   // variable of the first choice of every item, and the number of variables
	item    []int32   // of every variable
	links   []link64
	linksOf []int32
	hot     float64
}

type link64 struct {
	to int32
	w  float64
}

// NewAssignment returns the problem in which item i has choices[i] choices, at least one. Variables are numbered item by item; cost is
// that of each, and pairs have the cost of two choices made together. Pairs within one item never count. Indices out of range, NaN and
// infinity are errors.
func NewAssignment(choices []int, cost []float64, pairs []Coupling, offset float64) (*Assignment, error) {
	a := &Assignment{offset: offset, cost: slices.Clone(cost), first: make([]int32, 1, len(choices)+1), item: make([]int32, 0, len(cost))}
	for i, n := range choices {
		if n < 1 || len(a.item)+n > len(cost) {
			return nil, fmt.Errorf("anneal: item %d has %d choices, with %d costs left: at least one choice, and a cost each, are needed", i, n, len(cost)-len(a.item))
		}
		for range n {
			a.item = append(a.item, int32(i))
		}
		a.first = append(a.first, int32(len(a.item)))
	}
	if len(a.item) != len(cost) || len(cost) > MaxSpins {
		return nil, fmt.Errorf("anneal: %d costs for %d choices, at most %d", len(cost), len(a.item), MaxSpins)
	}
	for _, c := range pairs {
		if c.I == c.J {
			return nil, fmt.Errorf("anneal: variable %d is paired with itself: that is a cost", c.I)
		}
	}
	ising, err := NewQUBO(cost, slices.DeleteFunc(slices.Clone(pairs), func(c Coupling) bool {
		// Those out of range are NewQUBO's to name.
		return min(c.I, c.J) >= 0 && max(c.I, c.J) < len(cost) && a.item[c.I] == a.item[c.J]
	}), offset)
	if err != nil {
		return nil, err
	}
	a.linksOf = make([]int32, len(cost)+1)
	for _, c := range ising.pairs {
		a.linksOf[c.I+1]++
		a.linksOf[c.J+1]++
	}
	for i := range cost {
		a.linksOf[i+1] += a.linksOf[i]
	}
	at := slices.Clone(a.linksOf[:len(cost)])
	a.links = make([]link64, 2*len(ising.pairs))
	for _, c := range ising.pairs {
		a.links[at[c.I]], a.links[at[c.J]] = link64{int32(c.J), 4 * c.W}, link64{int32(c.I), 4 * c.W}
		at[c.I]++
		at[c.J]++
	}
	for v, q := range a.cost {
		least := slices.Min(a.cost[a.first[a.item[v]]:a.first[a.item[v]+1]])
		sum := math.Abs(q - least)
		for _, l := range a.links[a.linksOf[v]:a.linksOf[v+1]] {
			sum = max(sum, math.Abs(l.w))
		}
		a.hot = max(a.hot, sum)
	}
	if a.hot == 0 {
		a.hot = 1
	}
	return a, nil
}

// Items returns the number of items.
func (a *Assignment) Items() int { return len(a.first) - 1 }

// Energy returns the cost of a choice, counted from 0, for every item.
func (a *Assignment) Energy(choice []int) float64 {
	p := a.newPlacement()
	p.start(func(i int) int { return choice[i] })
	return p.energy + a.offset
}

// placement is a choice for every item, with what every variable's choice would cost.
type placement struct {
	*Assignment
	chosen []int32   // variable of every item
	g      []float64 // cost and pairs with what is chosen, of every variable: a move from u to v costs g[v]-g[u]
	energy float64
}

func (a *Assignment) newPlacement() *placement {
	return &placement{Assignment: a, chosen: make([]int32, a.Items()), g: make([]float64, len(a.cost))}
}

func (p *placement) start(choice func(i int) int) {
	copy(p.g, p.cost)
	p.energy = 0
	for i := range p.chosen {
		v := p.first[i] + int32(choice(i))
		p.chosen[i] = v
		p.energy += p.g[v] // with the items before
		p.add(v, 1)
	}
}

func (p *placement) add(v int32, sign float64) {
	for _, l := range p.links[p.linksOf[v]:p.linksOf[v+1]] {
		p.g[l.to] += sign * l.w
	}
}

// move lets the item of variable v choose it.
func (p *placement) move(v int32) {
	i := p.item[v]
	u := p.chosen[i]
	p.energy += p.g[v] - p.g[u]
	p.add(u, -1)
	p.add(v, 1)
	p.chosen[i] = v
}

func (p *placement) copy(from *placement) {
	copy(p.chosen, from.chosen)
	copy(p.g, from.g)
	p.energy = from.energy
}

// swap lets two items change choices if beta and chance allow it, and returns whether it did. Only items with equally many choices can.
func (p *placement) swap(i, j int, beta float64, r *rng) bool {
	u, v := p.chosen[i], p.chosen[j]
	ci, cj := u-p.first[i], v-p.first[j]
	if ci == cj || p.first[i+1]-p.first[i] != p.first[j+1]-p.first[j] {
		return false
	}
	before := p.energy
	p.move(p.first[i] + cj)
	p.move(p.first[j] + ci)
	if d := (p.energy - before) * beta; d <= 0 || d < r.exp() {
		return true
	}
	p.move(u)
	p.move(v)
	return false
}

// descend makes the best move of every item while that wins something.
func (p *placement) descend() {
	least := -1e-9 * p.hot
	for again := true; again; {
		again = false
		for i, u := range p.chosen {
			best := u
			for v := p.first[i]; v < p.first[i+1]; v++ {
				if p.g[v] < p.g[best] {
					best = v
				}
			}
			if p.g[best]-p.g[u] < least {
				p.move(best)
				again = true
			}
		}
	}
}

// sweep offers every item a move to one of its choices and a swap with another item. Where there are neighbours in the imaginary time
// of a quantum annealing, ring is what it costs, in temperatures, to choose otherwise than one of them.
func (p *placement) sweep(beta, ring float64, before, after []int32, r *rng) {
	for i, u := range p.chosen {
		n := int(p.first[i+1] - p.first[i])
		if v := p.first[i] + int32(r.below(n)); v != u {
			d := (p.g[v] - p.g[u]) * beta
			if before != nil {
				d += ring * float64(bit(before[i] == u)+bit(after[i] == u))
				d -= ring * float64(bit(before[i] == v)+bit(after[i] == v))
			}
			if d <= 0 || d < r.exp() {
				p.move(v)
			}
		}
		if before == nil {
			p.swap(i, r.below(len(p.chosen)), beta, r)
		}
	}
}

// Placed is what SolveAssignment found.
type Placed struct {
	Choices []int   // of every item, from 0
	Energy  float64 // the problem's energy of Choices
	Sweeps  int     // sweeps done: in one, every item was offered a move in one replica
	Elapsed time.Duration
}

// SolveAssignment searches choices of low energy by moves of one item and swaps of two: with SQA, SA or Greedy. Of o, Target, RunSweeps
// and Workers are not used: there is one annealing after the other, each twice as long as the one before, in the caller's goroutine. The
// search begins at start, if it is not nil, with a descent from it: the result is never worse than start.
func SolveAssignment(ctx context.Context, a *Assignment, start []int, o Options) (*Placed, error) {
	if o.Method != SQA && o.Method != SA && o.Method != Greedy {
		return nil, fmt.Errorf("anneal: method %q is none of those for assignments: %s, %s, %s", o.Method, SQA, SA, Greedy)
	}
	if o.Time <= 0 && o.Sweeps <= 0 {
		return nil, fmt.Errorf("anneal: %w: set one of them", ErrBudget)
	}
	if o.Replicas < 0 || o.Replicas > MaxReplicas || o.Time < 0 || o.Sweeps < 0 {
		return nil, errors.New("anneal: replicas, time or sweeps out of range")
	}
	s := &assigning{ctx: ctx, Assignment: a, begun: time.Now(), options: o, rng: newRNG(o.Seed, 0), best: a.newPlacement(), one: a.newPlacement()}
	if start != nil {
		if len(start) != a.Items() {
			return nil, fmt.Errorf("anneal: a start of %d items for a problem of %d", len(start), a.Items())
		}
		for i, c := range start {
			if c < 0 || c >= int(a.first[i+1]-a.first[i]) {
				return nil, fmt.Errorf("anneal: the start has choice %d of item %d, which has %d", c, i, a.first[i+1]-a.first[i])
			}
		}
		s.best.start(func(i int) int { return start[i] })
	} else {
		s.best.start(s.random)
	}
	s.one.copy(s.best)
	s.offer(s.one)
	for length := 64; a.Items() > 0 && !s.stop(0); length *= 2 {
		if o.Sweeps > 0 {
			length = min(length, o.Sweeps-s.sweeps)
		}
		switch o.Method {
		case SQA:
			s.quantum(length)
		case SA:
			s.thermal(length)
		case Greedy:
			s.one.start(s.random)
			s.offer(s.one)
			s.stop(1)
		}
	}
	p := &Placed{Choices: make([]int, a.Items()), Sweeps: s.sweeps}
	for i, v := range s.best.chosen {
		p.Choices[i] = int(v - a.first[i])
	}
	p.Energy = a.Energy(p.Choices)
	p.Elapsed = time.Since(s.begun)
	return p, nil
}

// assigning is a search of SolveAssignment.
type assigning struct {
	*Assignment
	ctx     context.Context
	begun   time.Time
	options Options
	rng     rng
	sweeps  int
	best    *placement
	one     *placement
	slices  []*placement
}

func (s *assigning) random(i int) int { return s.rng.below(int(s.first[i+1] - s.first[i])) }

// stop counts sweeps and says whether the search is over.
func (s *assigning) stop(sweeps int) bool {
	s.sweeps += sweeps
	return s.options.Sweeps > 0 && s.sweeps >= s.options.Sweeps || s.ctx.Err() != nil ||
		s.options.Time > 0 && time.Since(s.begun) >= s.options.Time
}

func (s *assigning) offer(p *placement) {
	p.descend()
	if p.energy < s.best.energy {
		s.best.copy(p)
	}
}

func (s *assigning) thermal(sweeps int) {
	s.one.start(s.random)
	for k := range sweeps {
		s.one.sweep(1/(s.hot*math.Pow(0.01, float64(k)/float64(sweeps))), 0, nil, nil, &s.rng)
		if s.stop(1) {
			break
		}
	}
	s.offer(s.one)
}

// quantum is path-integral Monte Carlo with a driver that takes an item from any of its q choices to any other: the choices in two
// neighbouring replicas are the same with a weight larger by ln(1 + q/(exp(q*beta*Gamma/P) - 1)), in temperatures, than that of
// different ones. For q = 2 that is a spin in a transverse field.
func (s *assigning) quantum(sweeps int) {
	p := max(2, s.options.Replicas)
	if s.options.Replicas == 0 {
		p = 4
	}
	for len(s.slices) < p {
		s.slices = append(s.slices, s.newPlacement())
	}
	for _, one := range s.slices {
		one.start(s.random)
	}
	q := float64(len(s.cost)) / float64(s.Items())
	steps := max(1, sweeps/p)
	for k := range steps {
		left := 1 - float64(k)/float64(steps)
		beta := 50 / s.hot / float64(p) * (1.1 - left)
		gamma := left * s.hot / q
		ring := math.Log1p(q / math.Expm1(q*beta*gamma))
		for i, one := range s.slices {
			one.sweep(beta, ring, s.slices[(i+p-1)%p].chosen, s.slices[(i+1)%p].chosen, &s.rng)
		}
		s.lines(beta)
		if s.stop(p) {
			break
		}
	}
	for _, one := range s.slices {
		s.offer(one)
	}
}

// lines offers every item a move of all replicas to one choice where they agree, which leaves the ring as it is.
func (s *assigning) lines(beta float64) {
	for i := range s.Items() {
		u := s.slices[0].chosen[i]
		v := s.first[i] + int32(s.random(i))
		d, agree := 0.0, v != u
		for _, one := range s.slices {
			agree = agree && one.chosen[i] == u
			d += (one.g[v] - one.g[u]) * beta
		}
		if agree && (d <= 0 || d < s.rng.exp()) {
			for _, one := range s.slices {
				one.move(v)
			}
		}
	}
}
