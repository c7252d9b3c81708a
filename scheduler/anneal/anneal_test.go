package anneal

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// randomModel has fields and couplings that are no integers, or integers.
func randomModel(n, couplings int, seed uint64, whole bool) *Model {
	r := rand.New(rand.NewPCG(seed, 44))
	value := func() float64 {
		if whole {
			return float64(r.IntN(9) - 4)
		}
		return r.NormFloat64()
	}
	h := make([]float64, n)
	for i := range h {
		h[i] = value()
	}
	var pairs []Coupling
	for n > 1 && len(pairs) < couplings {
		if i, j := r.IntN(n), r.IntN(n); i != j {
			pairs = append(pairs, Coupling{i, j, value()})
		}
	}
	return must(NewIsing(h, pairs, value()))
}

// long leaves out, under -short, what takes the race detector long and has one goroutine.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and with nothing to race")
	}
}

func solve(t *testing.T, m *Model, o Options) *Result {
	t.Helper()
	res, err := Solve(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Spins) != m.Spins() || slices.ContainsFunc(res.Spins, func(s int8) bool { return s != 1 && s != -1 }) {
		t.Fatalf("%s: spins %v", o.Method, res.Spins)
	}
	if got := m.Energy(res.Spins); got != res.Energy {
		t.Fatalf("%s: energy %v is given as %v", o.Method, got, res.Energy)
	}
	return res
}

// methodsFor leaves out what cannot solve m.
func methodsFor(m *Model) []Method {
	return slices.DeleteFunc(Methods(), func(method Method) bool {
		_, err := newPacked(m)
		return method == MultiSpin && err != nil
	})
}

// TestExact holds every method against a look at all states of small models.
func TestExact(t *testing.T) {
	long(t)
	for seed := range uint64(40) {
		m := randomModel(1+int(seed%14), int(seed%5)*9, seed, seed%2 == 0)
		if seed%4 == 3 {
			m = torus(3, 4, signs(seed))
		}
		s, want, err := Exact(m)
		if err != nil || m.Energy(s) != want {
			t.Fatalf("seed %d: energy %v is given as %v, error %v", seed, m.Energy(s), want, err)
		}
		for _, method := range methodsFor(m) {
			if got := solve(t, m, Options{Method: method, Seed: seed, Sweeps: 20000, Target: &want}); math.Abs(got.Energy-want) > 1e-9 {
				t.Errorf("seed %d, %d spins: %s found %v, the optimum is %v", seed, m.Spins(), method, got.Energy, want)
			}
		}
	}
}

// TestExactIsExact holds Exact against energies computed from the definition.
func TestExactIsExact(t *testing.T) {
	for seed := range uint64(20) {
		m := randomModel(9, 25, seed, false)
		least := math.Inf(1)
		for k := range 1 << 9 {
			s := make([]int8, 9)
			for i := range s {
				s[i] = int8(k>>i&1)*2 - 1
			}
			least = min(least, m.Energy(s))
		}
		if _, got, err := Exact(m); err != nil || math.Abs(got-least) > 1e-9 {
			t.Errorf("seed %d: Exact says %v, %v; the least energy is %v", seed, got, err, least)
		}
	}
	if _, _, err := Exact(torus(6, 6, signs(1))); err == nil {
		t.Error("Exact takes 36 spins")
	}
}

// TestDeltas: fields and energy stay right over a million flips, alone and by sweeps.
func TestDeltas(t *testing.T) {
	long(t)
	check := func(name string, st interface{ drift() float64 }) {
		if d := st.drift(); d > 1e-6 {
			t.Errorf("%s: fields or energy are %v off", name, d)
		}
	}
	for _, whole := range []bool{true, false} {
		m := randomModel(300, 2000, 5, whole)
		if got := integral(m) != 0; got != whole {
			t.Fatalf("integral %v, want %v", got, whole)
		}
		r := newRNG(3, 3)
		a, b := newEngine[float32](m, 1).newState(), newEngine[float64](m, 1).newState()
		a.random(&r)
		b.random(&r)
		for range 1 << 20 {
			b.flip(r.below(300))
		}
		for range 1000 {
			r = b.sweep(0.3, r)
			r = b.sweepRing(0.1, 0.5, b.s, b.s, r)
			if whole {
				r = a.sweep(0.3, r)
			}
		}
		check("float64", b)
		if whole {
			check("float32", a)
		}
	}
}

