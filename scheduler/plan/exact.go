package plan

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/host"
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
	best, least := start, f.cost(start)
	if least.Broken == 0 {
		// The better the first is, the more branches are cut.
		s := f.newState()
		s.penalty = f.penalty(start)
		s.start(start)
		if _, err := anneal.Improve(ctx, s, anneal.Options{Method: anneal.SA, Sweeps: 300}); err != nil {
			return nil, err
		}
		if c := f.cost(s.placement()); better(c, least) {
			best, least = s.placement(), c
		}
	}
	calm := *p
	calm.Weights = f.w
	calm.Weights.Core, calm.Weights.Package = 0, 0
	powerless, err := newField(&calm)
	if err != nil {
		return nil, err
	}
	n := len(f.items)
	b := &branch{state: powerless.newState(), ctx: ctx, order: f.order(f.byLoad), levels: f.twins(), quadratic: f.quadratics(), rest: make([]float64, n+1)}
	for d := n - 1; d >= 0; d-- {
		if d == 0 {
			b.state = f.newState()
		}
		b.best, b.least = nil, math.Inf(1)
		if least.Broken == 0 {
			for _, i := range b.order[d:] {
				b.energy += b.place(i, int32(best[i])) + b.talk(i, int32(best[i]))
				b.add(i, int32(best[i]))
			}
			b.best, b.least, b.energy = best, b.energy, 0
			for _, i := range b.order[d:] {
				b.remove(i)
			}
		}
		b.search(d)
		b.rest[d] = b.least
	}
	if n == 0 {
		b.best = best
	}
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

// branch is a search by branch and bound: a state in which the first vCPUs of the order are placed.
type branch struct {
	*state
	ctx       context.Context
	best      []int
	least     float64
	order     []int
	levels    []level
	rest      []float64 // what those from a depth on cost at least among themselves, without power; 0: not known yet
	quadratic []float64
	nodes     int
	ended     bool
}

type way struct {
	cpu  int32
	cost float64
}

// search places the vCPU at a depth of the order, and those after it.
func (b *branch) search(depth int) {
	if depth == len(b.order) {
		if b.energy < b.least {
			b.least, b.best = b.energy, b.placement()
		}
		return
	}
	if b.nodes++; b.nodes%256 == 0 && b.ctx.Err() != nil {
		b.ended = true
	}
	if b.ended {
		return
	}
	if b.bound(depth) >= b.least-1e-12*(1+b.least) {
		return
	}
	i := b.order[depth]
	var ways []way
	for _, p := range b.items[i].may {
		if b.breaks(i, b.cpus[p].core) == 0 && !b.twin(p) {
			ways = append(ways, way{p, b.place(i, p) + b.talk(i, p)})
		}
	}
	slices.SortStableFunc(ways, func(x, y way) int { return cmp.Compare(x.cost, y.cost) })
	before := b.energy
	for _, w := range ways {
		b.add(i, w.cpu)
		b.energy = before + w.cost
		b.search(depth + 1)
		b.remove(i)
	}
	b.energy = before
}

// bound returns what no placement that goes on from here can cost less than: the most of three. All costs of pairs are 0 or more, so that
// those of two vCPUs which are both not placed yet may be left out. Or their crowding and SMT are counted, by spreading their load like
// water over the cores. Or they cost among themselves what they would cost without those that are placed, which was found before (Russian doll
// search). Power is left out.
func (b *branch) bound(depth int) float64 {
	all, calm, apart, load := 0.0, 0.0, 0.0, 0.0 // the least each costs: in all, but for crowding and SMT, and with those that are placed
	for _, i := range b.order[depth:] {
		it := &b.items[i]
		least, calmest, apartest := math.Inf(1), math.Inf(1), math.Inf(1)
		load += it.load
		for _, p := range it.may {
			c := &b.cpus[p]
			if b.breaks(i, c.core) > 0 {
				continue
			}
			x := b.place(i, p) + b.talk(i, p)
			if !it.simple {
				x -= b.power(b.onCore[c.core], b.onPkg[c.pkg])
			}
			alone := c.inv*it.self + c.pressed*it.cache*it.cache
			if it.now >= 0 {
				alone += b.w.Migration * float64(b.dist[int(it.now)*len(b.cpus)+int(p)])
			}
			least, apartest = min(least, x), min(apartest, x-alone)
			calmest = min(calmest, x-b.w.Crowding*c.inv*it.load*(it.load+2*c.load)-c.smt*it.load*(b.coreLoad[c.core]-c.load))
		}
		all += least
		calm += calmest
		apart += apartest
	}
	return b.energy + max(all, calm+b.flood(load), apart+b.rest[depth])
}

