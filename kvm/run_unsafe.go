package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Run enters the guest until its next exit. It must be called on the vCPU's own
// locked thread. unix.EINTR means that a signal or RequestExit ended it: the caller
// looks why and decides; it is never retried here. On any nil return the exit is in
// RunArea.
func (c *VCPU) Run() error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd.get()), request(dirNone, 0x80, 0), 0)
	if e == 0 {
		return nil
	}
	if e == unix.EINTR {
		return unix.EINTR
	}
	return ioctlError("KVM_RUN", c.fd.what, e)
}

// immediateExit is kvm_run's byte 1 set, seen as a little-endian word.
const immediateExit = 1 << 8

func (c *VCPU) firstWord() *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(c.run))) }

// RequestExit makes the next Run, or the one about to begin, return EINTR at once
// (kvm_run.immediate_exit). Any thread may call it; one that is already inside the
// guest needs a signal too. The vCPU must not be closed.
func (c *VCPU) RequestExit() { atomic.OrUint32(c.firstWord(), immediateExit) }

// ClearExitRequest takes RequestExit back. Only the vCPU's own thread may call it, and must
// look for a request after that, not before.
func (c *VCPU) ClearExitRequest() { atomic.AndUint32(c.firstWord(), ^uint32(immediateExit)) }
