package circuit

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/qasm3"
	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

func randomModel(t *testing.T, n int, seed uint64) *anneal.Model {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	h := make([]float64, n)
	var pairs []anneal.Coupling
	for i := range h {
		h[i] = r.NormFloat64()
		for j := range i {
			if r.IntN(3) > 0 {
				pairs = append(pairs, anneal.Coupling{I: i, J: j, W: r.NormFloat64()})
			}
		}
	}
	m, err := anneal.NewIsing(h, pairs, r.NormFloat64())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newCircuit(t *testing.T, m *anneal.Model, o Options) *Circuit {
	t.Helper()
	c, err := New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOptimum: what is measured most favourably is the optimum that a look at all states finds, and the program written as OpenQASM, run
// gate by gate, gives the same amplitudes up to a phase.
func TestOptimum(t *testing.T) {
	for seed := range uint64(12) {
		n := 1 + int(seed)%10
		m := randomModel(t, n, seed)
		c := newCircuit(t, m, Options{Layers: 1 + int(seed)%4})
		_, want, err := anneal.Exact(m)
		if err != nil {
			t.Fatal(err)
		}
		counts, err := c.Execute(2000, seed)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Evaluate(counts)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.Energy-want) > 1e-9 || math.Abs(m.Energy(r.Spins)-want) > 1e-9 || r.Shots != 2000 {
			t.Errorf("seed %d, %d qubits: %d shots found %v, the optimum is %v", seed, n, r.Shots, r.Energy, want)
		}
		uniform := 0.0
		for _, e := range c.energies {
			uniform += e / float64(len(c.energies))
		}
		if !(c.Expected() < uniform) || math.Abs(r.Mean-c.Expected()) > 0.2*(uniform-want) {
			t.Errorf("seed %d: mean energy %v of shots, %v expected, %v of random states", seed, r.Mean, c.Expected(), uniform)
		}
		if float64(r.Hits)/2000 < 1.2/float64(len(c.energies)) {
			t.Errorf("seed %d: the optimum was measured %d times in 2000, by chance it would be %v", seed, r.Hits, 2000/float64(len(c.energies)))
		}

		var text bytes.Buffer
		if err := c.WriteQASM(&text); err != nil {
			t.Fatal(err)
		}
		p, err := qasm3.Parse(text.String())
		if err != nil {
			t.Fatalf("%v in\n%s", err, &text)
		}
		if p.Result["c"] != "q" || p.Qubits["q"] != n {
			t.Errorf("the program measures %v of %v", p.Result, p.Qubits)
		}
		s := newSimulator(c.energies)
		s.run(c.gamma, c.beta)
		amp := p.Run("q")
		var overlap complex128
		mean := 0.0
		for k := range amp {
			overlap += cmplx.Conj(amp[k]) * s.amp[k]
			mean += real(amp[k]*cmplx.Conj(amp[k])) * c.energies[k]
		}
		if math.Abs(cmplx.Abs(overlap)-1) > 1e-9 || math.Abs(mean-c.Expected()) > 1e-9 {
			t.Errorf("seed %d: program and simulator overlap by %v; mean energies %v and %v", seed, overlap, mean, c.Expected())
		}
	}
}

// TestEnergies holds every basis state's energy against the model's.
func TestEnergies(t *testing.T) {
	m := randomModel(t, 9, 3)
	for k, e := range energies(m) {
		s := make([]int8, 9)
		for i := range s {
			s[i] = 1 - 2*int8(k>>i&1)
		}
		if want := m.Energy(s); math.Abs(e-want) > 1e-9 {
			t.Fatalf("state %d has energy %v, not %v", k, e, want)
		}
	}
}

// TestTwenty: the largest circuit keeps its norm, and is better than chance.
func TestTwenty(t *testing.T) {
	m := randomModel(t, MaxQubits, 5)
	c := newCircuit(t, m, Options{Layers: 2, Evaluations: 8})
	s := newSimulator(c.energies)
	s.run(c.gamma, c.beta)
	norm := 0.0
	for _, a := range s.amp {
		norm += real(a)*real(a) + imag(a)*imag(a)
	}
	if math.Abs(norm-1) > 1e-9 || !(c.Expected() < m.Offset()) {
		t.Errorf("norm %v; mean energy %v, of random states %v", norm, c.Expected(), m.Offset())
	}
}

// TestMoreLayers: more layers find lower mean energies.
func TestMoreLayers(t *testing.T) {
	m := randomModel(t, 8, 9)
	before := math.Inf(1)
	for _, layers := range []int{1, 3, 6} {
		c := newCircuit(t, m, Options{Layers: layers, Evaluations: 600})
		if c.Expected() >= before {
			t.Errorf("%d layers expect %v, fewer %v", layers, c.Expected(), before)
		}
		before = c.Expected()
	}
}

func TestSeed(t *testing.T) {
	c := newCircuit(t, randomModel(t, 6, 2), Options{Layers: 2})
	a, _ := c.Execute(500, 1)
	same, _ := c.Execute(500, 1)
	other, _ := c.Execute(500, 2)
	if !maps.Equal(a, same) || maps.Equal(a, other) {
		t.Error("the same seed does not measure the same, or another one does")
	}
}

func TestBad(t *testing.T) {
	m := randomModel(t, 3, 1)
	none, err := anneal.NewIsing(nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() (*Circuit, error){
		func() (*Circuit, error) { return New(none, Options{Layers: 1}) },
		func() (*Circuit, error) { return New(randomModel(t, MaxQubits+1, 1), Options{Layers: 1}) },
		func() (*Circuit, error) { return New(m, Options{}) },
		func() (*Circuit, error) { return New(m, Options{Layers: MaxLayers + 1}) },
		func() (*Circuit, error) { return New(m, Options{Layers: 1, Evaluations: -1}) },
	} {
		if c, err := f(); err == nil {
			t.Errorf("no error: %v", c)
		}
	}
	c := newCircuit(t, m, Options{Layers: 1})
	for _, shots := range []int{-1, 0, MaxShots + 1} {
		if counts, err := c.Execute(shots, 1); !errors.Is(err, ErrShots) {
			t.Errorf("%d shots: %v, error %v", shots, counts, err)
		}
	}
	for _, counts := range []Counts{nil, {"000": 0}, {"00": 1}, {"002": 1}, {"000": -1, "001": 2}, {"000": MaxShots, "001": 1}} {
		if r, err := c.Evaluate(counts); err == nil {
			t.Errorf("%v: %v", counts, r)
		}
	}
}

func TestReadCounts(t *testing.T) {
	c := newCircuit(t, randomModel(t, 3, 1), Options{Layers: 1})
	counts, err := c.ReadCounts(strings.NewReader(` {"001": 30, "110": 12} `))
	if err != nil || !maps.Equal(counts, Counts{"001": 30, "110": 12}) {
		t.Fatalf("%v, error %v", counts, err)
	}
	r, err := c.Evaluate(counts)
	if err != nil || r.Shots != 42 || math.Abs(r.Mean-(30*c.energies[1]+12*c.energies[6])/42) > 1e-9 {
		t.Errorf("%v, error %v", r, err)
	}
	// The rightmost bit is qubit 0.
	if one, err := c.Evaluate(Counts{"001": 1}); err != nil || fmt.Sprint(one.Spins) != "[-1 1 1]" {
		t.Errorf("001 is %v, error %v", one, err)
	}
	for text, why := range map[string]string{
		``:                        "unexpected EOF",
		`[]`:                      "want a JSON object",
		`{"001": 1`:               "unexpected EOF",
		`{"001": 1} {}`:           "something after",
		`{"001": 1.5}`:            "want a whole number",
		`{"001": -1}`:             "want a whole number",
		`{"001": "1"}`:            "want a whole number",
		`{"001": {"a": 1}}`:       "want a whole number",
		`{"001": 1, "001": 1}`:    "given twice",
		`{"0011": 1}`:             "not a string of 3 bits",
		`{"0x1": 1}`:              "not a string of 3 bits",
		`{}`:                      "no measurements",
		`{"001": 0}`:              "no measurements",
		`{"001": 1e300}`:          "want a whole number",
		`{"001" 1}`:               "invalid character",
		`{"000": 1, "001": null}`: "want a whole number",
	} {
		if counts, err := c.ReadCounts(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, error %v; want %q", text, counts, err, why)
		}
	}
}

// FuzzReadCounts: what is read can be evaluated.
func FuzzReadCounts(f *testing.F) {
	for _, s := range []string{`{"001": 30}`, `{"000":1,"111":2}`, `{"001": 1e2}`, `{`, `[1]`} {
		f.Add([]byte(s))
	}
	m, err := anneal.NewIsing([]float64{1, -2, 0.5}, nil, 0)
	if err != nil {
		f.Fatal(err)
	}
	c, err := New(m, Options{Layers: 1, Evaluations: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		counts, err := c.ReadCounts(bytes.NewReader(text))
		if err != nil {
			return
		}
		if r, err := c.Evaluate(counts); err != nil || len(r.Spins) != 3 {
			t.Fatalf("%v: %v, error %v", counts, r, err)
		}
	})
}
