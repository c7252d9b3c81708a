package plan

import (
	"fmt"
	"slices"
)

// field is a problem laid out for fast answers: dense numbers in place of names, and coefficients of every vCPU. It does not change.
type field struct {
	p     *Problem
	w     Weights
	cpus  []cpu
	dist  []uint8 // of CPUs p and q at p*len(cpus)+q
	cores int
	llcs  int
	pkgs  int
	gangs int // of two members and more
	items []item
	links [][]link
	apart [][]int32
	// tenants is how many there are, 0 if they need not be separated.
	tenants int
}

type cpu struct {
	inv            float64 // 1/capacity
	smt            float64 // SMT/C of its core
	pressed        float64 // Cache/n of its cache
	core, llc, pkg int32   // dense
}

// item is a vCPU. The cost of its place on a CPU is inv*(self + load*byLoad + ...), of what others are there.
type item struct {
	load, cache, latency                  float64
	self, byLoad, byGang, byMates, byWake float64
	gang, tenant                          int32 // from 0; -1: none
	inGang                                float64
	now                                   int32 // -1: unknown
	may                                   []int32
	simple                                bool // neither constraints with others nor power
}

type link struct {
	to    int32
	w     float64 // for each unit of distance
	apart float64 // on different CPUs
}

func (l *link) cost(distance uint8) float64 {
	e := l.w * float64(distance)
	if distance > 0 {
		e += l.apart
	}
	return e
}

// dense numbers keys in the order of their first appearance.
type dense[K comparable] map[K]int32

func (d dense[K]) of(k K) int32 {
	n, ok := d[k]
	if !ok {
		n = int32(len(d))
		d[k] = n
	}
	return n
}

// newField lays out a problem whose numbers were checked. A pin that leaves no CPU is an error.
func newField(p *Problem) (*field, error) {
	w := p.weights()
	f := &field{p: p, w: w, cpus: make([]cpu, len(p.Host.CPUs)), items: make([]item, len(p.VCPUs))}
	cores, llcs, pkgs := dense[int]{}, dense[int]{}, dense[int]{}
	var capacities, threads, sharers []float64
	all := make([]int32, len(f.cpus))
	for i, c := range p.Host.CPUs {
		all[i] = int32(i)
		f.cpus[i] = cpu{inv: 1 / c.Capacity, core: cores.of(c.Core), llc: llcs.of(c.LLC), pkg: pkgs.of(c.Package)}
		if len(cores) > len(capacities) {
			capacities, threads = append(capacities, 0), append(threads, 0)
		}
		if len(llcs) > len(sharers) {
			sharers = append(sharers, 0)
		}
		capacities[f.cpus[i].core] += c.Capacity
		threads[f.cpus[i].core]++
		sharers[f.cpus[i].llc]++
	}
	for i := range f.cpus {
		c := &f.cpus[i]
		c.smt, c.pressed = w.SMT*threads[c.core]/capacities[c.core], w.Cache/sharers[c.llc]
	}
	f.cores, f.llcs, f.pkgs = len(cores), len(llcs), len(pkgs)
	f.dist = make([]uint8, len(f.cpus)*len(f.cpus))
	for i := range f.cpus {
		for j := range f.cpus {
			f.dist[i*len(f.cpus)+j] = uint8(p.Host.Distance(i, j))
		}
	}
	members := map[int]int{}
	for _, v := range p.VCPUs {
		members[v.Gang]++
	}
	gangs, tenants := dense[int]{}, dense[string]{}
	for i, v := range p.VCPUs {
		it := item{load: v.Load, cache: v.Cache, gang: -1, tenant: -1, now: -1, may: all}
		it.self = w.Crowding * v.Load * v.Load
		it.byLoad, it.byGang, it.byWake = 2*w.Crowding*v.Load, w.Mixed*v.Load, w.Latency*v.Load
		if v.Latency {
			it.latency = 1
			it.byLoad += w.Latency
		}
		if v.Gang != 0 && members[v.Gang] > 1 {
			it.gang, it.inGang = gangs.of(v.Gang), 1
			it.byLoad += w.Mixed * v.Load
			it.byMates = (w.Gang - 2*w.Mixed) * v.Load // mates were counted as strangers
		}
		if p.Separate {
			it.tenant = tenants.of(v.Tenant)
		}
		if k, ok := p.Host.Index(v.Now); ok {
			it.now = int32(k)
		}
		if v.Pin != nil {
			it.may = nil
			for _, id := range v.Pin {
				if k, ok := p.Host.Index(id); ok {
					it.may = append(it.may, int32(k))
				}
			}
			slices.Sort(it.may)
			it.may = slices.Compact(it.may)
			if len(it.may) == 0 {
				return nil, fmt.Errorf("plan: %s is pinned to CPUs %v, and the host has none of them: %w", p.name(i), v.Pin, ErrContradiction)
			}
		}
		f.items[i] = it
	}
	f.gangs, f.tenants = len(gangs), len(tenants)
	f.links, f.apart = make([][]link, len(f.items)), make([][]int32, len(f.items))
	for _, l := range p.Links {
		a, b := &f.items[l.A], &f.items[l.B]
		apart := l.Alternate * (2*w.Crowding*a.load*b.load + w.Latency*(a.latency*b.load+b.latency*a.load))
		if wt := w.Link * l.Rate; wt+apart > 0 {
			f.links[l.A] = append(f.links[l.A], link{int32(l.B), wt, apart})
			f.links[l.B] = append(f.links[l.B], link{int32(l.A), wt, apart})
		}
	}
	for _, a := range p.Apart {
		f.apart[a[0]] = append(f.apart[a[0]], int32(a[1]))
		f.apart[a[1]] = append(f.apart[a[1]], int32(a[0]))
	}
	for i := range f.items {
		f.items[i].simple = !p.Separate && len(f.apart[i]) == 0 && w.Core+w.Package == 0
	}
	return f, nil
}

// cost adds up all terms.
func (f *field) cost(cpu []int) Cost {
	s := f.newState()
	c := Cost{}
	for i, p := range cpu {
		it := &f.items[i]
		if _, ok := slices.BinarySearch(it.may, int32(p)); !ok {
			c.Broken++
		}
		if it.now >= 0 {
			c.Migration += f.w.Migration * float64(f.dist[int(it.now)*len(f.cpus)+p])
		}
		for _, l := range f.links[i] {
			if int(l.to) < i {
				c.Links += l.cost(f.dist[p*len(f.cpus)+cpu[l.to]])
			}
		}
		here := &s.cpus[p]
		k := here.core
		c.Broken += s.breaks(i, k)
		mates := 0.0
		if it.gang >= 0 {
			mates = s.mates[int(it.gang)*len(f.cpus)+p]
		}
		c.Crowding += f.w.Crowding * here.inv * it.load * (it.load + 2*here.load)
		c.SMT += here.smt * it.load * (s.coreLoad[k] - here.load)
		c.Cache += here.pressed * it.cache * (it.cache + 2*s.cache[here.llc])
		c.Gang += here.inv * it.load * (f.w.Gang*mates + f.w.Mixed*(it.inGang*(here.load-mates)+here.gangs-mates))
		c.Latency += f.w.Latency * here.inv * (it.latency*here.load + it.load*here.wakers)
		c.Power += s.power(s.onCore[k], s.onPkg[here.pkg])
		s.add(i, int32(p))
	}
	c.Total = sum(c)
	return c
}
