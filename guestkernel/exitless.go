package guestkernel

import (
	"time"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// How long each side looks before it gives up.
const (
	guestLooks = 60 * time.Microsecond  // the stub, for an answer
	hostLooks  = 100 * time.Microsecond // the holder, for a request
)

// A context's pace says how often it traps: each trap that comes soon adds 1, each that does not takes longRun. Exit-less calls begin
// at startPace and end at 0: a program that computes, or has only just begun, is better off with exits.
const (
	startPace = 24
	maxPace   = 32
	longRun   = 4
)

// mayPoll makes sure of a permit to run exit-less, and of a vCPU with it.
func (c *Context) mayPoll() bool {
	if c.held != nil {
		if (c.pace > 0 || c.m.eager) && c.m.rest.Load() <= 0 {
			return true
		}
	} else {
		if cap(c.m.runners) == 0 {
			return false
		}
		if c.pace < startPace && !c.m.eager {
			return false
		}
		if c.m.rest.Load() <= 0 {
			select {
			case n := <-c.m.runners:
				v, err := n.take(c)
				if err == nil {
					c.held = v
					return true
				}
				c.m.runners <- n
			default:
				c.m.wanted.Store(true)
			}
			return false
		}
	}
	c.m.rest.Add(-1)
	return false
}

// giveHeld gives vCPU and permit back. A stub that waits leaves the VM.
func (c *Context) giveHeld() {
	v := c.held
	c.held, c.asked = nil, false
	if v.slot != nil {
		storeSpin(v.slot, 0)
	}
	c.m.runners <- v.exitless.runner
}

// stopHeld gets the held vCPU out of the VM, if it is in it.
func (c *Context) stopHeld() {
	v := c.held
	if v == nil || !v.exitless.inVM.Load() {
		return
	}
	storeSpin(v.slot, 0)
	v.awaitOut()
	c.reload, c.asked = true, false // whoever calls has the registers
}

// runExitless runs the program on the held vCPU: through the slot if it waits in the stub, else by the runner.
func (c *Context) runExitless(as *AddressSpace, r *ring0.Regs) Trap {
	v := c.held
	x := v.exitless
	if !c.enter(v) {
		return Trap{Kind: Interrupted}
	}
	answered := c.answer(v, as, r)
	if c.asked {
		c.asked = false
		if answered || !c.reload {
			x.runner.record.note(c.m, !answered)
		}
	}
	if !answered {
		v.awaitOut() // a stub of this or another context may still wait in the VM
		v.inStub = false
		x.leave.Store(false)
		if err := c.prepare(v, as, r); err != nil {
			c.leave()
			return Trap{Kind: Broken, Err: err}
		}
		storeSpin(v.slot, c.m.looks(guestLooks))
		if c.interruptPending() { // it came before leave was cleared
			x.leave.Store(true)
			v.cpu.RequestExit()
		}
		x.runner.start(v, as)
	}
	return c.await(v, r)
}

// answer resumes a program that waits in the stub in the VM. false: it does not.
func (c *Context) answer(v *vcpu, as *AddressSpace, r *ring0.Regs) bool {
	if !v.exitless.inVM.Load() || v.last.Load() != c || c.on != v || v.space != as || c.reload || !plain(r) {
		return false
	}
	if loadState(v.slot) != ring0.SlotRequest {
		return false
	}
	v.slot.Regs = *r
	return swapState(v.slot, ring0.SlotRequest, ring0.SlotResume)
}

// await looks for the program's next trap.
func (c *Context) await(v *vcpu, r *ring0.Regs) Trap {
	x := v.exitless
	begin := time.Now()
	for looks := 1; x.inVM.Load(); looks++ {
		if loadState(v.slot) == ring0.SlotRequest {
			interrupted := c.leave()
			*r = v.slot.Regs
			c.m.stats.syscalls.Add(1)
			c.m.stats.exitless.Add(1)
			c.asked = true
			c.pace = min(c.pace+1, maxPace)
			if interrupted {
				c.again()
			}
			return Trap{Kind: Syscall}
		}
		if looks%32 == 0 && time.Since(begin) > hostLooks {
			storeSpin(v.slot, 0)
			if loadState(v.slot) == ring0.SlotRequest {
				continue
			}
			c.pace -= longRun
			if c.m.wanted.Swap(false) { // another context can make more of the permit
				c.yielding = true
				x.leave.Store(true)
				v.kick()
			}
			x.sleep()
		}
		pause(4)
	}
	interrupted := c.leave()
	x.leave.Store(false)
	t := c.decode(v, r, x.err)
	c.yielding = c.yielding && !interrupted
	if interrupted && t.Kind != Interrupted {
		c.again()
	}
	return t
}

// again puts an interruption off to the next Run: a trap came first.
func (c *Context) again() {
	c.mu.Lock()
	c.pending = true
	c.mu.Unlock()
}

// looks returns how many looks of the stub take the given time.
func (m *Machine) looks(d time.Duration) uint32 {
	return uint32(max(1, d/m.pauseCost))
}
