package guestkernel

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
	"github.com/qenex/qenex-kernel/kvm"
)

// Context is one thread of a program. All methods but Interrupt are for one goroutine at a time.
type Context struct {
	m *Machine

	mu      sync.Mutex
	cpu     *vcpu // in or about to be in the VM; protected by mu
	pending bool  // Interrupt was called and nobody has noticed; protected by mu

	held     *vcpu // a vCPU of a runner, and the permit to use it
	on       *vcpu // the one it ran on last: what others hold of it is old
	asked    bool  // its last trap was a request in the slot, not answered yet
	reload   bool  // the host changed more than a resumption in the stub can load
	exitless bool  // how it ran last
	yielding bool  // it was interrupted to pass its permit on
	pace     int   // see startPace

	fpMu  sync.Mutex
	fpCPU *vcpu      // whose registers hold the FP state; nil: fpMem has it; protected by fpMu
	fpMem *kvm.XSave // protected by fpMu
}

// NewContext makes a context. Its FP state is the CPU's initial one until SetFP. The caller releases it.
func (m *Machine) NewContext() *Context {
	c := &Context{m: m, fpMem: new(kvm.XSave), reload: true}
	// FCW and MXCSR as after reset (SDM vol. 1, 8.1.5 and 10.2.3); no component is in use.
	c.fpMem.Region[0], c.fpMem.Region[1] = 0x7F, 0x03
	c.fpMem.Region[24], c.fpMem.Region[25] = 0x80, 0x1F
	return c
}

// Run runs the program in the address space with the given registers until it traps, and leaves its registers in r.
// After an interruption r may be as it was.
func (c *Context) Run(as *AddressSpace, r *ring0.Regs) Trap {
	if c.mayPoll() {
		if !c.exitless {
			c.exitless = true
			c.m.stats.modes.Add(1)
		}
		if t := c.runExitless(as, r); !c.yielding || t.Kind != Interrupted {
			c.yielding = false
			return t
		}
		c.yielding, c.pace = false, 0
	}
	if c.exitless {
		c.exitless = false
		c.m.stats.modes.Add(1)
	}
	if c.held != nil {
		c.stopHeld()
		c.giveHeld()
		c.pace = 0
	}
	return c.runDirect(as, r)
}

// Interrupt makes the current Run, or else the next, return. It may be called from any goroutine.
func (c *Context) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending {
		return
	}
	c.pending = true
	if c.cpu != nil {
		if x := c.cpu.exitless; x != nil {
			x.leave.Store(true)
		}
		c.cpu.kick()
	}
}

// enter says that c is about to run on v. false: it was interrupted before.
func (c *Context) enter(v *vcpu) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending {
		c.pending = false
		return false
	}
	c.cpu = v
	return true
}

// leave says that c no longer runs, and whether it was interrupted meanwhile.
func (c *Context) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.pending
	c.pending, c.cpu = false, nil
	return was
}

func (c *Context) interruptPending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending
}

// runDirect enters the VM on the calling thread.
func (c *Context) runDirect(as *AddressSpace, r *ring0.Regs) Trap {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	v, err := c.m.takeDirect(c)
	if err != nil {
		return Trap{Kind: Broken, Err: err}
	}
	defer c.m.giveDirect(v)
	if err := c.prepare(v, as, r); err != nil {
		return Trap{Kind: Broken, Err: err}
	}
	if !c.enter(v) {
		v.sync.Dirty, c.reload = 0, true // nothing ran: what was prepared is void
		return Trap{Kind: Interrupted}
	}
	begin := time.Now()
	for {
		err = v.cpu.Run()
		c.m.stats.exits.Add(1)
		if errors.Is(err, unix.EINTR) {
			v.cpu.ClearExitRequest()
			if !c.interruptPending() {
				continue // a signal of the Go runtime
			}
		}
		break
	}
	if time.Since(begin) < 2*c.m.exitCost {
		c.pace = min(c.pace+1, maxPace)
	} else {
		c.pace = max(c.pace-longRun, 0)
	}
	interrupted := c.leave()
	if interrupted {
		v.cpu.ClearExitRequest()
	}
	t := c.decode(v, r, err)
	if interrupted && t.Kind != Interrupted {
		c.mu.Lock()
		c.pending = true // the trap comes first, the interruption with the next Run
		c.mu.Unlock()
	}
	return t
}

