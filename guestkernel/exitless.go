package guestkernel

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// maxRunners bounds the vCPUs with a runner.
const maxRunners = 32

// keptRunners is how many runners are made before a sleeping context's vCPU is taken from it.
const keptRunners = 4

// Jobs of a runner.
const (
	jobNone = iota // the vCPU is out of the VM and belongs to the context that holds it
	jobRun
	jobQuit
)

// runner is the thread that keeps a vCPU in the VM.
type runner struct {
	job     atomic.Uint32                // written by the holder to jobRun, by the runner to jobNone
	err     error                        // of the last KVM_RUN; valid at jobNone
	space   atomic.Pointer[AddressSpace] // that the vCPU is in the VM with
	leave   atomic.Bool                  // the holder wants the vCPU out of the VM
	drowsy  atomic.Bool                  // do not look for the next job for long
	waiting atomic.Bool                  // the holder sleeps
	asleep  atomic.Bool                  // the runner sleeps
	wake    chan struct{}                // wakes the holder; holds 1
	gone    chan struct{}                // closed when the thread has ended
}

// Looks before a side gives up, as measured: PAUSE takes from 10 to 140 cycles.
const (
	guestLooks = 60 * time.Microsecond // the stub, for an answer
	hostLooks  = 60 * time.Microsecond // the holder, for a request
	jobLooks   = 50 * time.Microsecond // the runner, for a job
)

func (m *Machine) newRunner() (*vcpu, error) {
	v, err := m.newVCPU()
	if err != nil {
		return nil, err
	}
	v.runner = &runner{wake: make(chan struct{}, 1), gone: make(chan struct{})}
	started := make(chan struct{})
	go v.runner.loop(v, started)
	<-started
	return v, nil
}

func (n *runner) loop(v *vcpu, started chan<- struct{}) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the loop
	defer close(n.gone)
	v.tid.Store(int64(unix.Gettid()))
	close(started)
	for {
		if !n.await() {
			return
		}
		for {
			n.err = v.cpu.Run()
			v.m.stats.exits.Add(1)
			if !errors.Is(n.err, unix.EINTR) {
				break
			}
			v.cpu.ClearExitRequest()
			if n.leave.Load() {
				break
			}
		}
		n.space.Store(nil)
		n.job.Store(jobNone)
		if n.waiting.Load() && n.waiting.Swap(false) {
			n.wake <- struct{}{}
		}
	}
}

// await waits for a job: it looks for a while, then sleeps.
func (n *runner) await() bool {
	var begin time.Time
	for looks := 0; ; looks++ {
		switch n.job.Load() {
		case jobRun:
			return true
		case jobQuit:
			return false
		}
		if looks == 0 {
			begin = time.Now()
		}
		if n.drowsy.Load() || looks%16 == 15 && time.Since(begin) > jobLooks {
			n.asleep.Store(true)
			if n.job.Load() == jobNone {
				futexWait(&n.job, jobNone)
			}
			n.asleep.Store(false)
			looks = 0
			continue
		}
		pause(8)
	}
}

// start gives the runner a job.
func (n *runner) start(job uint32) {
	n.job.Store(job)
	if n.asleep.Load() {
		futexWake(&n.job)
	}
}

func (n *runner) stop(v *vcpu) {
	for n.job.Load() == jobRun {
		n.leave.Store(true)
		v.kick()
		runtime.Gosched()
	}
	n.start(jobQuit)
	for {
		select {
		case <-n.gone:
			return
		case <-time.After(time.Millisecond):
			futexWake(&n.job)
		}
	}
}

// interrupt makes the runner report the next EINTR.
func (n *runner) interrupt() {
	n.leave.Store(true)
}

// awaitRunners waits until no runner is in the VM with an address space that no context uses any more: a program's last system
// call may still be on its way out.
func (m *Machine) awaitRunners(as *AddressSpace) {
	m.mu.Lock()
	cpus := m.cpus
	m.mu.Unlock()
	for _, v := range cpus {
		if v.runner == nil {
			continue
		}
		for begin := time.Now(); v.runner.space.Load() == as; pause(8) {
			if time.Since(begin) > guestLooks { // a hostile program can answer itself in the slot
				v.runner.leave.Store(true)
				v.kick()
				runtime.Gosched()
			}
		}
	}
}

// permit is the right to spend a CPU on looking for requests, and the record of whether that paid.
type permit struct {
	hits, misses int   // of the current round: calls answered in the VM, and those that took an exit in spite of the looking
	backoff      int64 // how long to rest after a bad round
}

const (
	permitRound = 64
	minBackoff  = 128
	maxBackoff  = 8192
)

// mayPoll makes sure of a permit to run exit-less, and of a vCPU with a runner.
func (c *Context) mayPoll() bool {
	if c.permit == nil {
		if cap(c.m.permits) == 0 {
			return false
		}
		if c.m.rest.Load() > 0 {
			c.m.rest.Add(-1)
			return false
		}
		select {
		case c.permit = <-c.m.permits:
		default:
			return false
		}
	}
	if c.held == nil && c.takeHeld() != nil {
		c.givePermit()
		return false
	}
	return true
}

func (c *Context) givePermit() {
	if c.permit != nil {
		c.m.permits <- c.permit
		c.permit = nil
	}
}

