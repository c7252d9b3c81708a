package plan

import (
	"slices"
	"time"
)

// Setting is what to apply to a vCPU.
type Setting struct {
	CPUs   []int         `json:"cpus,omitempty"`   // IDs; nil: leave
	Weight int           `json:"weight,omitempty"` // of cgroup v2, 1 to 10000; 0: leave
	Slice  time.Duration `json:"slice,omitempty"`  // in nanoseconds; 0: leave
	Quota  float64       `json:"quota,omitempty"`  // CPUs; 0: none
}

// Policy is the numbers by which a plan becomes settings. A weight or slice of 0 leaves what is.
type Policy struct {
	// LatencyWeight is for vCPUs that wake briefly, have no links, and loads of LatencyLoad at most: more would be taken from the others.
	LatencyWeight int // of cgroup v2
	LatencyLoad   float64
	LatencySlice  time.Duration // of EEVDF: who has a short one is served soon after it wakes
	// GangSlice is for members of gangs, and LongSlice for all others, if they share their CPUs with none who wakes briefly; where others
	// meet members of gangs, GangSlice is for all. The more share a CPU, the shorter they are, so that all had their turn after GangRound or
	// LongRound.
	GangSlice, LongSlice time.Duration
	GangRound, LongRound time.Duration
	// Unfair is how much more of its load one batch vCPU of a cache may get than another before those that share it float over their
	// CPUs; 0: they never float.
	Unfair float64
}

// DefaultPolicy serves those who wake briefly at once, and lets the others run long where that keeps nobody waiting: a guest that is
// interrupted while it holds a lock lets others spin, and to interrupt one at all is dear. BENCHMARKS.md has what that wins.
func DefaultPolicy() Policy {
	return Policy{LatencyWeight: 932, LatencyLoad: 0.3, LatencySlice: 100 * time.Microsecond, GangSlice: 40 * time.Millisecond, LongSlice: 100 * time.Millisecond,
		GangRound: 120 * time.Millisecond, LongRound: 300 * time.Millisecond, Unfair: 1.1}
}

// Settings says what to apply to every vCPU, by DefaultPolicy.
func (p *Problem) Settings(pl *Plan) []Setting { return p.SettingsOf(pl, DefaultPolicy()) }

// SettingsOf says what to apply to every vCPU: the CPU it is pinned to; or the CPUs of one cache, over which it floats, if it wakes
// briefly, or has no links and pinning would be unfair; and weight and slice by class. The plan must be one of this problem.
func (p *Problem) SettingsOf(pl *Plan, y Policy) []Setting {
	out, floats := make([]Setting, len(p.VCPUs)), make([]bool, len(p.VCPUs))
	for i, v := range p.VCPUs {
		out[i] = Setting{CPUs: []int{p.Host.CPUs[pl.CPU[i]].ID}}
		floats[i] = v.Gang == 0 && v.Load > 0
	}
	for _, l := range p.Links {
		floats[l.A], floats[l.B] = floats[l.A] && l.Rate == 0, floats[l.B] && l.Rate == 0
	}
	for i, v := range p.VCPUs {
		if v.Latency && floats[i] && v.Load <= y.LatencyLoad {
			out[i].Weight = y.LatencyWeight
		}
	}
	for _, a := range p.Apart {
		floats[a[0]], floats[a[1]] = false, false
	}
	inCache := map[int][]int{} // IDs of CPUs
	for _, c := range p.Host.CPUs {
		inCache[c.LLC] = append(inCache[c.LLC], c.ID)
	}
	// Those of one cache, and of one tenant where tenants share no core, float together.
	type group struct {
		llc    int
		tenant string
	}
	groups := map[group][]int{}
	load := make([]float64, len(p.Host.CPUs))
	for i, v := range p.VCPUs {
		load[pl.CPU[i]] += v.Load
		if v.Latency && floats[i] && !p.Separate {
			out[i].CPUs = v.allowed(inCache[p.Host.CPUs[pl.CPU[i]].LLC]) // it wakes where there is room
		} else if floats[i] && y.Unfair > 0 && !v.Latency {
			g := group{llc: p.Host.CPUs[pl.CPU[i]].LLC}
			if p.Separate {
				g.tenant = v.Tenant
			}
			groups[g] = append(groups[g], i)
		}
	}
	for _, members := range groups {
		var ids []int
		least, most := 1.0, 0.0
		for _, i := range members {
			c := p.Host.CPUs[pl.CPU[i]]
			ids = append(ids, c.ID)
			if !p.Separate {
				ids = append(ids, inCache[c.LLC]...)
			}
			got := min(1, c.Capacity/load[pl.CPU[i]])
			least, most = min(least, got), max(most, got)
		}
		if most <= y.Unfair*least {
			continue
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		for _, i := range members {
			out[i].CPUs = p.VCPUs[i].allowed(ids)
		}
	}
	soon, spun := map[int]bool{}, map[int]bool{} // CPUs that somebody needs soon, or that somebody may spin for
	sharers := map[int]float64{}
	for i, v := range p.VCPUs {
		for _, id := range out[i].CPUs {
			if v.Load > 0 {
				sharers[id] += 1 / float64(len(out[i].CPUs))
			}
			soon[id] = soon[id] || v.Latency && v.Load > 0
			spun[id] = spun[id] || v.Gang != 0
		}
	}
	for i, v := range p.VCPUs {
		on := func(cpus map[int]bool) bool {
			return slices.ContainsFunc(out[i].CPUs, func(id int) bool { return cpus[id] })
		}
		switch {
		case v.Latency:
			out[i].Slice = y.LatencySlice
		case on(soon):
		case on(spun):
			out[i].Slice = turn(y.GangSlice, y.GangRound, out[i].CPUs, sharers)
		default:
			out[i].Slice = turn(y.LongSlice, y.LongRound, out[i].CPUs, sharers)
		}
	}
	return out
}

// turn returns a slice, or less where that many share one of the CPUs that it would be too long until all had theirs.
func turn(slice, round time.Duration, cpus []int, sharers map[int]float64) time.Duration {
	most := 1.0
	for _, id := range cpus {
		most = max(most, sharers[id])
	}
	if round == 0 {
		return slice
	}
	return min(slice, time.Duration(float64(round)/most))
}

// allowed returns those of some CPUs that the vCPU may run on.
func (v *VCPU) allowed(ids []int) []int {
	return slices.DeleteFunc(slices.Clone(ids), func(id int) bool { return v.Pin != nil && !slices.Contains(v.Pin, id) })
}