// drift compares a state with one that is computed anew.
func (st *state[T]) drift() float64 {
	fresh := st.newState()
	fresh.start(func(i int) bool { return st.s[i] > 0 })
	d := math.Abs(fresh.energy - st.energy)
	for i := range st.f {
		d = max(d, math.Abs(float64(fresh.f[i]-st.f[i])))
	}
	return d
}

// boltzmann is the mean energy at the inverse temperature beta, and the largest deviation that samples may have.
func boltzmann(m *Model, beta float64) float64 {
	n := m.Spins()
	var z, sum float64
	for k := range 1 << n {
		s := make([]int8, n)
		for i := range s {
			s[i] = int8(k>>i&1)*2 - 1
		}
		e := m.Energy(s)
		z += math.Exp(-beta * e)
		sum += e * math.Exp(-beta*e)
	}
	return sum / z
}

// TestEquilibrium: sweeps of one replica, and those of 64 in a word, sample Boltzmann's distribution.
func TestEquilibrium(t *testing.T) {
	long(t)
	const sweeps = 100000
	ring := make([]Coupling, 9) // every spin has two links, then three
	for i := range ring {
		ring[i] = Coupling{i, (i + 1) % 9, float64(i%2*2 - 1)}
	}
	chords := append(slices.Clone(ring), Coupling{0, 4, 1}, Coupling{1, 6, -1}, Coupling{2, 7, 1}, Coupling{3, 8, 1})
	models := map[string]*Model{
		"torus":  torus(3, 4, signs(2)),
		"ring":   must(NewIsing(make([]float64, 9), ring, 0)),
		"chords": must(NewIsing(make([]float64, 9), chords, 0)),
		"fields": randomModel(10, 20, 6, false),
	}
	for name, m := range models {
		for _, beta := range []float64{0.2, 0.7} {
			want := boltzmann(m, beta) - m.Offset()
			st, r := newEngine[float64](m, 1).newState(), newRNG(7, 7)
			st.random(&r)
			sum := 0.0
			for range sweeps {
				r = st.sweep(beta, r)
				sum += st.energy
			}
			if got := sum / sweeps; math.Abs(got-want) > 0.02*math.Abs(want) {
				t.Errorf("%s, beta %v: sweeps have the mean energy %.4f, Boltzmann's distribution %.4f", name, beta, got, want)
			}
			p, err := newPacked(m)
			if err != nil {
				if name != "fields" {
					t.Error(err)
				}
				continue
			}
			w := p.newRunner()
			sum = 0
			for range sweeps / 64 {
				for range 4 {
					w.sweep(beta, &r)
				}
				for lane := range 64 {
					w.one.start(func(i int) bool { return w.s[i]>>lane&1 == 1 })
					sum += w.one.energy
				}
			}
			if got := sum / (sweeps / 64 * 64); math.Abs(got-want) > 0.03*math.Abs(want) {
				t.Errorf("%s, beta %v: 64 replicas have the mean energy %.4f, Boltzmann's distribution %.4f", name, beta, got, want)
			}
		}
	}
}

// TestDeterministic: with sweeps for a budget, the same seed gives the same, whatever the number of workers; another seed something else.
func TestDeterministic(t *testing.T) {
	m := torus(12, 14, signs(8))
	sweeps := 30000
	if testing.Short() {
		sweeps = 5000 // for the race detector
	}
	for _, method := range Methods() {
		o := Options{Method: method, Seed: 5, Sweeps: sweeps}
		a, again := solve(t, m, o), solve(t, m, o)
		o.Workers = 3
		shared := solve(t, m, o)
		o.Seed = 6
		other := solve(t, m, o)
		if !slices.Equal(a.Spins, again.Spins) || !slices.Equal(a.Spins, shared.Spins) {
			t.Errorf("%s: energies %v, %v and, with three workers, %v of the same seed, or other states", method, a.Energy, again.Energy, shared.Energy)
		}
		if slices.Equal(a.Spins, other.Spins) {
			t.Errorf("%s: two seeds give the same state", method)
		}
		good := a.Energy + 6
		o.Seed, o.Target = 5, &good
		first := solve(t, m, o)
		o.Workers = 1
		if alone := solve(t, m, o); !slices.Equal(first.Spins, alone.Spins) {
			t.Errorf("%s: energies %v of three workers and %v of one with a target of %v, or other states", method, first.Energy, alone.Energy, good)
		}
		if a.Sweeps > o.Sweeps+o.Sweeps/2 || a.Sweeps < o.Sweeps/2 || a.Sweeps != again.Sweeps {
			t.Errorf("%s: %d and %d sweeps of %d", method, a.Sweeps, again.Sweeps, o.Sweeps)
		}
	}
}