// flood returns by how much crowding and SMT grow at least if so much load is added: a core with load S costs k*S^2 or more, however its
// threads share it.
func (b *branch) flood(load float64) float64 {
	before := 0.0
	type core struct{ k, load float64 }
	cores := make([]core, b.cores)
	for _, c := range b.cpus {
		before += b.w.Crowding*c.inv*c.load*c.load + c.smt*c.load*(b.coreLoad[c.core]-c.load)/2
		cores[c.core] = core{b.quadratic[c.core], b.coreLoad[c.core]}
	}
	slices.SortFunc(cores, func(x, y core) int { return cmp.Compare(x.k*x.load, y.k*y.load) })
	// The first cores, as many as load suffices for, get one k*S; if one's k is 0, it takes all.
	after, sum, room := 0.0, load, 0.0
	for n, c := range cores {
		if c.k == 0 {
			room = math.Inf(1)
		} else {
			room += 1 / c.k
		}
		sum += c.load
		if n+1 == len(cores) || sum/room <= cores[n+1].k*cores[n+1].load {
			for _, c := range cores[n+1:] {
				after += c.k * c.load * c.load
			}
			break
		}
	}
	return after + sum*sum/room - before
}

// quadratics returns, for every core, the k of flood. Of threads that share S, crowding costs S^2/C or more, C being the sum of their
// capacities; where they are equal, sharing evenly or not at all is best.
func (f *field) quadratics() []float64 {
	type shape struct{ threads, capacity, least, most, smt float64 }
	shapes := make([]shape, f.cores)
	for _, c := range f.cpus {
		s := &shapes[c.core]
		if s.threads == 0 {
			s.least = math.Inf(1)
		}
		x := 1 / c.inv
		s.threads, s.capacity, s.least, s.most, s.smt = s.threads+1, s.capacity+x, min(s.least, x), max(s.most, x), c.smt
	}
	out := make([]float64, f.cores)
	for k, s := range shapes {
		out[k] = f.w.Crowding / s.capacity
		if s.least == s.most {
			out[k] = min(f.w.Crowding/s.most, f.w.Crowding/s.capacity+s.smt*(s.threads-1)/(2*s.threads))
		}
	}
	return out
}

// level is a level of a host: the groups of CPUs that are one core, one cache and so on.
type level struct {
	group []int   // of every CPU
	twins [][]int // of every group: those before it in the same group of the level above, and like it in all that matters
}

// twins finds groups of CPUs that could change places without a change to any cost. Where groups of one level are not within those of the
// next, none are looked for.
func (f *field) twins() []level {
	h := f.p.Host.CPUs
	above := make([]int, len(h)) // the group of the level above, of every CPU
	var levels []level
	for _, of := range []func(host.CPU) int{
		func(c host.CPU) int { return c.Package }, func(c host.CPU) int { return c.Node }, func(c host.CPU) int { return c.LLC },
		func(c host.CPU) int { return c.Core }, func(c host.CPU) int { return c.ID },
	} {
		ids, l := dense[int]{}, level{group: make([]int, len(h))}
		parent := map[int]int{}
		for p, c := range h {
			g := int(ids.of(of(c)))
			if q, ok := parent[g]; ok && q != above[p] {
				return nil
			}
			l.group[p], parent[g] = g, above[p]
		}
		l.twins = make([][]int, len(ids))
		for g := range l.twins {
			for e := range g {
				if parent[e] == parent[g] && f.alike(l.group, e, g) {
					l.twins[g] = append(l.twins[g], e)
				}
			}
		}
		above = l.group
		levels = append(levels, l)
	}
	return levels
}

// alike says whether the CPUs of two groups, taken in order, are alike: capacity, what they share among themselves, who may run there.
// Where a vCPU runs now, no group is like another.
func (f *field) alike(group []int, e, g int) bool {
	var x, y []int
	for p, k := range group {
		switch k {
		case e:
			x = append(x, p)
		case g:
			y = append(y, p)
		}
	}
	if len(x) != len(y) {
		return false
	}
	for k, p := range x {
		q := y[k]
		if f.cpus[p].inv != f.cpus[q].inv {
			return false
		}
		for m := range k {
			if f.dist[p*len(f.cpus)+x[m]] != f.dist[q*len(f.cpus)+y[m]] {
				return false
			}
		}
		for i := range f.items {
			it := &f.items[i]
			if int(it.now) == p || int(it.now) == q || slices.Contains(it.may, int32(p)) != slices.Contains(it.may, int32(q)) {
				return false
			}
		}
	}
	return true
}

// twin says that a CPU need not be tried: it is in an empty group, and another one like it is empty too and is tried.
func (b *branch) twin(p int32) bool {
	for _, l := range b.levels {
		empty := func(g int) bool {
			return !slices.ContainsFunc(b.at, func(q int32) bool { return q >= 0 && l.group[q] == g })
		}
		g := l.group[p]
		if len(l.twins[g]) > 0 && empty(g) && slices.ContainsFunc(l.twins[g], empty) {
			return true
		}
	}
	return false
}
