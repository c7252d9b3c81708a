package observe

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const pairEpoch = 100 * time.Millisecond

// players is a made-up crowd: counts of going to sleep, epoch by epoch.
func players(r *rand.Rand, pairs, sleepy, clocks int, jolt bool) map[string]Sample {
	deltas := map[string]Sample{}
	slow := 1.0
	if jolt {
		slow = 0.3
	}
	put := func(name string, n float64) { deltas[name] = Sample{Voluntary: uint64(max(0, n)), Threads: 1} }
	for i := range pairs {
		n := 500 * slow * (1 + 0.1*r.NormFloat64())
		put(fmt.Sprintf("ping%d", i), n+3*r.NormFloat64())
		put(fmt.Sprintf("pong%d", i), n+3*r.NormFloat64())
	}
	for i := range sleepy {
		put(fmt.Sprintf("sleepy%d", i), 500*slow*(1+0.1*r.NormFloat64()))
	}
	for i := range clocks {
		put(fmt.Sprintf("clock%d", i), 100+float64(r.IntN(2)))
	}
	return deltas
}

func TestPairs(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		var p Pairs
		found, wrong := 0, 0
		for i := range 100 {
			p.Observe(pairEpoch, players(r, 4, 8, 4, i%25 > 20))
			links := p.Links()
			right := 0
			for _, l := range links {
				if l.A[4:] == l.B[4:] && l.A[:4] == "ping" && l.B[:4] == "pong" {
					right++
				} else {
					wrong++
				}
				if !(l.Rate > 500 && l.Rate < 6000) {
					t.Errorf("seed %d: link %+v: its rate should be near 5000", seed, l)
				}
			}
			if right == 4 && found == 0 {
				found = i
			}
			if found > 0 && right < 4 {
				t.Errorf("seed %d: epoch %d: links found were lost: %v", seed, i, links)
			}
		}
		if found == 0 || found > pairWindow {
			t.Errorf("seed %d: all pairs found after %d epochs, must be at most %d", seed, found, pairWindow)
		}
		if wrong > 0 {
			t.Errorf("seed %d: %d wrong links", seed, wrong)
		}
		// They stop playing, and go on with something else.
		for range 2 * pairWindow {
			p.Observe(pairEpoch, players(r, 0, 8, 4, false))
		}
		if links := p.Links(); len(links) > 0 {
			t.Errorf("seed %d: links of items that are gone: %v", seed, links)
		}
		if len(p.items) != 12 {
			t.Errorf("seed %d: %d items remembered, must be the 12 that are there", seed, len(p.items))
		}
	}
}

// A link that was chance goes away when the items go separate ways.
func TestPairsPart(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var p Pairs
	play := func(together bool) {
		for range 2 * pairWindow {
			a := 500 * (1 + 0.1*r.NormFloat64())
			b := a
			if !together {
				b = 500 * (1 + 0.1*r.NormFloat64())
			}
			p.Observe(pairEpoch, map[string]Sample{"a": {Voluntary: uint64(a)}, "b": {Voluntary: uint64(b)}})
		}
	}
	play(true)
	if links := p.Links(); len(links) != 1 {
		t.Fatalf("links %v of two that play together", links)
	}
	play(false)
	if links := p.Links(); len(links) != 0 {
		t.Fatalf("links %v of two that have parted", links)
	}
}

// More items than are compared each with each: pairs have like rates, and are found.
func TestPairsOfMany(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	var p Pairs
	const n = 400
	for range 40 {
		deltas := map[string]Sample{}
		for i := range n / 2 {
			c := float64(100+20*i) * (1 + 0.1*r.NormFloat64())
			deltas[fmt.Sprintf("a%d", i)] = Sample{Voluntary: uint64(c)}
			deltas[fmt.Sprintf("b%d", i)] = Sample{Voluntary: uint64(c)}
		}
		p.Observe(pairEpoch, deltas)
	}
	right := 0
	for _, l := range p.Links() {
		if l.A[1:] == l.B[1:] {
			right++
		}
	}
	if right != n/2 {
		t.Errorf("%d of %d pairs found", right, n/2)
	}
}

func TestPairsWithoutTime(t *testing.T) {
	var p Pairs
	for range 20 {
		p.Observe(0, map[string]Sample{"a": {Voluntary: 7}})
		p.Observe(-time.Second, map[string]Sample{"a": {Voluntary: math.MaxUint64}})
	}
	if links := p.Links(); links != nil || len(p.items) != 0 {
		t.Errorf("learned %v from epochs of no length", links)
	}
}

func BenchmarkPairs(b *testing.B) {
	for _, n := range []int{64, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(5, 5))
			var p Pairs
			var epochs [pairWindow + 1]map[string]Sample
			for i := range epochs {
				epochs[i] = players(r, n/4, n/2, 0, false)
				p.Observe(pairEpoch, epochs[i])
			}
			links := 0
			for i := 0; b.Loop(); i++ {
				p.Observe(pairEpoch, epochs[i%len(epochs)])
				links = len(p.Links())
			}
			b.ReportMetric(float64(links), "links")
		})
	}
}
