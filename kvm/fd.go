package kvm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by every method of a System, VM or VCPU after Close.
var ErrClosed = errors.New("kvm: file descriptor already closed")

// fd owns one file descriptor. Close is idempotent; use after Close gives EBADF,
// never another file's descriptor.
type fd struct {
	n    atomic.Int64 // descriptor + 1; 0 when closed
	what string       // immutable
}

// openFDs counts the descriptors of this package that are open now.
var openFDs atomic.Int64

// OpenFDs returns how many KVM file descriptors this process holds through this
// package. Leak tests compare it before and after.
func OpenFDs() int64 { return openFDs.Load() }

func newFD(n int, what string) *fd {
	f := &fd{what: what}
	f.n.Store(int64(n) + 1)
	openFDs.Add(1)
	return f
}

// get returns the descriptor, or -1 when it is closed: the kernel then answers EBADF.
func (f *fd) get() int { return int(f.n.Load()) - 1 }

func (f *fd) close() error {
	n := f.n.Swap(0)
	if n == 0 {
		return nil
	}
	openFDs.Add(-1)
	if err := unix.Close(int(n) - 1); err != nil {
		return fmt.Errorf("close %s: %w", f.what, err)
	}
	return nil
}

// ioctlError says which ioctl failed on what.
func ioctlError(name, what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EBADF) {
		err = fmt.Errorf("%w (%w)", ErrClosed, err)
	}
	return fmt.Errorf("%s on %s: %w", name, what, err)
}
