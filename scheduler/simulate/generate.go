package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// Mixes are the kinds of generated traces.
var Mixes = []string{"gangs", "pingpong", "batch", "servers", "mixed"}

// Sizes are those of generated traces and their hosts.
var Sizes = []string{"small", "medium", "large"}

// Seeds of generated traces. Defaults may be chosen by what traces of training seeds show, and figures are published of held-out ones:
// the two ranges share nothing.
const (
	firstTraining = 1
	firstHeldOut  = 1_000_001
	seedsInRange  = 1_000_000
)

// Training returns the n-th training seed; n counts from 0 and wraps at a million.
func Training(n int) uint64 { return firstTraining + uint64(n)%seedsInRange }

// HeldOut returns the n-th held-out seed; n counts from 0 and wraps at a million.
func HeldOut(n int) uint64 { return firstHeldOut + uint64(n)%seedsInRange }

// HostOf returns the host of a size: two CPUs; 16 cores of two threads in two caches; two packages of 64 cores of two threads.
func HostOf(size string) (*host.Topology, error) {
	switch size {
	case "small":
		return host.Synthetic(1, 1, 1, 2, 1), nil
	case "medium":
		return host.Synthetic(1, 1, 2, 8, 2), nil
	case "large":
		return host.Synthetic(2, 1, 8, 8, 2), nil
	}
	return nil, fmt.Errorf("size %.40q is none of %v", size, Sizes)
}

// maker makes the vCPUs of a trace.
type maker struct {
	t     *Trace
	rand  *rand.Rand
	locks int
	chans int
	gangs int
	vms   int
	total time.Duration // CPU time that a batch hog computes
}

const (
	us = time.Microsecond
	ms = time.Millisecond
)

// Generate makes a trace of a mix for a size of host: the same arguments, the same trace.
func Generate(kind, size string, seed uint64) (*Trace, error) {
	if !slices.Contains(Mixes, kind) {
		return nil, fmt.Errorf("mix %.40q is none of %v", kind, Mixes)
	}
	if _, err := HostOf(size); err != nil {
		return nil, err
	}
	g := &maker{t: &Trace{Header: Header{Version: 1, Kind: kind, Size: size, Seed: seed, Length: time.Minute}},
		rand: rand.New(rand.NewPCG(seed, 0x5eed))}
	g.total = map[string]time.Duration{"small": 5000 * ms, "medium": 3000 * ms, "large": 600 * ms}[size]
	pick := func(small [2]int, medium, large int) int {
		switch size {
		case "small":
			return small[0] + g.rand.IntN(small[1]-small[0]+1)
		case "medium":
			return medium*9/10 + g.rand.IntN(medium/5+1)
		}
		return large
	}
	switch kind {
	case "gangs":
		g.many(pick([2]int{1, 2}, 12, 320), g.gang)
		g.many(pick([2]int{2, 4}, 32, 720), g.hog)
	case "pingpong":
		g.many(pick([2]int{1, 3}, 24, 500), g.pair)
		g.many(pick([2]int{2, 5}, 40, 1000), g.hog)
	case "batch":
		g.many(pick([2]int{4, 12}, 96, 2000), g.hog)
	case "servers":
		g.many(pick([2]int{2, 6}, 48, 1000), g.server)
		g.many(pick([2]int{2, 6}, 48, 1000), g.hog)
	case "mixed":
		g.many(pick([2]int{1, 1}, 6, 150), g.gang)
		g.many(pick([2]int{1, 1}, 10, 200), g.pair)
		g.many(pick([2]int{1, 3}, 24, 500), g.server)
		g.many(pick([2]int{2, 4}, 24, 500), g.hog)
	}
	g.rand.Shuffle(len(g.t.VCPUs), func(i, j int) { g.t.VCPUs[i], g.t.VCPUs[j] = g.t.VCPUs[j], g.t.VCPUs[i] })
	return g.t, g.t.Check()
}

func (g *maker) many(n int, make func()) {
	for range n {
		make()
	}
}

// about returns a duration within a share of d.
func (g *maker) about(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*g.rand.Float64()-1)))
}

func (g *maker) vm(kind string, cache float64, programs ...VCPU) {
	name := fmt.Sprintf("%s%d", kind, g.vms)
	g.vms++
	for i, v := range programs {
		v.Name, v.VM, v.Tenant, v.Cache = fmt.Sprintf("%s/vcpu%d", name, i), name, name, cache
		v.Start = time.Duration(g.rand.Int64N(int64(20 * ms)))
		g.t.VCPUs = append(g.t.VCPUs, v)
	}
}

// hog computes and nothing else, in bursts that end at nothing.
func (g *maker) hog() {
	g.vm("hog", 0.3+0.7*g.rand.Float64(), VCPU{Program: []Op{{Op: Compute, Time: g.about(g.total, 0.05)}}})
}

// gang is a VM of two vCPUs, or up to four where there are CPUs for them, that share a spinlock: alone, each would hold it for a third or a fifth of its time.
func (g *maker) gang() {
	n := 2
	if g.t.Size != "small" {
		n += 2 * g.rand.IntN(2) // 2 or 4
	}
	g.gangs++
	hold := time.Duration(float64(20*us) * math.Pow(6, g.rand.Float64())) // 20 to 120 us
	work := time.Duration(n) * hold
	passes := int(g.total / 2 / (work + hold))
	vcpus := make([]VCPU, n)
	for i := range vcpus {
		vcpus[i] = VCPU{Gang: g.gangs, Passes: passes, Program: []Op{{Op: Compute, Time: work, Jitter: 0.5}, {Op: Lock, ID: g.locks, Time: hold, Jitter: 0.5}}}
	}
	g.locks++
	g.vm("gang", 0.3+0.5*g.rand.Float64(), vcpus...)
}

// pair is two VMs of one vCPU that send each other messages, one at a time.
func (g *maker) pair() {
	work := g.about(30*us, 0.5)
	passes := int(g.total / 6 / work)
	a, b := g.chans, g.chans+1
	g.chans += 2
	cache := 0.1 + 0.3*g.rand.Float64()
	g.vm("ping", cache, VCPU{Passes: passes, Program: []Op{{Op: Compute, Time: work, Jitter: 0.3}, {Op: Send, ID: a}, {Op: Recv, ID: b}}})
	g.vm("pong", cache, VCPU{Passes: passes, Program: []Op{{Op: Recv, ID: a}, {Op: Compute, Time: work, Jitter: 0.3}, {Op: Send, ID: b}}})
}

// server answers requests that come by chance; where eight vCPUs share a CPU, so few that a fair share of it is enough.
func (g *maker) server() {
	period := 2 * ms
	if g.t.Size == "large" {
		period = 8 * ms
	}
	g.vm("server", 0.1+0.4*g.rand.Float64(), VCPU{Forever: true, Program: []Op{
		{Op: Every, Time: g.about(period, 0.5), Exp: true}, {Op: Compute, Time: g.about(150*us, 0.5), Exp: true}}})
}
