package mix

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets that are an eighth of an octave wide, so that what it says is at most 12.5 % too long.
// The zero value is empty. Add allocates nothing.
type Histogram struct{ counts [buckets]uint64 }

// buckets covers 0 to 2^43 ns (2.4 hours); what is longer falls into the last one.
const buckets = 8 * 41

// mostCounted bounds what a histogram from outside may claim, so that sums never overflow.
const mostCounted = 1 << 48

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 8 {
		return int(v)
	}
	e := bits.Len64(v) - 4 // v>>e is 8 to 15
	return min(8*e+int(v>>e), buckets-1)
}

// edge is the first duration that is too long for bucket i.
func edge(i int) time.Duration {
	if i < 8 {
		return time.Duration(i + 1)
	}
	return time.Duration(i%8+9) << (i/8 - 1)
}

// Add counts d once.
func (h *Histogram) Add(d time.Duration) { h.counts[bucket(d)]++ }

// Merge adds what o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

// Count is how many durations were added.
func (h *Histogram) Count() uint64 {
	var sum uint64
	for _, n := range h.counts {
		sum += n
	}
	return sum
}

// Quantile is the duration that the share q (0 to 1) of all are no longer than: the upper edge of its bucket, 0 of an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank, seen := min(uint64(q*float64(n)), n-1), uint64(0)
	for i, c := range h.counts {
		if seen += c; seen > rank {
			return edge(i)
		}
	}
	return edge(buckets - 1)
}

// MarshalJSON writes the buckets that are not empty: number, count, number, count.
func (h Histogram) MarshalJSON() ([]byte, error) {
	pairs := []uint64{}
	for i, n := range h.counts {
		if n > 0 {
			pairs = append(pairs, uint64(i), n)
		}
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON reads and checks what MarshalJSON writes.
func (h *Histogram) UnmarshalJSON(text []byte) error {
	var pairs []uint64
	if err := json.Unmarshal(text, &pairs); err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	if len(pairs)%2 != 0 {
		return errors.New("histogram: a bucket without a count")
	}
	*h = Histogram{}
	for next := uint64(0); len(pairs) > 0; pairs = pairs[2:] {
		i, n := pairs[0], pairs[1]
		if i < next || i >= buckets || n == 0 || n > mostCounted {
			return fmt.Errorf("histogram: bucket %d with count %d: buckets ascend to %d, counts are 1 to %d", i, n, buckets-1, uint64(mostCounted))
		}
		h.counts[i], next = n, i+1
	}
	return nil
}
