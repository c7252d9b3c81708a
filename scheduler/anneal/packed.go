package anneal

import (
	"errors"
	"math"
	"math/bits"
	"slices"
)

// packed is a model without fields whose couplings have one size, for 64 replicas in the bits of one word a spin.
type packed struct {
	*engine[float32] // its couplings are +1 and -1
	to               []int32
	same             []uint64 // for each link: all ones if the coupling wants the spins to be the same
}

// ErrUnit is what solving by MultiSpin says of a model it cannot solve.
var ErrUnit = errors.New("anneal: multispin solves models without fields whose couplings all have one size, at most 255 a spin")

// maxDegree lets counters of links have 8 bits.
const maxDegree = 255

func newPacked(m *Model) (*packed, error) {
	unit := 1.0
	if len(m.pairs) > 0 {
		unit = math.Abs(m.pairs[0].W)
	}
	signs := &Model{h: m.h, pairs: slices.Clone(m.pairs)}
	for i := range signs.pairs {
		if math.Abs(m.pairs[i].W) != unit {
			return nil, ErrUnit
		}
		signs.pairs[i].W = math.Copysign(1, m.pairs[i].W)
	}
	p := &packed{engine: newEngine[float32](signs, 1)}
	p.scale = 1 / unit
	for i, h := range m.h {
		if h != 0 || p.first[i+1]-p.first[i] > maxDegree {
			return nil, ErrUnit
		}
	}
	for _, l := range p.links {
		p.to = append(p.to, l.to)
		p.same = append(p.same, -bit(l.w2 < 0))
	}
	return p, nil
}

// words is a runner of packed.
type words struct {
	*packed
	s     []uint64 // the spins, 1 bits being +1
	pools [10]pool // of probability sqrt(q), q, q^2, q^4 ..., and the last of 1/2: see sweep
	one   *state[float32]
}

func (p *packed) newRunner() *words {
	return &words{packed: p, s: make([]uint64, len(p.h)), one: p.newState()}
}

func (w *words) base() int { return 64 * 256 }

func (w *words) run(r *run, rng rng, sweeps int) {
	for i := range w.s {
		w.s[i] = rng.next()
	}
	for k := range w.pools {
		w.pools[k].uses = 0
	}
	steps := max(1, sweeps/64)
	for k := range steps {
		w.sweep(1/w.temperature(k, steps), &rng)
		if r.stop(64) {
			break
		}
	}
	w.offerBest(r)
}

// block is how many spins are swept with the random bits in one order.
const block = 1024

// pool has random bits of one probability. They are used some times over, by other spins and in other replicas.
type pool struct {
	bits [2 * block]uint64 // the second half is the first
	uses int
}

const poolUses = 32

// order returns words for a block of spins and by how many bits to turn them.
func (p *pool) order(prob float64, r *rng) (*[block]uint64, int) {
	if p.uses == 0 {
		p.uses = poolUses
		for i := range block {
			p.bits[i] = r.bernoulli(prob)
		}
		copy(p.bits[block:], p.bits[:block])
	}
	p.uses--
	u := r.next()
	return (*[block]uint64)(p.bits[u>>32%block:]), int(u % 64)
}

// bernoulli returns a word each of whose bits is 1 with probability p: each compares random bits with those of p, the highest first,
// until they differ.
func (r *rng) bernoulli(p float64) uint64 {
	if p >= 1 {
		return ^uint64(0)
	}
	var less uint64
	equal := ^uint64(0)
	for q := uint64(p * (1 << 32)); equal != 0 && q != 0; q = q << 1 & (1<<32 - 1) {
		u := r.next()
		if q>>31 == 1 {
			less |= equal &^ u
			equal &= u
		} else {
			equal &^= u
		}
	}
	return less
}

