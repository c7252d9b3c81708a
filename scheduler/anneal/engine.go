package anneal

import (
	"math"
	"math/bits"
	"slices"
)

// number is what fields are counted in: float32 where all coefficients are small multiples of 1/4, so that sums are exact, else float64.
type number interface{ float32 | float64 }

// engine is a model laid out for flips: spins without a coupling between them lie together, so that whole blocks of them can be offered
// a flip at once.
type engine[T number] struct {
	model  *Model
	scale  float64 // T's unit is 1/scale of the model's
	order  []int32 // the model's number of every spin
	blocks []int32 // block k is the spins from blocks[k] to blocks[k+1], at most 64
	h      []T
	first  []int32 // the links of spin i are links[first[i]:first[i+1]]
	links  []link[T]
	hot    float64 // a temperature at which little is frozen, in units of T
	cold   float64 // one at which nearly all is
}

// link is one end of a coupling.
type link[T number] struct {
	to int32
	w2 T // 2J
}

// integral returns what all coefficients of m must be multiplied with to be integers whose sums a float32 holds, or 0.
func integral(m *Model) float64 {
	fields := make([]float64, len(m.h))
	for i, h := range m.h {
		fields[i] = math.Abs(h)
	}
	for _, c := range m.pairs {
		fields[c.I] += math.Abs(c.W)
		fields[c.J] += math.Abs(c.W)
	}
	for _, scale := range []float64{1, 2, 4} {
		whole := true
		for _, f := range fields {
			whole = whole && 2*scale*f < 1<<24
		}
		for _, h := range m.h {
			whole = whole && h*scale == math.Trunc(h*scale)
		}
		for _, c := range m.pairs {
			whole = whole && c.W*scale == math.Trunc(c.W*scale)
		}
		if whole {
			return scale
		}
	}
	return 0
}

func newEngine[T number](m *Model, scale float64) *engine[T] {
	n := m.Spins()
	e := &engine[T]{model: m, scale: scale, h: make([]T, n), first: make([]int32, n+1), links: make([]link[T], 2*len(m.pairs))}
	e.order, e.blocks = independent(m)
	place := make([]int32, n)
	for i, v := range e.order {
		place[v] = int32(i)
		e.h[i] = T(m.h[v] * scale)
	}
	for _, c := range m.pairs {
		e.first[place[c.I]+1]++
		e.first[place[c.J]+1]++
	}
	for i := range n {
		e.first[i+1] += e.first[i]
	}
	at := slices.Clone(e.first[:n])
	for _, c := range m.pairs {
		i, j := place[c.I], place[c.J]
		e.links[at[i]] = link[T]{j, T(2 * c.W * scale)}
		e.links[at[j]] = link[T]{i, T(2 * c.W * scale)}
		at[i]++
		at[j]++
	}
	e.temperatures()
	return e
}

// temperatures sets hot and cold, as parts of what a spin feels of neighbours that point anywhere and of the smallest coefficient.
func (e *engine[T]) temperatures() {
	mean, largest, smallest := 0.0, 0.0, math.Inf(1)
	for i, h := range e.h {
		square := float64(h) * float64(h)
		for _, l := range e.links[e.first[i]:e.first[i+1]] {
			w := float64(l.w2) / 2
			square += w * w
			smallest = min(smallest, math.Abs(w))
		}
		if h != 0 {
			smallest = min(smallest, math.Abs(float64(h)))
		}
		mean += math.Sqrt(square) / float64(len(e.h))
		largest = max(largest, math.Sqrt(square))
	}
	if largest == 0 {
		e.hot, e.cold = 1, 1
		return
	}
	e.hot = 0.6 * max(mean, largest/8)
	e.cold = 0.25 * max(min(smallest, mean), mean/64)
}

