package plan

import (
	"fmt"
	"math/rand/v2"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// fleet is a host's worth of guests: gangs that share locks, pairs that talk, batch jobs and servers that wake briefly, in guests of one
// to eight vCPUs, two thirds of them with a CPU where they run now.
func fleet(vcpus int, h *host.Topology, seed uint64) *Problem {
	r := rand.New(rand.NewPCG(seed, 7))
	p := &Problem{Host: h}
	// As many as keep most CPUs busy.
	busy := min(1, 1.6*float64(len(h.CPUs))/float64(vcpus))
	for vm := 0; len(p.VCPUs) < vcpus; vm++ {
		n := min([]int{1, 2, 4, 8}[r.IntN(4)], vcpus-len(p.VCPUs))
		kind, first := r.IntN(4), len(p.VCPUs)
		for k := range n {
			v := VCPU{Name: fmt.Sprintf("vm%d/vcpu%d", vm, k), Tenant: fmt.Sprint("tenant", r.IntN(5)), Now: -1, Cache: r.Float64() * r.Float64()}
			if r.IntN(3) > 0 {
				v.Now = h.CPUs[r.IntN(len(h.CPUs))].ID
			}
			switch kind {
			case 0:
				v.Gang, v.Load = vm+1, busy*(0.5+0.5*r.Float64())
			case 1:
				v.Load = busy * (0.2 + 0.4*r.Float64())
				if k > 0 {
					p.Links = append(p.Links, Link{first + k - 1, first + k, 1e5 * r.Float64() * r.Float64(), r.Float64()})
				}
			case 2:
				v.Load = busy
			default:
				v.Load, v.Latency = 0.2*busy*r.Float64(), true
				if k > 0 {
					p.Links = append(p.Links, Link{first, first + k, 1e4 * r.Float64(), r.Float64()})
				}
			}
			p.VCPUs = append(p.VCPUs, v)
		}
	}
	return p
}

// anything is a small problem that uses every part of the model, and can be solved.
func anything(r *rand.Rand, vcpus int, h *host.Topology) *Problem {
	for {
		p := fleet(vcpus, h, r.Uint64())
		for i := range p.VCPUs {
			if r.IntN(5) == 0 {
				p.VCPUs[i].Pin = []int{}
				for _, c := range h.CPUs {
					if r.IntN(2) == 0 {
						p.VCPUs[i].Pin = append(p.VCPUs[i].Pin, c.ID)
					}
				}
			}
			if i > 0 && r.IntN(8) == 0 {
				p.Apart = append(p.Apart, [2]int{i, r.IntN(i)})
			}
		}
		if p.Separate = r.IntN(6) == 0; p.Separate {
			for i := range p.VCPUs {
				p.VCPUs[i].Tenant = fmt.Sprint("tenant", r.IntN(2))
			}
		}
		if r.IntN(3) == 0 {
			p.Weights = DefaultWeights()
			p.Weights.Core, p.Weights.Package = 0.3*r.Float64(), 0.3*r.Float64()
		}
		if f, err := p.field(); err == nil && f.cost(f.begin()).Broken == 0 {
			return p
		}
	}
}

// small are hosts of 1 to 8 CPUs.
func small(r *rand.Rand) *host.Topology {
	shapes := [][5]int{{1, 1, 1, 1, 1}, {1, 1, 1, 2, 1}, {1, 1, 1, 1, 2}, {1, 1, 1, 2, 2}, {1, 1, 2, 2, 1}, {2, 1, 1, 2, 1}, {2, 1, 1, 1, 2}, {1, 1, 1, 4, 2}, {2, 1, 1, 2, 2}, {1, 1, 2, 2, 2}, {1, 2, 1, 3, 1}}
	s := shapes[r.IntN(len(shapes))]
	h := host.Synthetic(s[0], s[1], s[2], s[3], s[4])
	if r.IntN(4) == 0 {
		for i := range h.CPUs {
			if h.CPUs[i].Core%2 == 1 {
				h.CPUs[i].Capacity = 0.5
			}
		}
	}
	return h
}
