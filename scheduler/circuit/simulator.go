package circuit

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

// energies returns the energy of every basis state: those with one qubit more follow from those without it.
func energies(m *anneal.Model) []float64 {
	n := m.Spins()
	e := make([]float64, 1<<n)
	all := make([]int8, n)
	for i := range all {
		all[i] = 1
	}
	e[0] = m.Energy(all)
	h := m.Fields()
	couplings := m.Couplings()
	for i := range n {
		field, before := h[i], []anneal.Coupling(nil)
		for _, c := range couplings {
			switch {
			case c.I == i:
				field += c.W
			case c.J == i:
				before = append(before, c)
			}
		}
		for k := range 1 << i {
			f := field
			for _, c := range before {
				f += c.W * float64(1-2*(k>>c.I&1))
			}
			e[k|1<<i] = e[k] - 2*f
		}
	}
	return e
}

// simulator holds the amplitudes of all basis states.
type simulator struct {
	energies []float64
	amp      []complex128
}

func newSimulator(energies []float64) *simulator {
	return &simulator{energies: energies, amp: make([]complex128, len(energies))}
}

// run computes the state at the end of a QAOA circuit.
func (s *simulator) run(gamma, beta []float64) {
	for k := range s.amp {
		s.amp[k] = complex(1/math.Sqrt(float64(len(s.amp))), 0)
	}
	for layer, g := range gamma {
		for k, e := range s.energies {
			sin, cos := math.Sincos(-g * e)
			s.amp[k] *= complex(cos, sin)
		}
		s.mix(beta[layer])
	}
}

// mix is exp(-i*beta*X) on every qubit.
func (s *simulator) mix(beta float64) {
	sin, cos := math.Sincos(beta)
	for half := 1; half < len(s.amp); half *= 2 {
		for at := 0; at < len(s.amp); at += 2 * half {
			zeros, ones := s.amp[at:at+half], s.amp[at+half:at+2*half]
			for k, a := range zeros {
				b := ones[k]
				// cos*a - i*sin*b, and the other way round.
				zeros[k] = complex(cos*real(a)+sin*imag(b), cos*imag(a)-sin*real(b))
				ones[k] = complex(cos*real(b)+sin*imag(a), cos*imag(b)-sin*real(a))
			}
		}
	}
}

// mean runs the circuit and returns the mean energy.
func (s *simulator) mean(gamma, beta []float64) float64 {
	s.run(gamma, beta)
	sum := 0.0
	for k, a := range s.amp {
		sum += (real(a)*real(a) + imag(a)*imag(a)) * s.energies[k]
	}
	return sum
}

// sample measures all qubits so many times.
func (s *simulator) sample(shots int, seed uint64) []uint {
	r := rand.New(rand.NewPCG(seed, 0x71))
	below := make([]float64, len(s.amp)) // the probability of this state and all before
	sum := 0.0
	for k, a := range s.amp {
		sum += real(a)*real(a) + imag(a)*imag(a)
		below[k] = sum
	}
	states := make([]uint, shots)
	for i := range states {
		k, _ := slices.BinarySearch(below, r.Float64()*sum)
		states[i] = uint(min(k, len(below)-1))
	}
	return states
}
