// Package circuit solves small models the way a gate quantum computer would: by the quantum approximate optimization algorithm (QAOA). It
// finds a circuit's angles on a state-vector simulator, runs the circuit there, writes it as OpenQASM 3 so that hardware can run it, and
// reads what hardware measured. It is here to be compared and shown: whatever fits is solved faster by looking at all states.
//
// Qubit i is spin i of the model, and 0 is spin +1, 1 is -1: Z's eigenvalues.
package circuit

import (
	"errors"
	"fmt"
	"math"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

// Limits of a circuit.
const (
	MaxQubits = 20
	MaxLayers = 64
)

// Circuit is a QAOA circuit with its angles: Hadamard gates, then for every layer exp(-i*Gamma*H) and exp(-i*Beta*sum X), then a
// measurement of all qubits. It does not change.
type Circuit struct {
	model    *anneal.Model
	energies []float64 // of every basis state; bit i of its number is qubit i
	gamma    []float64
	beta     []float64
	expected float64
}

// Options say how to make a circuit.
type Options struct {
	Layers int // 1 to MaxLayers
	// Evaluations is how many times the circuit is simulated, at most, to find good angles; 0 is 200. Each takes time in proportion to
	// Layers*qubits*2^qubits: about 50 ms a layer at MaxQubits.
	Evaluations int
}

// New makes a circuit for a model of 1 to MaxQubits spins and searches angles with a low mean energy: first a ramp like an annealing's,
// its length tried in steps, then one angle after the other. Beta is negative: the start is the ground state of -sum X.
func New(m *anneal.Model, o Options) (*Circuit, error) {
	if m.Spins() < 1 || m.Spins() > MaxQubits {
		return nil, fmt.Errorf("circuit: a model of %d spins: 1 to %d can be simulated", m.Spins(), MaxQubits)
	}
	if o.Layers < 1 || o.Layers > MaxLayers {
		return nil, fmt.Errorf("circuit: %d layers: 1 to %d are possible", o.Layers, MaxLayers)
	}
	if o.Evaluations < 0 {
		return nil, fmt.Errorf("circuit: %d evaluations", o.Evaluations)
	}
	if o.Evaluations == 0 {
		o.Evaluations = 200
	}
	c := &Circuit{model: m, energies: energies(m)}
	scale := coefficientScale(m)
	s := newSimulator(c.energies)
	left, least := o.Evaluations, math.Inf(1)
	var angles, try = make([]float64, 2*o.Layers), make([]float64, 2*o.Layers)
	better := func() bool {
		left--
		e := s.mean(try[:o.Layers], try[o.Layers:])
		if e >= least {
			return false
		}
		least = e
		copy(angles, try)
		return true
	}
	for step := 0.1; step < 1.6 && left > 0; step += 0.1 {
		for k := range o.Layers {
			at := (float64(k) + 0.5) / float64(o.Layers)
			try[k], try[o.Layers+k] = at*step/scale, (at-1)*step
		}
		better()
	}
	for step := 0.2; step > 1e-3 && left > 0; {
		improved := false
		for k := range angles {
			d := step
			if k < o.Layers {
				d /= scale
			}
			for _, d := range []float64{d, -d} {
				if left <= 0 {
					break
				}
				copy(try, angles)
				try[k] += d
				if better() {
					improved = true
					break
				}
			}
		}
		if !improved {
			step /= 2
		}
	}
	c.gamma, c.beta, c.expected = angles[:o.Layers], angles[o.Layers:], least
	return c, nil
}

// coefficientScale is the root of the mean square of what acts on a spin, so that angles of one size suit models of all.
func coefficientScale(m *anneal.Model) float64 {
	sum := 0.0
	for _, h := range m.Fields() {
		sum += h * h
	}
	for _, c := range m.Couplings() {
		sum += 2 * c.W * c.W
	}
	if sum == 0 {
		return 1
	}
	return math.Sqrt(sum / float64(m.Spins()))
}

// Qubits returns the number of qubits.
func (c *Circuit) Qubits() int { return c.model.Spins() }

// Expected returns the mean energy of what an ideal machine measures.
func (c *Circuit) Expected() float64 { return c.expected }

// Angles returns the angles gamma and beta of every layer, in radians.
func (c *Circuit) Angles() (gamma, beta []float64) {
	return append([]float64(nil), c.gamma...), append([]float64(nil), c.beta...)
}

// Result is what a set of measurements says.
type Result struct {
	Spins  []int8  // the best state measured: +1 or -1
	Energy float64 // its energy
	Hits   int     // how often that energy was measured
	Shots  int     // how many measurements there were
	Mean   float64 // mean energy
}

// ErrShots is wrapped when there are no measurements.
var ErrShots = errors.New("no measurements")

// MaxShots is the largest number of measurements.
const MaxShots = 1 << 30

// Execute runs the circuit on the simulator and measures it so many times. The same seed measures the same.
func (c *Circuit) Execute(shots int, seed uint64) (Counts, error) {
	if shots < 1 || shots > MaxShots {
		return nil, fmt.Errorf("circuit: %d measurements: 1 to %d are possible: %w", shots, MaxShots, ErrShots)
	}
	s := newSimulator(c.energies)
	s.run(c.gamma, c.beta)
	counts := Counts{}
	for _, k := range s.sample(shots, seed) {
		counts[bitString(k, c.Qubits())]++
	}
	return counts, nil
}

// Evaluate checks measurements, from Execute or from hardware, and says what they found.
func (c *Circuit) Evaluate(counts Counts) (*Result, error) {
	if err := counts.check(c.Qubits()); err != nil {
		return nil, err
	}
	r := &Result{Energy: math.Inf(1)}
	var best uint
	for _, bits := range counts.keys() {
		k, n := stateOf(bits), counts[bits]
		e := c.energies[k]
		switch {
		case n == 0:
			continue
		case e < r.Energy:
			r.Energy, r.Hits, best = e, n, k
		case e == r.Energy:
			r.Hits += n
		}
		r.Shots += n
		r.Mean += e * float64(n)
	}
	r.Mean /= float64(r.Shots)
	for i := range c.Qubits() {
		r.Spins = append(r.Spins, 1-2*int8(best>>i&1))
	}
	return r, nil
}
