package anneal

import (
	"context"
	"fmt"
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

// Choices is how many choices an item has.
func (p *placement) Choices(i int) int { return int(p.first[i+1] - p.first[i]) }

// Choice is an item's choice.
func (p *placement) Choice(i int) int { return int(p.chosen[i] - p.first[i]) }

// Energy is the cost without the offset.
func (p *placement) Energy() float64 { return p.energy }

// Delta is what a move costs.
func (p *placement) Delta(i, choice int) float64 {
	return p.g[int(p.first[i])+choice] - p.g[p.chosen[i]]
}

// Deltas is what all moves of an item cost.
func (p *placement) Deltas(i int, out []float64) {
	now := p.g[p.chosen[i]]
	for k, g := range p.g[p.first[i]:p.first[i+1]] {
		out[k] = g - now
	}
}

// Move changes an item's choice.
func (p *placement) Move(i, choice int, delta float64) {
	v := p.first[i] + int32(choice)
	p.energy += delta
	p.add(p.chosen[i], -1)
	p.add(v, 1)
	p.chosen[i] = v
}

// Exchange lets items with equally many choices take each other's.
func (p *placement) Exchange(i, j int) (ci, cj int, ok bool) {
	ci, cj = p.Choice(j), p.Choice(i)
	return ci, cj, ci != cj && p.Choices(i) == p.Choices(j)
}

// Clone returns a copy.
func (p *placement) Clone() Landscape {
	c := p.newPlacement()
	c.Copy(p)
	return c
}

// Copy makes it the same as another of the same assignment.
func (p *placement) Copy(from Landscape) {
	f := from.(*placement)
	copy(p.chosen, f.chosen)
	copy(p.g, f.g)
	p.energy = f.energy
}

// Placed is what SolveAssignment found.
type Placed struct {
	Choices []int   // of every item, from 0
	Energy  float64 // the problem's energy of Choices
	Sweeps  int     // sweeps done: in one, every item was offered a move in one replica
	Elapsed time.Duration
}

// SolveAssignment searches choices of low energy, as Improve does. The search begins at start, if it is not nil: the result is never
// worse.
func SolveAssignment(ctx context.Context, a *Assignment, start []int, o Options) (*Placed, error) {
	begun := time.Now()
	if err := o.checkLandscape(); err != nil {
		return nil, err
	}
	p, r := a.newPlacement(), newRNG(o.Seed, 1)
	if start == nil {
		p.start(func(i int) int { return r.below(p.Choices(i)) })
	} else {
		if len(start) != a.Items() {
			return nil, fmt.Errorf("anneal: a start of %d items for a problem of %d", len(start), a.Items())
		}
		for i, c := range start {
			if c < 0 || c >= p.Choices(i) {
				return nil, fmt.Errorf("anneal: the start has choice %d of item %d, which has %d", c, i, p.Choices(i))
			}
		}
		p.start(func(i int) int { return start[i] })
	}
	sweeps, err := improve(ctx, p, o, start == nil)
	if err != nil {
		return nil, err
	}
	placed := &Placed{Choices: make([]int, a.Items()), Sweeps: sweeps}
	for i := range placed.Choices {
		placed.Choices[i] = p.Choice(i)
	}
	placed.Energy = a.Energy(placed.Choices)
	placed.Elapsed = time.Since(begun)
	return placed, nil
}
