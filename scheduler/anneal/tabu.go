package anneal

import "slices"

// tabu is tabu search: always the best flip of a spin that was not flipped lately, or that leads to the best state of the run. Where
// that has found nothing better for long, it goes on from the best state with some spins turned.
type tabu[T number] struct {
	*state[T]
	best  *state[T]
	until []int32 // the move from which on a spin may be flipped again
}

func newTabu[T number](e *engine[T]) *tabu[T] {
	return &tabu[T]{state: e.newState(), best: e.newState(), until: make([]int32, len(e.h))}
}

// A sweep of tabu search is one move: every spin was looked at.
func (t *tabu[T]) base() int { return 1 << 16 }

func (t *tabu[T]) run(r *run, rng rng, sweeps int) {
	n := len(t.s)
	if n == 0 {
		t.offer(r)
		return
	}
	t.random(&rng)
	t.descend()
	t.best.copy(t.state)
	t.offer(r)
	tenure, patience := n/25+10, max(1000, 10*n)
	clear(t.until)
	last := 0 // move that last made it better
	for k := range min(sweeps, 1<<30) {
		if k-last > patience {
			last = k
			t.copy(t.best)
			for range n/20 + 2 + rng.below(n/10+1) {
				t.flip(rng.below(n))
			}
		}
		i := t.pick(int32(k), &rng)
		if i < 0 {
			i = rng.below(n)
		}
		t.flip(i)
		t.until[i] = int32(k + tenure + rng.below(10) + 1)
		if t.energy < t.best.energy {
			t.best.copy(t.state)
			last = k
		}
		if r.stop(1) {
			break
		}
		if t.best.energy/t.scale+r.model.offset <= r.goal {
			break
		}
	}
	t.best.offer(r)
}

// pick returns the spin with the best allowed flip, one of them by chance where there are more, or -1.
func (t *tabu[T]) pick(move int32, r *rng) int {
	// A flip wins 2*s*f.
	aspire := (t.energy - t.best.energy) / 2
	best, at, same := slices.Min(t.f)-slices.Max(t.f)-1, -1, 0
	f, until := t.f[:len(t.s)], t.until[:len(t.s)]
	for i, s := range t.s {
		x := s * f[i]
		if x < best || until[i] > move && float64(x) <= aspire {
			continue
		}
		if x > best {
			best, at, same = x, i, 1
		} else if same++; r.below(same) == 0 {
			at = i
		}
	}
	return at
}
