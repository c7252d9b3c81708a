package plan

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// MaxExact is how many vCPUs Exact places at most.
const MaxExact = 12

// Exact finds a plan of least cost by branch and bound, the longer the more vCPUs and unlike CPUs there are. If ctx ends first, that is
// an error.
func (p *Problem) Exact(ctx context.Context) (*Plan, error) {
	begun := time.Now()
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	if len(f.items) > MaxExact {
		return nil, fmt.Errorf("plan: branch and bound of %d vCPUs: at most %d", len(f.items), MaxExact)
	}
	start := f.begin()
	b := &branch{state: f.newState(), ctx: ctx, best: start, least: f.cost(start).Total, order: f.order(f.byLoad)}
	if f.cost(start).Broken > 0 {
		b.best, b.least = nil, math.Inf(1)
	}
	b.row = make([][]float64, len(f.items))
	b.go1(0)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("plan: branch and bound: %w", err)
	}
	if b.best == nil {
		return nil, fmt.Errorf("plan: no placement keeps all constraints; the best that is known breaks: %s: %w", f.broken(start), ErrContradiction)
	}
	pl, err := f.plan(b.best, "exact", begun)
	if err == nil {
		pl.Exact = true
	}
	return pl, err
}

type branch struct {
	*state
	ctx   context.Context
	best  []int
	least float64
	order []int
	row   [][]float64
	nodes int
}

// go1 places the vCPU at a depth of the order.
func (b *branch) go1(depth int) {
	if depth == len(b.order) {
		b.least, b.best = b.energy, b.placement()
		return
	}
	if b.nodes++; b.nodes%1024 == 0 && b.ctx.Err() != nil {
		return
	}
	i := b.order[depth]
	type way struct {
		cpu  int32
		cost float64
	}
	var ways []way
	for _, p := range b.items[i].may {
		if b.breaks(i, b.cpus[p].core) == 0 {
			ways = append(ways, way{p, b.place(i, p) + b.talk(i, p)})
		}
	}
	slices.SortStableFunc(ways, func(x, y way) int {
		if x.cost < y.cost {
			return -1
		}
		return 1
	})
	before := b.energy
	for _, w := range ways {
		b.add(i, w.cpu)
		b.energy = before + w.cost
		if b.energy < b.least-1e-12 {
			b.go1(depth + 1)
		}
		b.remove(i)
	}
	b.energy = before
}
