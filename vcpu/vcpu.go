package vcpu

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
)

// State of a vCPU; see the package comment for the transitions.
type State int32

// States.
const (
	Created State = iota
	Running
	Paused
	Faulted
	Stopped
)

var stateNames = [...]string{"created", "running", "paused", "faulted", "stopped"}

func (s State) String() string { return stateNames[s] }

// Errors of the lifecycle methods.
var (
	ErrState = errors.New("wrong vCPU state")
	ErrFault = errors.New("vCPU faulted")
)

// Bus takes a guest's port or MMIO accesses. Reads of addresses without a device fill p
// with ones. It may block, but must return soon once the machine is being stopped.
type Bus interface {
	Read(addr uint64, p []byte)
	Write(addr uint64, p []byte)
}

// Config is what a vCPU works with. All fields are immutable after New.
type Config struct {
	Ports  Bus
	MMIO   Bus
	Memory *memmap.Memory

	// Complete finishes instructions that KVM cannot emulate in user space.
	Complete bool
	// Shim, when not nil, is the VM's SYSCALL shim, shared by its vCPUs.
	Shim *SyscallShim
	// OnFault is called on the vCPU's thread when it cannot go on. True means that
	// the cause is mended and the guest is to be entered again. Nil means false.
	OnFault func(*VCPU, *Fault) bool
}

// VCPU is one vCPU. Its methods may be called from any goroutine; those that wait for its thread not from
// its own handlers.
type VCPU struct {
	kvm *kvm.VCPU
	cfg Config

	counts counters

	request atomic.Uint32 // 1: the thread must look at want; set by kick, cleared by the thread
	tid     atomic.Int32  // the thread's id while it runs, else 0

	done chan struct{} // closed when the thread has ended

	debug atomic.Pointer[Debug] // what a debugger wants; nil: there is none. Changed only while the vCPU is quiet

	mu      sync.Mutex
	state   State         // protected by mu
	want    State         // Running, Paused or Stopped; protected by mu
	fault   *Fault        // protected by mu
	stop    *DebugStop    // why it was paused, if for the debugger; protected by mu
	changed chan struct{} // closed and replaced at every change of state or want; protected by mu

	// Only the vCPU's thread touches these.
	settling bool // an exit's answer may still wait for the next entry
}

// New takes over k, which must have its CPUID and initial registers. Close the VCPU to close it.
func New(k *kvm.VCPU, cfg Config) *VCPU {
	return &VCPU{kvm: k, cfg: cfg, done: make(chan struct{}), changed: make(chan struct{})}
}

// ID returns the APIC id.
func (v *VCPU) ID() int { return v.kvm.ID() }

// State returns the state now.
func (v *VCPU) State() State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

// Fault returns why the vCPU is Faulted, or nil.
func (v *VCPU) Fault() *Fault {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fault
}

// ThreadID returns the Linux thread id that runs the guest, or 0 when there is none.
func (v *VCPU) ThreadID() int { return int(v.tid.Load()) }

// Done is closed when the vCPU's thread has ended after Stop, or at once if it never started.
func (v *VCPU) Done() <-chan struct{} { return v.done }

// setLocked changes state and want and wakes all waiters. mu must be held.
func (v *VCPU) setLocked(state, want State) {
	v.state, v.want = state, want
	close(v.changed)
	v.changed = make(chan struct{})
}

// Start begins to run the guest on a thread of its own.
func (v *VCPU) Start() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state != Created {
		return fmt.Errorf("start vCPU %d: %w: %v", v.ID(), ErrState, v.state)
	}
	v.setLocked(Running, Running)
	go v.thread()
	return nil
}

// kick makes the thread leave the guest, or not enter it, and look at want.
func (v *VCPU) kick() {
	v.request.Store(1)
	v.kvm.RequestExit()
	if tid := v.tid.Load(); tid != 0 {
		// SIGURG is the Go runtime's own preemption signal: harmless anywhere, and it ends
		// KVM_RUN. ESRCH, when the thread just ended, needs nothing.
		_ = unix.Tgkill(unix.Getpid(), int(tid), unix.SIGURG)
	}
}

