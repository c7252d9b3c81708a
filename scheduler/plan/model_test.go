package plan

import (
	"context"
	"slices"
	"testing"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/circuit"
	"github.com/qenex/qenex-kernel/scheduler/host"
)

// TestModel: the model's energy of every placement is its cost, and its lowest state, found by a look at all, by the annealer and by a
// simulated quantum circuit, is what branch and bound finds.
func TestModel(t *testing.T) {
	ctx := context.Background()
	circuits := 0
	for seed := range uint64(40) {
		r := rng(seed)
		h := host.Synthetic(1, 1, 1, 2, 1+r.IntN(2))
		p := anything(r, 1+r.IntN(16/len(h.CPUs)), h)
		p.Weights = DefaultWeights()
		exact, err := p.Exact(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m, e, err := p.Model()
		if err != nil {
			t.Fatal(err)
		}
		spins, energy, err := anneal.Exact(m)
		if err != nil {
			t.Fatal(err)
		}
		cpu, err := e.Decode(spins)
		if err != nil {
			t.Fatalf("seed %d: the lowest state is no placement: %v", seed, err)
		}
		if c := formula(p, cpu); c.Broken > 0 || !near(c.Total, energy) || !near(energy, exact.Cost.Total) {
			t.Errorf("seed %d: the model's lowest energy is %v, its placement costs %+v, the optimum is %v", seed, energy, c, exact.Cost.Total)
		}
		for range 20 {
			for i := range cpu {
				f, _ := p.field()
				cpu[i] = int(f.items[i].may[r.IntN(len(f.items[i].may))])
			}
			for k, v := range e {
				spins[k] = -1
				if cpu[v.VCPU] == v.CPU {
					spins[k] = 1
				}
			}
			if c := formula(p, cpu); c.Broken == 0 && !near(m.Energy(spins), c.Total) || c.Broken > 0 && m.Energy(spins) <= energy {
				t.Errorf("seed %d: energy %v of a placement that costs %+v", seed, m.Energy(spins), c)
			}
			if back, err := e.Decode(spins); err != nil || !slices.Equal(back, cpu) {
				t.Errorf("seed %d: %v is decoded to %v, error %v", seed, cpu, back, err)
			}
		}
		if m.Spins() > 8 {
			continue
		}
		circuits++
		c, err := circuit.New(m, circuit.Options{Layers: 3})
		if err != nil {
			t.Fatal(err)
		}
		counts, err := c.Execute(4000, seed)
		if err != nil {
			t.Fatal(err)
		}
		found, err := c.Evaluate(counts)
		if err != nil {
			t.Fatal(err)
		}
		if cpu, err := e.Decode(found.Spins); err != nil || !near(formula(p, cpu).Total, exact.Cost.Total) {
			t.Errorf("seed %d: the circuit of %d qubits found %v, energy %v, error %v; the optimum is %v", seed, m.Spins(), cpu, found.Energy, err, exact.Cost.Total)
		}
	}
	if circuits < 10 {
		t.Errorf("%d circuits only", circuits)
	}
}

func TestBadEncodings(t *testing.T) {
	p := two()
	m, e, err := p.Model()
	if err != nil {
		t.Fatal(err)
	}
	for name, spins := range map[string][]int8{"short": {1}, "none": {-1, -1, 1, -1, 1, -1}, "two": {1, 1, 1, -1, 1, -1}} {
		if cpu, err := e.Decode(spins); err == nil {
			t.Errorf("%s: %d spins of %d were decoded to %v", name, len(spins), m.Spins(), cpu)
		}
	}
	if _, _, err := fleet(200, host.Synthetic(1, 1, 1, 16, 2), 1).Model(); err == nil {
		t.Error("a model of 6400 variables: no error")
	}
}

// TestSettings: classes get their numbers; hogs float where pinning would be unfair.
func TestSettings(t *testing.T) {
	p := &Problem{Host: host.Synthetic(1, 1, 1, 2, 1), VCPUs: []VCPU{{Load: 1, Now: -1}, {Load: 1, Now: -1}, {Load: 1, Now: -1}, {Load: 0.01, Latency: true, Now: -1}}}
	pl := &Plan{CPU: []int{0, 0, 1, 1}}
	got := p.Settings(pl)
	for i := range 3 {
		if !slices.Equal(got[i].CPUs, []int{0, 1}) {
			t.Errorf("hog %d of three on two CPUs may run on %v", i, got[i].CPUs)
		}
	}
	if y := DefaultPolicy(); !slices.Equal(got[3].CPUs, []int{0, 1}) || got[3].Slice != y.LatencySlice || got[3].Weight != y.LatencyWeight || got[0].Weight != 0 {
		t.Errorf("a server gets %+v, a hog %+v", got[3], got[0])
	}
	p.VCPUs[0].Pin = []int{0}
	if got := p.Settings(pl); !slices.Equal(got[0].CPUs, []int{0}) || !slices.Equal(got[1].CPUs, []int{0, 1}) {
		t.Errorf("pinned: %v", got)
	}
	p.VCPUs[0].Pin = nil
	p.Separate = true
	p.VCPUs[2].Tenant = "other"
	if got := p.Settings(pl); !slices.Equal(got[0].CPUs, []int{0}) || !slices.Equal(got[2].CPUs, []int{1}) {
		t.Errorf("separate tenants: %v", got)
	}
	p.Separate = false
	if got := p.Settings(&Plan{CPU: []int{0, 1, 1, 0}})[0].CPUs; !slices.Equal(got, []int{0, 1}) {
		t.Errorf("the hog that has a CPU to itself does not share: %v", got)
	}
	p.VCPUs = p.VCPUs[:2]
	if got := p.Settings(&Plan{CPU: []int{0, 1}})[0].CPUs; !slices.Equal(got, []int{0}) {
		t.Errorf("two hogs on two CPUs: %v", got)
	}
	if got := p.SettingsOf(&Plan{CPU: []int{0, 0}}, Policy{}); !slices.Equal(got[0].CPUs, []int{0}) || got[0].Weight != 0 {
		t.Errorf("by no policy: %+v", got)
	}
}