// sweep offers every spin a flip in all replicas. A flip of a spin with d links, c of them satisfied, costs 2*(2c-d). With t = c-d/2,
// d/2 rounded up, it is accepted if t is negative, else with probability q^t, q = exp(-4*beta), times sqrt(q) if d is odd: bit k of t
// asks for a random bit of probability q^(2^k). A flip that costs nothing is accepted half of the time.
func (w *words) sweep(beta float64, r *rng) {
	for at := 0; at < len(w.s); at += block {
		var masks [10]*[block]uint64
		var turns [10]int
		masks[9], turns[9] = w.pools[9].order(0.5, r)
		for k := range masks[:9] {
			if e := beta * 2 * float64(uint(1)<<k); e < maxExp {
				masks[k], turns[k] = w.pools[k].order(math.Exp(-e), r)
			} else {
				masks[k] = &noBits
			}
		}
		half, q1, q2, turn0, turn1, turn2 := masks[9], masks[1], masks[2], turns[9], turns[1], turns[2]
		s, first := w.s, w.first
		for i := range w.s[at:min(len(w.s), at+block)] {
			k, end := first[at+i], first[at+i+1]
			if end-k != 4 {
				w.offerAny(at+i, i, &masks, &turns)
				continue
			}
			to, same := (*[4]int32)(w.to[k:]), (*[4]uint64)(w.same[k:])
			si := s[at+i]
			a, b := si^s[to[0]]^same[0], si^s[to[1]]^same[1]
			c, d := si^s[to[2]]^same[2], si^s[to[3]]^same[3]
			x, y, z, v := a^b, a&b, c^d, c&d
			three := (x & v) | (z & y)
			four := y & v
			two := (y ^ v ^ x&z) &^ (x ^ z)
			m0 := bits.RotateLeft64(half[i], turn0)
			m1 := bits.RotateLeft64(q1[i], turn1)
			m2 := bits.RotateLeft64(q2[i], turn2)
			s[at+i] = si ^ ^(three&^m1 | four&^m2 | two&m0)
		}
	}
}

var noBits [block]uint64

// offerAny is sweep for one spin with any number of links.
func (w *words) offerAny(spin, i int, masks *[10]*[block]uint64, turns *[10]int) {
	k, end := w.first[spin], w.first[spin+1]
	degree := int(end - k)
	// A counter of every replica, in two's complement: minus half of the links, plus the satisfied ones.
	width := bits.Len(uint(degree)) + 1
	var sum [9]uint64
	for b := range width {
		sum[b] = uint64(int64(-(degree+1)/2) << (63 - b) >> 63)
	}
	si := w.s[spin]
	for ; k+4 <= end; k += 4 {
		to, same := (*[4]int32)(w.to[k:]), (*[4]uint64)(w.same[k:])
		s0, c0 := add(sum[0], si^w.s[to[0]]^same[0], si^w.s[to[1]]^same[1])
		s0, c1 := add(s0, si^w.s[to[2]]^same[2], si^w.s[to[3]]^same[3])
		s1, c2 := add(sum[1], c0, c1)
		sum[0], sum[1] = s0, s1
		for b := 2; b < width; b++ {
			sum[b], c2 = sum[b]^c2, sum[b]&c2
		}
	}
	for ; k < end; k++ {
		c := si ^ w.s[w.to[k]] ^ w.same[k]
		for b := range width {
			sum[b], c = sum[b]^c, sum[b]&c
		}
	}
	accept := ^uint64(0)
	if degree%2 == 1 {
		accept = bits.RotateLeft64(masks[0][i], turns[0])
	}
	var costs uint64
	for b := range width - 1 {
		costs |= sum[b]
		accept &= ^sum[b] | bits.RotateLeft64(masks[b+1][i], turns[b+1])
	}
	if degree%2 == 0 {
		accept &= costs | bits.RotateLeft64(masks[9][i], turns[9])
	}
	w.s[spin] = si ^ (accept | sum[width-1])
}

// add adds three bits in every lane.
func add(a, b, c uint64) (sum, carry uint64) {
	x := a ^ b
	return x ^ c, a&b | x&c
}

// offerBest descends from the best replicas and gives what comes out.
func (w *words) offerBest(r *run) {
	var unsatisfied [32]uint64
	for i, s := range w.s {
		for k := w.first[i]; k < w.first[i+1]; k++ {
			c := ^(s ^ w.s[w.to[k]] ^ w.same[k])
			for b := 0; c != 0; b++ {
				unsatisfied[b], c = unsatisfied[b]^c, unsatisfied[b]&c
			}
		}
	}
	var lanes [64]int
	for lane := range lanes {
		for b, u := range unsatisfied {
			lanes[lane] |= int(u>>lane&1) << b
		}
		lanes[lane] = lanes[lane]<<6 | lane
	}
	slices.Sort(lanes[:])
	for _, v := range lanes[:4] {
		w.one.start(func(i int) bool { return w.s[i]>>(v&63)&1 == 1 })
		w.one.descend()
		w.one.offer(r)
	}
}
