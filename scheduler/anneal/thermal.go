package anneal

// thermal is simulated annealing: sweeps at a temperature that falls from hot to cold.
type thermal[T number] struct{ *state[T] }

func (t *thermal[T]) base() int { return 256 }

func (t *thermal[T]) run(r *run, rng rng, sweeps int) {
	t.random(&rng)
	for k := range sweeps {
		rng = t.sweep(1/t.temperature(k, sweeps), rng)
		if r.stop(1) {
			break
		}
	}
	t.descend()
	t.offer(r)
}

// temperature is that of sweep k of n: it falls by the same amount every time.
func (e *engine[T]) temperature(k, n int) float64 {
	return e.hot - (e.hot-e.cold)*float64(k)/float64(max(1, n-1))
}

// greedy descends from random states.
type greedy[T number] struct{ *state[T] }

func (g *greedy[T]) base() int { return 1 }

func (g *greedy[T]) run(r *run, rng rng, sweeps int) {
	for stop := false; !stop && sweeps > 0; sweeps-- {
		g.random(&rng)
		g.descend()
		g.offer(r)
		stop = r.stop(1)
	}
}
