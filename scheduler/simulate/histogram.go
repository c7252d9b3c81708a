package simulate

import (
	"math/bits"
	"time"
)

// histogram counts latencies in buckets no wider than 1/128 of their value.
type histogram struct {
	buckets  [64 << 7]uint32
	n        int
	low, top int64
	sum      float64
}

func (h *histogram) add(ns int64) {
	if h.n == 0 || ns < h.low {
		h.low = ns
	}
	h.top = max(h.top, ns)
	h.n++
	h.sum += float64(ns)
	h.buckets[bucket(ns)]++
}

func bucket(ns int64) int {
	shift := max(bits.Len64(uint64(ns))-8, 0)
	return shift<<7 + int(ns>>shift)
}

// quantile returns the least value that a share q of all do not exceed, rounded down to its bucket.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int(q*float64(h.n) + 0.9999999)
	for i, seen := 0, 0; i < len(h.buckets); i++ {
		if seen += int(h.buckets[i]); seen >= rank && seen > 0 {
			shift := max(i>>7-1, 0)
			return time.Duration(min(max(int64(i-shift<<7)<<shift, h.low), h.top))
		}
	}
	return 0
}

func (h *histogram) mean() time.Duration { return time.Duration(h.sum / float64(max(h.n, 1))) }
