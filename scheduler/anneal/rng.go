package anneal

import (
	"math"
	"math/bits"
)

// rng is a generator of random numbers: small enough to be inlined where most of the time goes, and good enough for Monte Carlo. It is a
// Weyl sequence, each number multiplied with itself to 128 bits and folded.
type rng struct{ x uint64 }

// newRNG returns the generator of a run: streams of different runs have nothing to do with each other.
func newRNG(seed, run uint64) rng {
	z := rng{seed*0x9e3779b97f4a7c15 ^ (run+1)*0xd1342543de82ef95}
	z.next()
	return rng{z.next() ^ seed}
}

func (r *rng) next() uint64 {
	r.x += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(r.x, r.x^0xe7037ed1a0b428db)
	return hi ^ lo
}

// below returns a number from 0 to n-1, n at most 1<<32.
func (r *rng) below(n int) int { return int(r.next() >> 32 * uint64(n) >> 32) }

// float returns a number above 0 and below 1.
func (r *rng) float() float64 { return (float64(r.next()>>12) + 0.5) / (1 << 52) }

// expTable holds the middles of slices of equal probability of the exponential distribution. Metropolis' rule accepts if the increase,
// in temperatures, is below such a number: no exponential is computed for it. The first slice is the tail, from expTail on: it is drawn
// again by tail where that matters.
var expTable = func() (t [expSlices]float32) {
	for i := range t {
		t[i] = float32(-math.Log((float64(i) + 0.5) / expSlices))
	}
	t[0] = maxExp
	return t
}()

const (
	expSlices = 1024
	expTail   = 6.931471805599453 // ln(expSlices)
	maxExp    = 32                // what is as unlikely as exp(-maxExp) is not tried
)

// exp returns an exponential variate.
func (r *rng) exp() float64 {
	if i := r.next() % expSlices; i != 0 {
		return float64(expTable[i])
	}
	return r.tail()
}

// tail returns an exponential variate of those above expTail.
func (r *rng) tail() float64 { return expTail - math.Log(r.float()) }
