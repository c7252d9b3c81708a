package plan

import (
	"fmt"
	"slices"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

// MaxVariables is how many variables Model makes at most.
const MaxVariables = 4096

// Variable is one of a Model: 1 if a vCPU is on a CPU.
type Variable struct {
	VCPU int `json:"vcpu"`
	CPU  int `json:"cpu"` // index into Host.CPUs
}

// Encoding says what the variables, and spins, of a Model are.
type Encoding []Variable

// Decode returns the placement that spins, +1 for 1 and -1 for 0, stand for. They must give every vCPU exactly one CPU.
func (e Encoding) Decode(spins []int8) ([]int, error) {
	if len(spins) != len(e) {
		return nil, fmt.Errorf("plan: %d spins for a model of %d", len(spins), len(e))
	}
	var cpu []int
	for k, s := range spins {
		for len(cpu) <= e[k].VCPU {
			cpu = append(cpu, -1)
		}
		if s <= 0 {
			continue
		}
		if cpu[e[k].VCPU] >= 0 {
			return nil, fmt.Errorf("plan: these spins put vCPU %d on more than one CPU", e[k].VCPU)
		}
		cpu[e[k].VCPU] = e[k].CPU
	}
	if i := slices.Index(cpu, -1); i >= 0 {
		return nil, fmt.Errorf("plan: these spins put vCPU %d on no CPU", i)
	}
	return cpu, nil
}

// Model returns the problem, but for power, as a QUBO: a variable for every vCPU and every CPU it may run on. A penalty, more than a good
// placement costs, holds every vCPU to one CPU and keeps apart what must be: the states of lowest energy are the optimal placements, and
// their energy is the cost.
func (p *Problem) Model() (*anneal.Model, Encoding, error) {
	q := *p
	q.Weights = p.weights()
	q.Weights.Core, q.Weights.Package = 0, 0
	f, err := q.field()
	if err != nil {
		return nil, nil, err
	}
	variables := 0
	for i := range f.items {
		variables += len(f.items[i].may)
	}
	if variables > MaxVariables {
		return nil, nil, fmt.Errorf("plan: a model of %d variables: at most %d", variables, MaxVariables)
	}
	good := f.begin()
	cost := f.cost(good)
	if cost.Broken > 0 {
		return nil, nil, fmt.Errorf("plan: no placement is known that keeps all constraints, as a model needs it for its penalty: %s: %w", f.broken(good), ErrContradiction)
	}
	penalty := 1.01*cost.Total + 1e-3
	var e Encoding
	var linear []float64
	var terms []anneal.Coupling
	s := f.newState()
	s.penalty = penalty
	first := make([]int, len(f.items)+1)
	for i := range f.items {
		for _, a := range f.items[i].may {
			alone := s.place(i, a)
			for k := first[i]; k < len(e); k++ {
				terms = append(terms, anneal.Coupling{I: k, J: len(e), W: 2 * penalty})
			}
			linear = append(linear, alone-penalty)
			e = append(e, Variable{i, int(a)})
		}
		first[i+1] = len(e)
	}
	for j := range f.items {
		for l := first[j]; l < first[j+1]; l++ {
			s.add(j, int32(e[l].CPU))
			for k := range e[:first[j]] {
				i, a := e[k].VCPU, int32(e[k].CPU)
				if w := s.place(i, a) + s.talk(i, a) - linear[k] - penalty; w > 1e-12 {
					terms = append(terms, anneal.Coupling{I: k, J: l, W: w})
				}
			}
			s.remove(j)
		}
	}
	m, err := anneal.NewQUBO(linear, terms, penalty*float64(len(f.items)))
	if err != nil {
		return nil, nil, fmt.Errorf("plan: the model: %w", err)
	}
	return m, e, nil
}
