package blockdev

import (
	"testing"
	"time"
)

// TestLimits uses a clock of its own: as many requests as the limits allow, one after the other, never more than burst and rate
// give in any span, and not much less.
func TestLimits(t *testing.T) {
	const kib = 1 << 10
	for name, c := range map[string]struct {
		limits  Limits
		request int64
		perSec  float64 // requests
		burst   int
	}{
		"requests":         {Limits{IOPS: 100, BurstOps: 20}, 4 * kib, 100, 20},
		"requests, burst":  {Limits{IOPS: 100}, 4 * kib, 100, 10},
		"bytes":            {Limits{Bytes: 1 << 20, BurstBytes: 256 * kib}, 64 * kib, 16, 4},
		"large requests":   {Limits{Bytes: 1 << 20, BurstBytes: 256 * kib}, 1 << 20, 1, 1},
		"the tighter one":  {Limits{IOPS: 10, BurstOps: 1, Bytes: 1 << 30}, 4 * kib, 10, 1},
		"one in a second":  {Limits{IOPS: 1}, 512, 1, 1},
		"few bytes":        {Limits{Bytes: 1000}, 100 * kib, 1000.0 / (100 * kib), 1},
		"requests of none": {Limits{IOPS: 50, BurstOps: 5, Bytes: 1}, 0, 50, 5},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(1000, 0)
			now := start
			l := NewLimiter(c.limits)
			const n = 200
			var begun []time.Duration
			for range n {
				now = now.Add(l.Reserve(now, c.request))
				begun = append(begun, now.Sub(start))
			}
			for i := range begun {
				for j := i + 1; j < n; j++ {
					span := (begun[j] - begun[i]).Seconds()
					if most := float64(c.burst) + c.perSec*span*1.0001; float64(j-i) > most {
						t.Fatalf("%d requests in %.3f s: at most %.1f are allowed", j-i, span, most)
					}
				}
			}
			if took, fair := begun[n-1].Seconds(), n/c.perSec; took > fair*1.01 {
				t.Errorf("%d requests took %.3f s: %.3f would be enough", n, took, fair)
			}
		})
	}
}

func TestNoLimits(t *testing.T) {
	l := NewLimiter(Limits{})
	for range 1000 {
		if w := l.Reserve(time.Unix(0, 0), 1<<40); w != 0 {
			t.Fatal(w)
		}
	}
}