// prepare readies a vCPU that is out of the VM for c: by an answer in the slot if it waits in the stub for that, else by
// loading all registers.
func (c *Context) prepare(v *vcpu, as *AddressSpace, r *ring0.Regs) error {
	if v.inStub && v.last.Load() == c && c.on == v && v.space == as && !c.reload && plain(r) {
		v.slot.Regs = *r
		storeState(v.slot, ring0.SlotResume)
		v.inStub = false
		return nil
	}
	if c.on != v {
		c.m.stats.migrations.Add(1)
	}
	if err := c.loadFP(v); err != nil {
		return err
	}
	if err := v.load(as, r); err != nil {
		return err
	}
	v.last.Store(c)
	c.on, c.reload = v, false
	return nil
}

// plain says whether the stub can resume a program with these registers: SYSRET and WRFSBASE must not fault, and a trap
// flag would trap in the stub.
func plain(r *ring0.Regs) bool {
	return r.RIP < pagetable.Limit && r.RFLAGS&flagTF == 0 && canonical(r.FSBase) && canonical(r.GSBase)
}

func canonical(a uint64) bool { return a>>47 == 0 || a>>47 == 1<<17-1 }

// loadFP puts c's FP state into the vCPU's registers, and saves whose was there.
func (c *Context) loadFP(v *vcpu) error {
	if prev := v.fp; prev != nil && prev != c {
		if err := prev.saveFP(v, true); err != nil {
			return err
		}
	}
	c.fpMu.Lock()
	defer c.fpMu.Unlock()
	if c.fpCPU == v {
		return nil
	}
	if c.fpCPU != nil {
		x, err := c.fpCPU.cpu.XSave()
		if err != nil {
			return err
		}
		c.fpMem = x
	}
	if err := v.cpu.SetXSave(c.fpMem); err != nil {
		return err
	}
	c.fpCPU, v.fp = v, c
	return nil
}

// saveFP copies c's FP state to memory if v's registers hold it, and with evict ends that.
func (c *Context) saveFP(v *vcpu, evict bool) error {
	c.fpMu.Lock()
	defer c.fpMu.Unlock()
	if c.fpCPU != v || v == nil {
		return nil
	}
	x, err := v.cpu.XSave()
	if err != nil {
		return err
	}
	c.fpMem = x
	if evict {
		c.fpCPU, v.fp = nil, nil
	}
	return nil
}

// xstateBV is where XSTATE_BV begins in an XSAVE area (SDM vol. 1, 13.4.2).
const xstateBV = 512

// FP writes the program's FP state into state, in the standard XSAVE format, as far as it fits. The header says that x87 and SSE state
// are in use, as Linux's signal frames do: what a handler writes there counts even if the program has not used them.
func (c *Context) FP(state []byte) error {
	c.stopHeld()
	c.fpMu.Lock()
	v := c.fpCPU
	c.fpMu.Unlock()
	if err := c.saveFP(v, false); err != nil {
		return err
	}
	c.fpMu.Lock()
	defer c.fpMu.Unlock()
	n := copy(state, c.fpMem.Region[:])
	if n > xstateBV {
		state[xstateBV] |= 1<<0 | 1<<1 // with none in use, KVM has filled in the initial state
	}
	return nil
}

// SetFP replaces the program's FP state by an XSAVE area in the standard format. Like a change of other registers by
// the host it takes effect with the next Run; SetFP(nil) says only that there was such a change.
func (c *Context) SetFP(state []byte) {
	c.reload = true
	if state == nil {
		return
	}
	c.fpMu.Lock()
	defer c.fpMu.Unlock()
	n := copy(c.fpMem.Region[:], state)
	clear(c.fpMem.Region[n:])
	c.fpCPU = nil
}

// Sleep says that the program will not run for a while: a vCPU held for it is free for others.
func (c *Context) Sleep() {
	if c.held != nil {
		c.giveHeld()
	}
}

// Leave takes the program off every vCPU. Its address space may be released then, or changed for another.
func (c *Context) Leave() {
	if c.held != nil {
		c.stopHeld()
		c.giveHeld()
	}
	if c.on != nil {
		c.on.last.CompareAndSwap(c, nil)
	}
	c.on, c.reload = nil, true
}

// Release frees the context.
func (c *Context) Release() {
	c.Leave()
	c.fpMu.Lock()
	c.fpCPU = nil
	c.fpMu.Unlock()
}

// directPatience is how long a context waits for a vCPU when all are in the VM, before it interrupts one.
const directPatience = 10 * time.Millisecond
