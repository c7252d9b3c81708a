package blockdev

import (
	"time"

	"golang.org/x/time/rate"
)

// Limits are how much of a disk may be used. Zero is no limit.
type Limits struct {
	IOPS  int // requests a second
	Bytes int // bytes read and written a second
	// BurstOps and BurstBytes are what may be used at once after a rest, at least one request and 64 KiB. 0 is a tenth of a
	// second's worth.
	BurstOps, BurstBytes int
}

// Limiter keeps Limits with two token buckets. Its methods may be called concurrently.
type Limiter struct {
	ops, bytes *rate.Limiter // nil: no limit
}

// NewLimiter returns a limiter with full buckets, or nil if nothing is limited.
func NewLimiter(l Limits) *Limiter {
	if l.IOPS <= 0 && l.Bytes <= 0 {
		return nil
	}
	return &Limiter{bucket(l.IOPS, l.BurstOps, 1), bucket(l.Bytes, l.BurstBytes, 64<<10)}
}

func bucket(perSecond, burst, least int) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	if burst <= 0 {
		burst = perSecond / 10
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(burst, least))
}

// Reserve takes the tokens of one request of n bytes, and returns how long after now it may begin. Requests that are reserved
// later begin later. A nil Limiter never makes wait.
func (l *Limiter) Reserve(now time.Time, n int64) time.Duration {
	if l == nil {
		return 0
	}
	return max(reserve(l.ops, now, 1), reserve(l.bytes, now, n))
}

// reserve takes n tokens; more than the bucket holds are taken in parts, each of which waits for the one before.
func reserve(b *rate.Limiter, now time.Time, n int64) time.Duration {
	if b == nil {
		return 0
	}
	var wait time.Duration
	for n > 0 {
		k := min(n, int64(b.Burst()))
		wait = b.ReserveN(now, int(k)).DelayFrom(now)
		n -= k
	}
	return wait
}