// independent orders a model's spins so that none in a block has a coupling to another: it colours them greedily.
func independent(m *Model) (order, blocks []int32) {
	n := m.Spins()
	first := make([]int32, n+1)
	for _, c := range m.pairs {
		first[c.J+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	before := make([]int32, len(m.pairs)) // the neighbours with a lower number of every spin
	at := slices.Clone(first[:n])
	for _, c := range m.pairs {
		before[at[c.J]] = int32(c.I)
		at[c.J]++
	}
	colour, used := make([]int32, n), make([]int32, n+1) // used: the last spin, plus one, that has a neighbour of the colour
	var classes [][]int32
	for i := range n {
		for _, j := range before[first[i]:first[i+1]] {
			used[colour[j]] = int32(i + 1)
		}
		c := 0
		for used[c] == int32(i+1) {
			c++
		}
		if c == len(classes) {
			classes = append(classes, nil)
		}
		colour[i] = int32(c)
		classes[c] = append(classes[c], int32(i))
	}
	blocks = append(blocks, 0)
	for _, class := range classes {
		for part := range slices.Chunk(class, 64) {
			order = append(order, part...)
			blocks = append(blocks, int32(len(order)))
		}
	}
	return order, blocks
}

// state is a state of an engine's model with the field of every spin.
type state[T number] struct {
	*engine[T]
	s      []T // +1 or -1
	f      []T // h + sum J*s of the neighbours: a flip changes the energy by -2*s*f
	energy float64
}

func (e *engine[T]) newState() *state[T] {
	return &state[T]{engine: e, s: make([]T, len(e.h)), f: make([]T, len(e.h))}
}

// start sets the spins, all fields and the energy.
func (st *state[T]) start(up func(i int) bool) {
	for i := range st.s {
		st.s[i] = -1
		if up(i) {
			st.s[i] = 1
		}
	}
	sum := 0.0
	for i := range st.s {
		f := 2 * st.h[i]
		for _, l := range st.links[st.first[i]:st.first[i+1]] {
			f += l.w2 * st.s[l.to]
		}
		st.f[i] = f / 2 // w2 is even
		sum += float64(st.s[i]) * (float64(st.f[i]) + float64(st.h[i])) / 2
	}
	st.energy = sum
}

func (st *state[T]) random(r *rng) {
	var u uint64
	st.start(func(i int) bool {
		if i%64 == 0 {
			u = r.next()
		}
		return u>>(i%64)&1 == 1
	})
}

func (st *state[T]) copy(from *state[T]) {
	copy(st.s, from.s)
	copy(st.f, from.f)
	st.energy = from.energy
}

// flip turns spin i and keeps the fields of its neighbours right.
func (st *state[T]) flip(i int) {
	st.energy -= 2 * float64(st.s[i]*st.f[i])
	st.turn(i)
}

// turn is flip without the energy.
func (st *state[T]) turn(i int) {
	s := -st.s[i]
	st.s[i] = s
	f := st.f
	if s > 0 {
		for _, l := range st.links[st.first[i]:st.first[i+1]] {
			f[l.to] += l.w2
		}
	} else {
		for _, l := range st.links[st.first[i]:st.first[i+1]] {
			f[l.to] -= l.w2
		}
	}
}

// sweep offers every spin a flip by Metropolis' rule at the inverse temperature beta; one that costs nothing is accepted half of the
// time, so that what can move freely moves at random. Which spins of a block are likely to flip is found out without branches.
func (st *state[T]) sweep(beta float64, r rng) rng {
	b2 := float32(2 * beta)
	gain := 0.0
	for k, end := range st.blocks[1:] {
		a := st.blocks[k]
		s, f := st.s[a:end], st.f[a:end]
		var flips, free uint64
		j := 0
		for ; j+4 <= len(s); j += 4 {
			u := r.next()
			s, f := (*[4]T)(s[j:]), (*[4]T)(f[j:])
			x0, x1, x2, x3 := float32(s[0]*f[0]), float32(s[1]*f[1]), float32(s[2]*f[2]), float32(s[3]*f[3])
			some := bit(x0*b2+expTable[u%expSlices] > 0) | bit(x1*b2+expTable[u>>16%expSlices] > 0)<<1 |
				bit(x2*b2+expTable[u>>32%expSlices] > 0)<<2 | bit(x3*b2+expTable[u>>48%expSlices] > 0)<<3
			zero := bit(x0 == 0) | bit(x1 == 0)<<1 | bit(x2 == 0)<<2 | bit(x3 == 0)<<3
			flips |= some << (j & 63)
			free |= zero << (j & 63)
		}
		for ; j < len(s); j++ {
			x := float32(s[j] * f[j])
			flips |= bit(x*b2+expTable[r.next()%expSlices] > 0) << (j & 63)
			free |= bit(x == 0) << (j & 63)
		}
		for flips &^= free & r.next(); flips != 0; flips &= flips - 1 {
			j := bits.TrailingZeros64(flips)
			x := s[j] * f[j]
			if d := -float32(x) * b2; d > expTail && float64(d) >= r.tail() {
				continue
			}
			gain += float64(x)
			st.turn(int(a) + j)
		}
	}
	st.energy -= 2 * gain
	return r
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// descend flips spins while that lowers the energy.
func (st *state[T]) descend() {
	for again := true; again; {
		again = false
		for i := range st.s {
			if st.s[i]*st.f[i] > 0 {
				st.flip(i)
				again = true
			}
		}
	}
}