// record notes whether a call was answered without an exit. After a round in which most were not (the program computes, or other work
// needs the CPUs), everybody runs direct for a while: each bad round in a row for twice as long.
func (c *Context) record(hit bool) {
	p := c.permit
	if p == nil {
		return
	}
	if hit {
		p.hits++
	} else {
		p.misses++
	}
	if p.hits+p.misses < permitRound {
		return
	}
	if p.misses > p.hits {
		p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
		c.m.rest.Store(p.backoff)
		c.givePermit()
	} else {
		p.backoff = 0
	}
	p.hits, p.misses = 0, 0
}

// takeHeld takes a vCPU with a runner: the one it had, a new one, or the one that was free for longest.
func (c *Context) takeHeld() error {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	take := -1
	for i, v := range m.runners {
		if v == c.recent && v == c.on {
			take = i
			break
		}
		if v.last == nil && take < 0 {
			take = i
		}
	}
	made := 0
	for _, v := range m.cpus {
		if v.runner != nil {
			made++
		}
	}
	if take < 0 && (len(m.runners) == 0 || made < keptRunners) && made < maxRunners {
		v, err := m.newRunner()
		if err != nil {
			return err
		}
		c.held, c.recent = v, v
		return nil
	}
	if len(m.runners) == 0 {
		return errNoRunner
	}
	take = max(take, 0)
	v := m.runners[take]
	m.runners = append(m.runners[:take], m.runners[take+1:]...)
	v.runner.drowsy.Store(false)
	c.held, c.recent = v, v
	return nil
}

var errNoRunner = errors.New("all vCPUs with a runner are in use")

// giveHeld gives vCPU and permit back. A stub that waits leaves the VM.
func (c *Context) giveHeld() {
	v := c.held
	c.held, c.asked = nil, false
	if v.slot != nil {
		storeSpin(v.slot, 0)
	}
	v.runner.drowsy.Store(true)
	c.m.mu.Lock()
	c.m.runners = append(c.m.runners, v)
	c.m.mu.Unlock()
	c.givePermit()
}

// stopHeld gets the held vCPU out of the VM, if it is in it.
func (c *Context) stopHeld() error {
	v := c.held
	if v == nil || v.runner.job.Load() != jobRun {
		return nil
	}
	storeSpin(v.slot, 0)
	c.awaitOut(v)
	var r ring0.Regs
	state := loadState(v.slot)
	t := c.decode(v, &r, v.runner.err)
	if t.Kind == Syscall && state == ring0.SlotParked {
		v.inStub = true
		c.m.stats.syscalls.Add(^uint64(0)) // counted when it was posted
		return nil
	}
	c.reload = true
	return nil
}

// awaitOut waits until the vCPU is out of the VM; one that does not come soon is kicked.
func (c *Context) awaitOut(v *vcpu) {
	n := v.runner
	begin := time.Now()
	for looks := 0; n.job.Load() == jobRun; looks++ {
		if looks%16 == 15 && time.Since(begin) > guestLooks {
			n.leave.Store(true)
			v.kick()
			n.sleep()
			begin = time.Now()
		}
		pause(8)
	}
}

// sleep blocks the holder until the runner has no job.
func (n *runner) sleep() {
	n.waiting.Store(true)
	if n.job.Load() != jobRun && n.waiting.Swap(false) {
		return
	}
	<-n.wake
}

// runExitless runs the program on the held vCPU: through the slot if it waits in the stub, else by its runner.
func (c *Context) runExitless(as *AddressSpace, r *ring0.Regs) Trap {
	v := c.held
	n := v.runner
	if !c.enter(v) {
		return Trap{Kind: Interrupted}
	}
	answered := c.answer(v, as, r)
	if c.asked {
		c.asked = false
		c.record(answered)
	}
	if !answered {
		if n.job.Load() == jobRun { // a stub of this or another context still waits in the VM
			c.awaitOut(v)
			v.inStub = false
		}
		n.leave.Store(false)
		if err := c.prepare(v, as, r); err != nil {
			c.leave()
			return Trap{Kind: Broken, Err: err}
		}
		storeSpin(v.slot, c.m.looks(guestLooks))
		if c.interruptPending() { // it came before leave was cleared
			n.leave.Store(true)
			v.cpu.RequestExit()
		}
		n.space.Store(as)
		n.start(jobRun)
	}
	return c.await(v, r)
}

// answer resumes a program that waits in the stub in the VM. false: it does not.
func (c *Context) answer(v *vcpu, as *AddressSpace, r *ring0.Regs) bool {
	if v.runner.job.Load() != jobRun || v.last != c || c.on != v || v.space != as || c.reload || !plain(r) {
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
	n := v.runner
	begin := time.Now()
	for looks := 1; ; looks++ {
		if n.job.Load() != jobRun {
			break
		}
		if loadState(v.slot) == ring0.SlotRequest {
			interrupted := c.leave()
			*r = v.slot.Regs
			c.m.stats.syscalls.Add(1)
			c.m.stats.exitless.Add(1)
			c.asked = true
			if interrupted {
				c.again()
			}
			return Trap{Kind: Syscall}
		}
		if looks%32 == 0 && time.Since(begin) > hostLooks {
			storeSpin(v.slot, 0)
			if loadState(v.slot) != ring0.SlotRequest {
				c.record(false)
				c.givePermit()
				n.sleep()
				break
			}
		}
		pause(4)
	}
	interrupted := c.leave()
	n.leave.Store(false)
	t := c.decode(v, r, n.err)
	if t.Kind == Syscall {
		c.record(false)
	}
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