// TestTorus: the shapes of G48, without frustration, and of G50, every row of which is an odd ring, have known optima.
func TestTorus(t *testing.T) {
	long(t)
	one := func() float64 { return 1 }
	for _, c := range []struct {
		rows, columns int
		cut           float64
		methods       []Method
	}{
		{50, 60, 6000, []Method{SQA, SA, MultiSpin, PT}},
		{120, 25, 5880, []Method{SQA, SA, MultiSpin}},
	} {
		m := torus(c.rows, c.columns, one)
		target := m.CutEnergy(c.cut)
		for _, method := range c.methods {
			res := solve(t, m, Options{Method: method, Seed: 1, Time: 20 * time.Second, Target: &target})
			if got := m.Cut(res.Spins); got != c.cut {
				t.Errorf("%dx%d: %s cut %v of %v in %v", c.rows, c.columns, method, got, c.cut, res.Elapsed)
			}
			if optimal := c.cut == 6000; res.Optimal != optimal {
				t.Errorf("%dx%d: %s says optimal %v", c.rows, c.columns, method, res.Optimal)
			}
		}
	}
}

// TestPlanted: models whose ground state is known are solved exactly, and none has a lower one.
func TestPlanted(t *testing.T) {
	long(t)
	for seed := range uint64(5) {
		m, hidden, energy := planted(16, 16, seed)
		if got := m.Energy(hidden); got != energy {
			t.Fatalf("the planted state has energy %v, not %v", got, energy)
		}
		for _, method := range []Method{SQA, SA, PT, Tabu} {
			res := solve(t, m, Options{Method: method, Seed: seed, Time: 20 * time.Second, Target: &energy})
			if res.Energy != energy {
				t.Errorf("seed %d: %s found %v, planted is %v", seed, method, res.Energy, energy)
			}
		}
	}
}

