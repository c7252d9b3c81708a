package guestkernel

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// The tiny ABI: what a program without any operating system needs to test, measure and break the core. RAX is the call, RDI and
// RSI its arguments, RAX the result.
const (
	TinyExit  = 0  // RDI: code
	TinyWrite = 1  // RDI: address, RSI: length; the result is the number of bytes, or -1
	TinyClock = 2  // the result is the host's monotonic clock in nanoseconds
	TinyHyper = 16 // and above: Tiny.Hyper decides
)

// Where a tiny program lies. The code can be written as well: tests change it.
const (
	TinyCode  = 0x400000
	TinyStack = TinyCode + tinySize // RSP at the start, and the end of what is mapped
	tinySize  = 1 << 20
)

// Tiny is a program for the tiny ABI.
type Tiny struct {
	m     *Machine
	space *AddressSpace
	mem   []byte
	fd    int

	Out   io.Writer                               // of TinyWrite
	Hyper func(call, a, b uint64) (uint64, error) // calls from TinyHyper on; nil: they fail
}

// FaultError says which exception ended a tiny program.
type FaultError struct {
	Trap Trap
	RIP  uint64
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("exception %d at %#x, error code %#x, address %#x", e.Trap.Vector, e.RIP, e.Trap.Code, e.Trap.Addr)
}

// ErrInterrupted says that a tiny program was interrupted.
var ErrInterrupted = errors.New("interrupted")

// NewTiny loads code at TinyCode. The caller closes it.
func (m *Machine) NewTiny(code []byte) (_ *Tiny, err error) {
	if len(code) > tinySize/2 {
		return nil, fmt.Errorf("tiny program of %d bytes: at most %d", len(code), tinySize/2)
	}
	t := &Tiny{m: m, fd: -1, Out: io.Discard}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.fd, err = unix.MemfdCreate("qenex-tiny", unix.MFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("memory of a tiny program: %w", err)
	}
	if err := unix.Ftruncate(t.fd, tinySize); err != nil {
		return nil, fmt.Errorf("memory of a tiny program: %w", err)
	}
	if t.mem, err = unix.Mmap(t.fd, 0, tinySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("memory of a tiny program: %w", err)
	}
	copy(t.mem, code)
	if t.space, err = m.NewAddressSpace(); err != nil {
		return nil, err
	}
	return t, t.space.Map(TinyCode, Backing{Key: t, FD: t.fd}, 0, tinySize, Rights{Write: true, Execute: true}, false)
}

// Memory returns the program's memory, from TinyCode on.
func (t *Tiny) Memory() []byte { return t.mem }

// Space returns the program's address space.
func (t *Tiny) Space() *AddressSpace { return t.space }

// Run runs one thread of the program until it exits, and returns its exit code; or until a fault (*FaultError) or an
// interruption (ErrInterrupted). RIP and RSP of regs may be 0: the program's start, and the end of its memory.
func (t *Tiny) Run(c *Context, regs *ring0.Regs) (code uint64, err error) {
	if regs.RIP == 0 {
		regs.RIP = TinyCode
	}
	if regs.RSP == 0 {
		regs.RSP = TinyStack
	}
	for {
		switch trap := c.Run(t.space, regs); trap.Kind {
		case Syscall:
			if regs.RAX == TinyExit {
				return regs.RDI, nil
			}
			if regs.RAX, err = t.call(regs); err != nil {
				return 0, err
			}
		case Exception:
			return 0, &FaultError{Trap: trap, RIP: regs.RIP}
		case Interrupted:
			return 0, ErrInterrupted
		default:
			return 0, trap.Err
		}
	}
}

func (t *Tiny) call(r *ring0.Regs) (uint64, error) {
	switch {
	case r.RAX == TinyWrite:
		at := r.RDI - TinyCode
		if at >= tinySize || r.RSI > tinySize-at {
			return ^uint64(0), nil
		}
		n, err := t.Out.Write(t.mem[at : at+r.RSI])
		return uint64(n), err
	case r.RAX == TinyClock:
		var ts unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		return uint64(time.Duration(ts.Nano())), err
	case r.RAX >= TinyHyper && t.Hyper != nil:
		return t.Hyper(r.RAX, r.RDI, r.RSI)
	}
	return ^uint64(0), nil
}

// Close frees the program. No context may run it any more.
func (t *Tiny) Close() error {
	var errs []error
	if t.space != nil {
		errs = append(errs, t.space.Release())
	}
	if t.mem != nil {
		errs = append(errs, unix.Munmap(t.mem))
	}
	if t.fd >= 0 {
		errs = append(errs, unix.Close(t.fd))
	}
	return errors.Join(errs...)
}
