package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
)

// machine is a VM of one vCPU and six pages. It belongs to one locked thread.
type machine struct {
	vm    *kvm.VM
	cpu   *kvm.VCPU
	mem   []byte
	reset kvm.Sregs // as the vCPU came
	cr4   uint64    // for each start

	kicked atomic.Bool // the run's time is over
}

// onMachine runs f with a new machine on a locked thread and closes the machine after it.
func onMachine(sys *kvm.System, cpuid []kvm.CPUIDEntry, f func(*machine) error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := &machine{cr4: cr4PAE | cr4OSFXSR | cr4OSXMMEXCPT}
	defer func() { err = errors.Join(err, m.close()) }()
	if m.mem, err = unix.Mmap(-1, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("map %d bytes for a probe VM: %w", memSize, err)
	}
	buildGuest(m.mem)
	if m.vm, err = sys.CreateVM(); err != nil {
		return err
	}
	if err := m.vm.SetMemory(0, 0, 0, m.mem); err != nil {
		return err
	}
	if m.cpu, err = m.vm.CreateVCPU(0); err != nil {
		return err
	}
	if err := m.cpu.SetCPUID(cpuid); err != nil {
		return err
	}
	if m.reset, err = m.cpu.Sregs(); err != nil {
		return err
	}
	return f(m)
}

func (m *machine) close() error {
	var errs []error
	if m.cpu != nil {
		errs = append(errs, m.cpu.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	if m.mem != nil {
		errs = append(errs, unix.Munmap(m.mem))
	}
	return errors.Join(errs...)
}

// start puts code at codeGPA and the vCPU before its first instruction, at the given level with
// IOPL 3. Registers but RIP, RSP and RFLAGS are taken from regs.
func (m *machine) start(level ring, regs kvm.Regs, code ...byte) error {
	if err := m.settle(); err != nil {
		return err
	}
	copy(m.mem[codeGPA:], code)
	s := sregs(m.reset, level, m.cr4)
	if err := m.cpu.SetSregs(&s); err != nil {
		return err
	}
	regs.RIP, regs.RSP, regs.RFLAGS = codeGPA, stackTop, flagsFixed|flagsIOPL3
	return m.cpu.SetRegs(&regs)
}

// settle finishes the guest instruction that the last exit was in the middle of: KVM does
// that on entry, and immediate exit stops it right after (api.rst, KVM_RUN).
func (m *machine) settle() error {
	m.cpu.RequestExit()
	defer m.cpu.ClearExitRequest()
	if err := m.cpu.Run(); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}

// stop is how a run ended.
type stop struct {
	reason uint32 // kvm.ExitXxx
	port   uint16 // of ExitIO
	al     byte   // what a one-byte OUT wrote
}

func (s stop) String() string {
	switch {
	case s.reason == kvm.ExitIO && s.port == exceptionPort:
		return fmt.Sprintf("exception %d", s.al)
	case s.reason == kvm.ExitIO:
		return fmt.Sprintf("OUT %#x to port %#x", s.al, s.port)
	case s.reason == kvm.ExitShutdown:
		return "triple fault"
	case s.reason == kvm.ExitInternalError:
		return "internal error (instruction not emulated)"
	}
	return fmt.Sprintf("exit reason %d", s.reason)
}

// errTime says that a guest did not end in its time.
var errTime = errors.New("guest code does not end")

// runFor runs until an exit, at most for the limit.
func (m *machine) runFor(limit time.Duration) (stop, error) {
	pid, tid := unix.Getpid(), unix.Gettid()
	kicked := make(chan error, 1)
	timer := time.AfterFunc(limit, func() {
		// The request is set before the signal: a signal that comes just before KVM_RUN is not lost.
		m.kicked.Store(true)
		m.cpu.RequestExit()
		kicked <- unix.Tgkill(pid, tid, unix.SIGURG)
	})
	end, err := m.run()
	if timer.Stop() {
		return end, err
	}
	kickErr := <-kicked
	m.cpu.ClearExitRequest()
	m.kicked.Store(false)
	if errors.Is(err, errTime) {
		err = fmt.Errorf("%w within %v", err, limit)
	}
	return end, errors.Join(err, kickErr)
}

// run runs until an exit. Interruptions by signals of the Go runtime are run through; a
// requested exit gives errTime.
func (m *machine) run() (stop, error) {
	area := m.cpu.RunArea()
	for {
		err := m.cpu.Run()
		if errors.Is(err, unix.EINTR) {
			if m.kicked.Load() {
				return stop{}, errTime
			}
			continue
		}
		if err != nil {
			return stop{}, err
		}
		break
	}
	end := stop{reason: binary.LittleEndian.Uint32(area[kvm.RunExitReason:])}
	if end.reason == kvm.ExitIO {
		io := area[kvm.RunUnion:]
		end.port = binary.LittleEndian.Uint16(io[2:])
		offset := binary.LittleEndian.Uint64(io[8:])
		if offset >= uint64(len(area)) {
			return stop{}, fmt.Errorf("port exit: data offset %d in a kvm_run area of %d bytes", offset, len(area))
		}
		end.al = area[offset]
	}
	return end, nil
}

// runTo runs until the guest writes to reportPort and returns what it wrote.
func (m *machine) runTo(limit time.Duration) (byte, error) {
	end, err := m.runFor(limit)
	if err != nil {
		return 0, err
	}
	if end.reason != kvm.ExitIO || end.port != reportPort {
		return 0, fmt.Errorf("probe guest: %v, expected OUT to port %#x", end, uint16(reportPort))
	}
	return end.al, nil
}