// TestGSet solves files of the G-set that are in a directory: QENEX_GSET=dir, and optionally the methods, QENEX_GSET_METHODS="sqa sa",
// seeds, QENEX_GSET_SEEDS=10, and seconds each, QENEX_GSET_TIME=30s.
func TestGSet(t *testing.T) {
	dir := os.Getenv("QENEX_GSET")
	if dir == "" {
		t.Skip("QENEX_GSET is not set to a directory with G1.txt and so on")
	}
	goals := []struct {
		name string
		cut  float64
	}{{"G1", 11624}, {"G2", 11620}, {"G3", 11622}, {"G14", 3061}, {"G22", 13355}, {"G11", 564}, {"G48", 6000}, {"G50", 5880}}
	methods := []Method{SQA}
	if list := strings.Fields(os.Getenv("QENEX_GSET_METHODS")); len(list) > 0 {
		methods = nil
		for _, name := range list {
			methods = append(methods, Method(name))
		}
	}
	limit := 30 * time.Second
	if s := os.Getenv("QENEX_GSET_TIME"); s != "" {
		var err error
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, goal := range goals {
		f, err := os.Open(filepath.Join(dir, goal.name+".txt"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := ReadRudy(f)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", goal.name, err)
		}
		target := m.CutEnergy(goal.cut)
		for _, method := range methods {
			reached := 0
			var cuts []float64
			var used []float64
			for seed := range 10 {
				begun := cpuTime()
				res := solve(t, m, Options{Method: method, Seed: uint64(seed), Time: limit, Target: &target})
				used = append(used, math.Round((cpuTime()-begun)/1e7)/100)
				cuts = append(cuts, m.Cut(res.Spins)-goal.cut)
				if m.Cut(res.Spins) >= goal.cut {
					reached++
				}
			}
			slices.Sort(used)
			t.Logf("%-4s %-9s goal %v reached by %d of 10 seeds; beyond it %v; seconds of processor %v", goal.name, method, goal.cut, reached, cuts, used)
			if method == SQA && reached < 8 {
				t.Errorf("%s: sqa reached %v with %d of 10 seeds", goal.name, goal.cut, reached)
			}
		}
	}
}

func TestBadOptions(t *testing.T) {
	m := torus(3, 3, signs(1))
	for name, o := range map[string]Options{
		"no method":       {Sweeps: 1},
		"unknown method":  {Method: "magic", Sweeps: 1},
		"replicas":        {Method: PT, Sweeps: 1, Replicas: MaxReplicas + 1},
		"negative":        {Method: SA, Sweeps: 1, Replicas: -1},
		"negative time":   {Method: SA, Sweeps: 1, Time: -1},
		"negative sweeps": {Method: SA, Sweeps: -1, Time: 1},
	} {
		if res, err := Solve(context.Background(), m, o); err == nil {
			t.Errorf("%s: solved: %v", name, res)
		}
	}
	if _, err := Solve(context.Background(), m, Options{Method: SA}); !errors.Is(err, ErrBudget) {
		t.Errorf("no budget: %v", err)
	}
	for _, m := range []*Model{randomModel(4, 3, 1, true), must(NewIsing(make([]float64, 3), []Coupling{{0, 1, 1}, {1, 2, 2}}, 0))} {
		if _, err := Solve(context.Background(), m, Options{Method: MultiSpin, Sweeps: 1}); !errors.Is(err, ErrUnit) {
			t.Errorf("multispin with fields or two sizes of couplings: %v", err)
		}
	}
	nan, inf := math.NaN(), math.Inf(1)
	for name, f := range map[string]func() (*Model, error){
		"loop":       func() (*Model, error) { return NewIsing(make([]float64, 2), []Coupling{{1, 1, 1}}, 0) },
		"range":      func() (*Model, error) { return NewIsing(make([]float64, 2), []Coupling{{1, 2, 1}}, 0) },
		"negative":   func() (*Model, error) { return NewIsing(make([]float64, 2), []Coupling{{-1, 1, 1}}, 0) },
		"nan":        func() (*Model, error) { return NewIsing([]float64{nan}, nil, 0) },
		"inf":        func() (*Model, error) { return NewIsing(make([]float64, 2), []Coupling{{0, 1, inf}}, 0) },
		"cancelling": func() (*Model, error) { return NewIsing(make([]float64, 2), []Coupling{{0, 1, inf}, {0, 1, -inf}}, 0) },
		"offset":     func() (*Model, error) { return NewIsing(nil, nil, nan) },
		"huge":       func() (*Model, error) { return NewIsing([]float64{1e308, 1e308}, nil, 0) },
		"qubo range": func() (*Model, error) { return NewQUBO(make([]float64, 2), []Coupling{{0, 2, 1}}, 0) },
		"spins":      func() (*Model, error) { return NewIsing(make([]float64, MaxSpins+1), nil, 0) },
	} {
		if m, err := f(); err == nil {
			t.Errorf("%s: no error: %v", name, m)
		}
	}
}

// TestSmall: models of no and one spin, and budgets that end at once, give a state.
func TestSmall(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	models := []*Model{must(NewIsing(nil, nil, 2)), must(NewIsing([]float64{3}, nil, 0)), must(NewIsing(make([]float64, 5), nil, 0)), torus(4, 4, signs(1))}
	for _, m := range models {
		for _, method := range methodsFor(m) {
			solve(t, m, Options{Method: method, Sweeps: 1})
			solve(t, m, Options{Method: method, Time: 1})
			solve(t, m, Options{Method: method, Sweeps: 1000, Replicas: 1, RunSweeps: 7})
			if res, err := Solve(ended, m, Options{Method: method, Time: time.Hour}); err != nil || len(res.Spins) != m.Spins() {
				t.Errorf("%s with an ended context: %v, %v", method, res, err)
			}
		}
	}
}

func TestQUBO(t *testing.T) {
	linear, terms := []float64{1, -2, 0.5}, []Coupling{{0, 1, 3}, {2, 1, -4}, {2, 2, 7}}
	m := must(NewQUBO(linear, terms, 0.25))
	back, quadratic, offset := m.QUBO()
	for k := range 8 {
		x, s := [3]float64{}, make([]int8, 3)
		for i := range s {
			x[i] = float64(k >> i & 1)
			s[i] = int8(k>>i&1)*2 - 1
		}
		want, got := 0.25, offset
		for i, q := range linear {
			want += q * x[i]
			got += back[i] * x[i]
		}
		for _, c := range terms {
			want += c.W * x[c.I] * x[c.J]
		}
		for _, c := range quadratic {
			got += c.W * x[c.I] * x[c.J]
		}
		if e := m.Energy(s); e != want || got != want {
			t.Errorf("x = %v: %v, as an Ising model %v, converted back %v", x, want, e, got)
		}
	}
}

func TestLuby(t *testing.T) {
	var got []int
	for i := range int64(15) {
		got = append(got, luby(i))
	}
	if want := []int{1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8}; !slices.Equal(got, want) {
		t.Errorf("luby: %v, want %v", got, want)
	}
}
