package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
)

// memoryInterval is how often the guest's memory is measured. What it takes between two looks goes beyond its limit.
const memoryInterval = 50 * time.Millisecond

// guardMemory ends the guest, as a kernel out of memory would, when it has more than its limit. It returns when the guest has ended.
func (s *Sandbox) guardMemory(ended <-chan struct{}) {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		n, err := s.k.MemoryFile().TotalUsage()
		if err == nil && n > s.spec.Memory {
			s.outOfMemory.Store(true)
			s.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))
			return
		}
	}
}

// OutOfMemory says whether the guest was ended because it had more memory than Spec.Memory.
func (s *Sandbox) OutOfMemory() bool { return s.outOfMemory.Load() }
