// Package anneal minimises Ising and QUBO models: by simulated quantum annealing, simulated annealing (also with 64 replicas in a
// word), parallel tempering, tabu search and greedy descent. It knows nothing of schedulers, and imports the standard library only.
//
// A model's energy is E(s) = Offset + sum h[i]*s[i] + sum J[i,j]*s[i]*s[j], s[i] being +1 or -1; a low energy is a good one. As a QUBO,
// x[i] = (1+s[i])/2. As a max-cut problem, with h = 0, the cut of s is (sum J - sum J[i,j]*s[i]*s[j])/2.
package anneal

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// MaxSpins is the largest number of spins of a model.
const MaxSpins = 1 << 22

// Coupling is a term between two spins, J of an Ising model or Q of a QUBO.
type Coupling struct {
	I, J int
	W    float64
}

// Model is an Ising model. It does not change: any number of solvers may use it at once.
type Model struct {
	offset float64
	h      []float64
	pairs  []Coupling // I < J, sorted, no pair twice, no W zero
}

// NewIsing returns the model of len(h) spins with these fields and couplings. Couplings of one pair are added up; one of a spin with
// itself, an index out of range, NaN and infinity are errors.
func NewIsing(h []float64, couplings []Coupling, offset float64) (*Model, error) {
	n := len(h)
	if n > MaxSpins {
		return nil, fmt.Errorf("anneal: a model of %d spins: at most %d", n, MaxSpins)
	}
	m := &Model{offset: offset, h: slices.Clone(h), pairs: make([]Coupling, 0, len(couplings))}
	for _, c := range couplings {
		if c.I == c.J || min(c.I, c.J) < 0 || max(c.I, c.J) >= n {
			return nil, fmt.Errorf("anneal: coupling of spins %d and %d of %d: two spins, counted from 0, are needed", c.I, c.J, n)
		}
		m.pairs = append(m.pairs, Coupling{min(c.I, c.J), max(c.I, c.J), c.W})
	}
	slices.SortStableFunc(m.pairs, comparePairs)
	sum := m.pairs[:0]
	for _, c := range m.pairs {
		if k := len(sum) - 1; k >= 0 && comparePairs(sum[k], c) == 0 {
			sum[k].W += c.W
		} else {
			sum = append(sum, c)
		}
	}
	m.pairs = slices.DeleteFunc(sum, func(c Coupling) bool { return c.W == 0 })
	// All energies, twice over, must be finite.
	if all := 4 * (math.Abs(offset) + m.weight()); math.IsNaN(all) || math.IsInf(all, 0) {
		return nil, errors.New("anneal: a coefficient is NaN, infinite, or so large that energies are")
	}
	return m, nil
}

// NewQUBO returns the model of E(x) = offset + sum linear[i]*x[i] + sum W*x[I]*x[J], x[i] being 0 or 1. A term with I = J is linear.
func NewQUBO(linear []float64, terms []Coupling, offset float64) (*Model, error) {
	h := make([]float64, len(linear))
	for i, q := range linear {
		h[i] = q / 2
		offset += q / 2
	}
	pairs := make([]Coupling, 0, len(terms))
	for _, c := range terms {
		if min(c.I, c.J) < 0 || max(c.I, c.J) >= len(h) {
			return nil, fmt.Errorf("anneal: term of variables %d and %d of %d, counted from 0", c.I, c.J, len(h))
		}
		if c.I == c.J {
			h[c.I] += c.W / 2
			offset += c.W / 2
			continue
		}
		h[c.I] += c.W / 4
		h[c.J] += c.W / 4
		offset += c.W / 4
		pairs = append(pairs, Coupling{c.I, c.J, c.W / 4})
	}
	return NewIsing(h, pairs, offset)
}

func comparePairs(a, b Coupling) int {
	if a.I != b.I {
		return a.I - b.I
	}
	return a.J - b.J
}

// weight is the sum of all fields' and couplings' sizes.
func (m *Model) weight() float64 {
	sum := 0.0
	for _, h := range m.h {
		sum += math.Abs(h)
	}
	for _, c := range m.pairs {
		sum += math.Abs(c.W)
	}
	return sum
}

// Spins returns the number of spins.
func (m *Model) Spins() int { return len(m.h) }

// Offset returns the constant part of the energy.
func (m *Model) Offset() float64 { return m.offset }

// Fields returns a copy of the fields h.
func (m *Model) Fields() []float64 { return slices.Clone(m.h) }

// Couplings returns a copy of the couplings J, sorted, with I < J.
func (m *Model) Couplings() []Coupling { return slices.Clone(m.pairs) }

// Bound returns an energy that none is below: every field and coupling satisfied. A state that reaches it is an optimum.
func (m *Model) Bound() float64 { return m.offset - m.weight() }

// Energy returns the energy of a state of Spins spins, each +1 or -1.
func (m *Model) Energy(s []int8) float64 {
	e := m.offset
	for i, h := range m.h {
		e += h * float64(s[i])
	}
	for _, c := range m.pairs {
		e += c.W * float64(int(s[c.I])*int(s[c.J]))
	}
	return e
}

// Cut returns the weight of the edges between the spins that are +1 and those that are -1, the couplings being the edges.
func (m *Model) Cut(s []int8) float64 {
	cut := 0.0
	for _, c := range m.pairs {
		if s[c.I] != s[c.J] {
			cut += c.W
		}
	}
	return cut
}

// CutEnergy returns the energy that states with this cut have, if the model has no fields.
func (m *Model) CutEnergy(cut float64) float64 {
	sum := 0.0
	for _, c := range m.pairs {
		sum += c.W
	}
	return m.offset + sum - 2*cut
}

// QUBO returns the model in variables 0 and 1: linear and quadratic coefficients and the constant part.
func (m *Model) QUBO() (linear []float64, terms []Coupling, offset float64) {
	linear, offset = make([]float64, len(m.h)), m.offset
	for i, h := range m.h {
		linear[i] = 2 * h
		offset -= h
	}
	for _, c := range m.pairs {
		linear[c.I] -= 2 * c.W
		linear[c.J] -= 2 * c.W
		offset += c.W
		terms = append(terms, Coupling{c.I, c.J, 4 * c.W})
	}
	return linear, terms, offset
}

// MaxExact is the largest number of spins Exact takes.
const MaxExact = 30

// Exact finds an optimum by looking at all states, in the order of a Gray code.
func Exact(m *Model) (s []int8, energy float64, err error) {
	n := m.Spins()
	if n > MaxExact {
		return nil, 0, fmt.Errorf("anneal: looking at all states of %d spins: at most %d", n, MaxExact)
	}
	st := newEngine[float64](m, 1).newState()
	st.start(func(int) bool { return false })
	best, at := st.energy, uint64(0)
	gray := uint64(0)
	for k := uint64(1); k < 1<<n; k++ {
		bit := bits.TrailingZeros64(k)
		gray ^= 1 << bit
		st.flip(bit)
		if st.energy < best-1e-12*(1+math.Abs(best)) {
			best, at = st.energy, gray
		}
	}
	s = make([]int8, n)
	for i := range s {
		s[st.order[i]] = int8(at>>i&1)*2 - 1
	}
	return s, m.Energy(s), nil
}