// Pause makes the vCPU leave the guest and waits until it has. State may then be saved.
// A created vCPU cannot be paused; a faulted or stopped one gives an error.
func (v *VCPU) Pause(ctx context.Context) error {
	v.mu.Lock()
	switch v.state {
	case Paused:
		v.mu.Unlock()
		return nil
	case Running:
		if v.want != Stopped { // which nobody takes back
			v.setLocked(Running, Paused)
			v.kick()
		}
	}
	v.mu.Unlock()
	return v.wait(ctx, "pause", Paused)
}

// Resume lets a paused vCPU enter the guest again.
func (v *VCPU) Resume() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.want == Stopped:
		return fmt.Errorf("resume vCPU %d: %w: it is to stop", v.ID(), ErrState)
	case v.state == Running && v.want == Running:
	case v.state == Paused, v.state == Running && v.want == Paused:
		// Running from now on, not from when the thread wakes up: a Pause that comes first must wait for it.
		v.stop = nil
		v.setLocked(Running, Running)
	default:
		return fmt.Errorf("resume vCPU %d: %w: %v", v.ID(), ErrState, v.state)
	}
	return nil
}

// RequestStop makes the vCPU's thread end and does not wait for it. It may be called in any state, more than
// once, and from the vCPU's own handlers.
func (v *VCPU) RequestStop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch v.state {
	case Created:
		v.setLocked(Stopped, Stopped)
		close(v.done)
	case Stopped:
	default:
		v.setLocked(v.state, Stopped)
		v.kick()
	}
}

// Stop ends the vCPU's thread and waits for it. It may be called in any state, more than once.
func (v *VCPU) Stop(ctx context.Context) error {
	v.RequestStop()
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop vCPU %d: %w", v.ID(), ctx.Err())
	}
}

// Close stops the vCPU, waits for its thread and closes the KVM descriptor.
func (v *VCPU) Close() error {
	if err := v.Stop(context.Background()); err != nil {
		return err
	}
	return v.kvm.Close()
}

// wait blocks until the vCPU is in the wanted state, or can never get there.
func (v *VCPU) wait(ctx context.Context, what string, target State) error {
	for {
		v.mu.Lock()
		state, fault, changed := v.state, v.fault, v.changed
		v.mu.Unlock()
		switch {
		case state == target:
			return nil
		case state == Faulted:
			return fmt.Errorf("%s vCPU %d: %w: %w", what, v.ID(), ErrFault, fault)
		case state != Running:
			return fmt.Errorf("%s vCPU %d: %w: %v", what, v.ID(), ErrState, state)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s vCPU %d: %w", what, v.ID(), ctx.Err())
		}
	}
}

// thread is the vCPU's goroutine.
func (v *VCPU) thread() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the vCPU, and its name with it
	if unix.Gettid() == unix.Getpid() {
		// The first thread's name is the process's. While this goroutine has it, another one gets another.
		go v.thread()
		<-v.done
		runtime.UnlockOSThread()
		return
	}
	nameThread(v.ID())
	v.tid.Store(int32(unix.Gettid()))
	v.loop()
	v.tid.Store(0)
	v.mu.Lock()
	v.setLocked(Stopped, Stopped)
	v.mu.Unlock()
	close(v.done)
}

// obey does what others want of the thread and returns false when it must end. It runs on the
// thread, outside the guest.
func (v *VCPU) obey() (goOn bool) {
	for {
		v.mu.Lock()
		switch v.want {
		case Stopped:
			v.mu.Unlock()
			return false
		case Running:
			v.mu.Unlock()
			return true
		}
		// Paused is wanted.
		if v.state == Running && v.settling {
			v.mu.Unlock()
			if f := v.settle(); f != nil {
				v.faulted(f)
				return false
			}
			continue
		}
		if v.state != Paused {
			v.setLocked(Paused, Paused)
		}
		changed := v.changed
		v.mu.Unlock()
		<-changed
	}
}

// faulted parks the thread until it is told to stop.
func (v *VCPU) faulted(f *Fault) {
	v.mu.Lock()
	v.fault = f
	v.setLocked(Faulted, v.want)
	for v.want != Stopped {
		changed := v.changed
		v.mu.Unlock()
		<-changed
		v.mu.Lock()
	}
	v.mu.Unlock()
}
