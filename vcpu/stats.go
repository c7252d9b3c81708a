package vcpu

import (
	"sync"
	"sync/atomic"
)

// maxReason bounds the exit reasons that are counted one by one; others share the last counter.
const maxReason = 64

// counters are written by the vCPU's thread only and read by anyone.
type counters struct {
	exits      [maxReason]atomic.Uint64
	interrupts atomic.Uint64 // KVM_RUN ended by EINTR: kicks and signals

	mu        sync.Mutex
	completed map[string]uint64 // by mnemonic; protected by mu
}

func (c *counters) exit(reason uint32) { c.exits[min(reason, maxReason-1)].Add(1) }

func (c *counters) complete(op string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.completed == nil {
		c.completed = make(map[string]uint64)
	}
	c.completed[op]++
}

// Stats are a vCPU's counts since its creation.
type Stats struct {
	Exits       map[string]uint64 // by reason name; "interrupted" counts kicks and signals
	Completions map[string]uint64 // instructions finished in user space, by mnemonic
}

// Stats returns the counts so far. Safe at any time.
func (v *VCPU) Stats() Stats {
	s := Stats{Exits: map[string]uint64{}, Completions: map[string]uint64{}}
	for i := range v.counts.exits {
		if n := v.counts.exits[i].Load(); n > 0 {
			s.Exits[ReasonName(uint32(i))] += n
		}
	}
	if n := v.counts.interrupts.Load(); n > 0 {
		s.Exits["interrupted"] += n
	}
	v.counts.mu.Lock()
	defer v.counts.mu.Unlock()
	for op, n := range v.counts.completed {
		s.Completions[op] = n
	}
	return s
}
