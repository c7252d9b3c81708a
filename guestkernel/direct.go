package guestkernel

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// maxDirect leaves some vCPUs to runners.
const maxDirect = ring0.MaxVCPUs / 2

// takeDirect returns the calling thread's vCPU, made when the thread first asks. If there are too many, it takes one that no context holds, and if
// there is none, waits and interrupts others in turn.
func (m *Machine) takeDirect(c *Context) (*vcpu, error) {
	tid := unix.Gettid()
	for turn := 0; ; turn++ {
		m.mu.Lock()
		v := m.byTID[tid]
		if v == nil && len(m.byTID) < maxDirect {
			var err error
			if v, err = m.newVCPU(); err != nil {
				m.mu.Unlock()
				return nil, err
			}
			m.byTID[tid] = v
			v.tid.Store(int64(tid))
		}
		if v == nil || v.user != nil {
			v = m.stealDirect(tid)
		}
		if v != nil {
			v.user = c
			m.mu.Unlock()
			return v, nil
		}
		var longest *Context
		i := 0
		for _, other := range m.byTID {
			if i++; i > turn%len(m.byTID) {
				longest = other.user
				break
			}
		}
		m.mu.Unlock()
		if longest != nil {
			longest.Interrupt()
		}
		time.Sleep(directPatience)
	}
}

// stealDirect gives an idle thread's vCPU to this one. The caller holds m.mu.
func (m *Machine) stealDirect(tid int) *vcpu {
	for old, v := range m.byTID {
		if v.user == nil {
			delete(m.byTID, old)
			m.byTID[tid] = v
			v.tid.Store(int64(tid))
			return v
		}
	}
	return nil
}

func (m *Machine) giveDirect(v *vcpu) {
	m.mu.Lock()
	v.user = nil
	m.mu.Unlock()
}
