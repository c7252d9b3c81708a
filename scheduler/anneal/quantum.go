package anneal

import (
	"math"
	"math/bits"
)

// quantum is simulated quantum annealing. The partition function of the model in a transverse field is, by Trotter's formula, that of
// replicas of the classical model in a ring, each at P times the temperature, in which a spin is coupled to itself in the next replica
// with K = -ln(tanh(beta*Gamma/P))/2, in units of the temperature. The field Gamma falls, K grows, and the replicas become one. Beside
// single spins, a spin is flipped in all replicas at once, which moves the ring where K no longer lets single spins go.
type quantum[T number] struct {
	*engine[T]
	slices []*state[T]
}

func newQuantum[T number](e *engine[T], replicas int) *quantum[T] {
	if replicas == 0 {
		replicas = 4
	}
	q := &quantum[T]{engine: e}
	for range max(2, replicas) {
		q.slices = append(q.slices, e.newState())
	}
	return q
}

func (q *quantum[T]) base() int { return 256 * len(q.slices) }

func (q *quantum[T]) run(r *run, rng rng, sweeps int) {
	p := len(q.slices)
	for _, st := range q.slices {
		st.random(&rng)
	}
	steps := max(1, sweeps/p)
	beta := 6 / q.hot / float64(p)
	for k := range steps {
		gamma := 1.2 * q.hot * (1 - float64(k)/float64(steps))
		ring := -math.Log(math.Tanh(beta * gamma)) // 2K
		for i, st := range q.slices {
			rng = st.sweepRing(beta, ring, q.slices[(i+p-1)%p].s, q.slices[(i+1)%p].s, rng)
		}
		stop := r.stop(p)
		if k%2 == 1 {
			rng = q.sweepLines(beta, rng)
			stop = r.stop(1) || stop
		}
		if stop {
			break
		}
	}
	for _, st := range q.slices {
		st.descend()
		st.offer(r)
	}
}

// sweepRing is sweep of one replica between its neighbours in the ring; ring is 2K.
func (st *state[T]) sweepRing(beta, ring float64, before, after []T, r rng) rng {
	b2, ring2 := float32(2*beta), float32(ring)
	gain := 0.0
	for k, end := range st.blocks[1:] {
		a := st.blocks[k]
		s, f := st.s[a:end], st.f[a:end]
		before, after := before[a:end], after[a:end]
		var flips uint64
		for j := 0; j < len(s); j += 4 {
			u := r.next()
			for k := j; k < min(j+4, len(s)); k++ {
				d := float32(s[k]*f[k])*b2 - float32(s[k]*(before[k]+after[k]))*ring2
				flips |= bit(d+expTable[u%expSlices] > 0) << (k & 63)
				u >>= 16
			}
		}
		for ; flips != 0; flips &= flips - 1 {
			j := bits.TrailingZeros64(flips)
			x := s[j] * f[j]
			d := float32(s[j]*(before[j]+after[j]))*ring2 - float32(x)*b2
			if d > expTail && float64(d) >= r.tail() {
				continue
			}
			gain += float64(x)
			st.turn(int(a) + j)
		}
	}
	st.energy -= 2 * gain
	return r
}

// sweepLines offers every spin a flip in all replicas at once, which leaves the ring as it is.
func (q *quantum[T]) sweepLines(beta float64, r rng) rng {
	b2 := 2 * beta
	for i := range q.h {
		var x T
		for _, st := range q.slices {
			x += st.s[i] * st.f[i]
		}
		if x < 0 && -float64(x)*b2 >= r.exp() || x == 0 && r.next()>>63 == 0 {
			continue
		}
		for _, st := range q.slices {
			st.flip(i)
		}
	}
	return r
}
