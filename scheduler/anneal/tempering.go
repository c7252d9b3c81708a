package anneal

import "math"

// tempering is parallel tempering: replicas at fixed temperatures, whose states change places by Metropolis' rule.
type tempering[T number] struct {
	*engine[T]
	replicas []*state[T] // from cold to hot
	beta     []float64   // of each, falling
}

func newTempering[T number](e *engine[T], replicas int) *tempering[T] {
	if replicas == 0 {
		replicas = 12
	}
	t := &tempering[T]{engine: e, beta: make([]float64, replicas)}
	for range replicas {
		t.replicas = append(t.replicas, e.newState())
	}
	return t
}

func (t *tempering[T]) base() int { return 256 * len(t.replicas) }

func (t *tempering[T]) run(r *run, rng rng, sweeps int) {
	n := len(t.replicas)
	for i, st := range t.replicas {
		st.random(&rng)
		cold := max(2*t.cold, t.hot/10)
		t.beta[i] = 1 / (cold * math.Pow(t.hot/cold, float64(i)/float64(max(1, n-1))))
	}
	for k := 0; sweeps > 0; k++ {
		for i, st := range t.replicas {
			rng = st.sweep(t.beta[i], rng)
			st.offer(r)
		}
		sweeps -= n
		if r.stop(n) {
			break
		}
		for i := k & 1; i+1 < n; i += 2 {
			a, b := t.replicas[i], t.replicas[i+1]
			// Positive: the colder one has the higher energy.
			d := (t.beta[i] - t.beta[i+1]) * (a.energy - b.energy)
			if d >= 0 || -d < rng.exp() {
				t.replicas[i], t.replicas[i+1] = b, a
			}
		}
	}
	for _, st := range t.replicas {
		st.descend()
		st.offer(r)
	}
}
