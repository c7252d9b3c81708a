package guestkernel

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cpusPerRunner is how many vCPUs a runner has: programs that take turns find their vector state where they left it.
const cpusPerRunner = 8

// runner is a thread that keeps vCPUs in the VM, one at a time, and the permit to use it: whoever has it from Machine.runners may spend a CPU
// on looking for requests. One thread for all saves waking another when programs take turns (pipe ping-pong took less than half the time).
type runner struct {
	m       *Machine
	next    atomic.Pointer[vcpu] // the job; the holder stores it, the runner takes it
	current atomic.Pointer[vcpu] // in the VM, or about to be
	asleep  atomic.Uint32        // 1: nobody looks for next
	quit    atomic.Bool
	gone    chan struct{} // closed when the thread has ended; nil before it has begun

	// The holder's.
	cpus   []*vcpu // least recently taken first
	record record
}

// exitless is what a vCPU of a runner has beside what all have.
type exitless struct {
	runner  *runner
	inVM    atomic.Bool                  // the runner has it; set by the holder, cleared by the runner
	err     error                        // of the last KVM_RUN; valid when not inVM
	space   atomic.Pointer[AddressSpace] // it is in the VM with
	leave   atomic.Bool                  // the holder wants it out of the VM
	waiting atomic.Bool                  // the holder sleeps until it is
	wake    chan struct{}                // wakes the holder; holds 1
}

// jobLooks is how long a runner looks for its next job before it sleeps.
const jobLooks = 50 * time.Microsecond

// newVCPU makes a vCPU for the runner, and starts it with the first.
func (n *runner) newVCPU() (*vcpu, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	v, err := n.m.newVCPU()
	if err != nil {
		return nil, err
	}
	v.exitless = &exitless{runner: n, wake: make(chan struct{}, 1)}
	if n.gone == nil {
		n.gone = make(chan struct{})
		n.m.started = append(n.m.started, n)
		go n.loop()
	}
	return v, nil
}

func (n *runner) loop() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the loop
	defer close(n.gone)
	tid := int64(unix.Gettid())
	for {
		v := n.await()
		if v == nil {
			return
		}
		v.tid.Store(tid)
		x := v.exitless
		for {
			x.err = v.cpu.Run()
			n.m.stats.exits.Add(1)
			if !errors.Is(x.err, unix.EINTR) {
				break
			}
			v.cpu.ClearExitRequest()
			if x.leave.Load() {
				break
			}
		}
		x.space.Store(nil)
		n.current.Store(nil)
		x.inVM.Store(false)
		if x.waiting.Load() && x.waiting.Swap(false) {
			x.wake <- struct{}{}
		}
	}
}

// await waits for a job, nil at the end: it looks for a while, then sleeps.
func (n *runner) await() *vcpu {
	begin := time.Now()
	for looks := 1; ; looks++ {
		if v := n.next.Load(); v != nil {
			n.current.Store(v)
			n.next.Store(nil)
			return v
		}
		if n.quit.Load() {
			return nil
		}
		if looks%16 == 0 && time.Since(begin) > jobLooks {
			n.asleep.Store(1)
			if n.next.Load() == nil && !n.quit.Load() {
				futexWait(&n.asleep, 1)
			}
			n.asleep.Store(0)
			begin = time.Now()
		}
		pause(8)
	}
}

// start gives the runner a vCPU to run with the address space. One that is still on its way out is waited for; if it does not come soon, it is kicked.
func (n *runner) start(v *vcpu, as *AddressSpace) {
	begin := time.Now()
	for looks := 1; ; looks++ {
		other := n.current.Load()
		if other == nil && n.next.Load() == nil {
			break
		}
		if other != nil && looks%16 == 0 && time.Since(begin) > guestLooks {
			other.exitless.leave.Store(true)
			other.kick()
			begin = time.Now()
		}
		pause(8)
	}
	v.exitless.space.Store(as)
	v.exitless.inVM.Store(true)
	n.next.Store(v)
	if n.asleep.Load() == 1 && n.asleep.CompareAndSwap(1, 0) {
		futexWake(&n.asleep)
	}
}

// stop ends the runner's thread. No context may run any more.
func (n *runner) stop() {
	n.quit.Store(true)
	for {
		if v := n.current.Load(); v != nil {
			v.exitless.leave.Store(true)
			v.kick()
		}
		n.asleep.Store(0)
		futexWake(&n.asleep)
		select {
		case <-n.gone:
			return
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// awaitOut waits until a vCPU is out of the VM; one that does not come soon is kicked.
func (v *vcpu) awaitOut() {
	x := v.exitless
	begin := time.Now()
	for looks := 1; x.inVM.Load(); looks++ {
		if looks%16 == 0 && time.Since(begin) > guestLooks {
			x.leave.Store(true)
			v.kick()
			x.sleep()
			begin = time.Now()
		}
		pause(8)
	}
}

// sleep blocks the holder until the vCPU is out of the VM.
func (x *exitless) sleep() {
	x.waiting.Store(true)
	if !x.inVM.Load() && x.waiting.Swap(false) {
		return
	}
	<-x.wake
}

// awaitRunners waits until no runner is in the VM with an address space that no context uses any more: a program's last system
// call may still be on its way out.
func (m *Machine) awaitRunners(as *AddressSpace) {
	m.mu.Lock()
	started := m.started
	m.mu.Unlock()
	for _, n := range started {
		begin := time.Now()
		for {
			v := n.current.Load()
			if v == nil || v.exitless.space.Load() != as {
				break
			}
			if time.Since(begin) > guestLooks { // a hostile program can answer itself in the slot
				v.exitless.leave.Store(true)
				v.kick()
				runtime.Gosched()
			}
			pause(8)
		}
	}
}

// take picks the vCPU for c: the one it had, a free one, a new one, or the one that was taken longest ago.
func (n *runner) take(c *Context) (*vcpu, error) {
	pick := -1
	for i, v := range n.cpus {
		switch v.last.Load() {
		case c:
			pick = i
		case nil:
			if pick < 0 {
				pick = i
			}
			continue
		default:
			continue
		}
		break
	}
	if pick < 0 && len(n.cpus) < cpusPerRunner {
		v, err := n.newVCPU()
		if err != nil {
			return nil, err
		}
		n.cpus = append(n.cpus, v)
		return v, nil
	}
	pick = max(pick, 0)
	v := n.cpus[pick]
	n.cpus = append(append(n.cpus[:pick:pick], n.cpus[pick+1:]...), v)
	return v, nil
}

// record is whether answers came in time lately.
type record struct {
	events, late int   // of the round so far
	backoff      int64 // how long to rest after the last round
}

const (
	recordRound = 64
	minRest     = 64
	maxRest     = 4096
)

// note counts an answer. When many come after the stub has given up, the CPUs are needed for other work: everybody runs direct for a
// while, twice as long after each such round.
func (r *record) note(m *Machine, late bool) {
	r.events++
	if late {
		r.late++
	}
	if r.events < recordRound {
		return
	}
	if r.late > recordRound/4 {
		r.backoff = min(max(2*r.backoff, minRest), maxRest)
		m.rest.Store(r.backoff)
	} else {
		r.backoff = 0
	}
	r.events, r.late = 0, 0
}
