//go:build linux && amd64

package native

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enter loads the state, calls code and stores the state. ctx must be 16-byte
// aligned and outside Go's heap.
//
//go:noescape
func enter(ctx *State, code uint64)

// CPUID executes CPUID.
func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

func addressOf(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// stateAt lays a State over p, which must be aligned memory of at least its size.
func stateAt(p []byte) *State {
	_ = p[unsafe.Sizeof(State{})-1]
	return (*State)(unsafe.Pointer(unsafe.SliceData(p)))
}

// Codes of arch_prctl(2).
const (
	archSetGS = 0x1001
	archGetFS = 0x1003
)

// FSBase is the calling thread's FS base.
func FSBase() (uint64, error) {
	var base uint64
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archGetFS, uintptr(unsafe.Pointer(&base)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read FS base: %w", errno)
	}
	return base, nil
}

// SetGSBase sets the calling thread's GS base, which Go leaves at 0 and does not use.
func SetGSBase(base uint64) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archSetGS, uintptr(base), 0); errno != 0 {
		return fmt.Errorf("set GS base to %#x: %w", base, errno)
	}
	return nil
}
