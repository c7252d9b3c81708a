package guestkernel

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

func loadState(s *ring0.Slot) uint32 { return atomic.LoadUint32(&s.State) }

func storeState(s *ring0.Slot, v uint32) { atomic.StoreUint32(&s.State, v) }

func swapState(s *ring0.Slot, old, v uint32) bool {
	return atomic.CompareAndSwapUint32(&s.State, old, v)
}

func storeSpin(s *ring0.Slot, n uint32) { atomic.StoreUint32(&s.Spin, n) }

// futexWait sleeps while *a is v. It may return early.
func futexWait(a *atomic.Uint32, v uint32) {
	const wait = 0 | 128 // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(a)), wait, uintptr(v), 0, 0, 0)
}

// futexWake wakes one sleeper on a.
func futexWake(a *atomic.Uint32) {
	const wake = 1 | 128
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(a)), wake, 1, 0, 0, 0)
}
