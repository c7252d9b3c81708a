package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Install puts the filter on all threads of the process, for good, and sets no_new_privs.
func Install(prog []unix.SockFilter) error {
	if len(prog) == 0 || len(prog) > maxProgram {
		return fmt.Errorf("seccomp: a filter of %d instructions", len(prog))
	}
	runtime.LockOSThread() // no_new_privs has to be set on the thread that installs
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("seccomp: setting no_new_privs: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if errno == unix.ENOSYS || errno == unix.EINVAL {
		return fmt.Errorf("seccomp: installing the filter: %w (a kernel with CONFIG_SECCOMP_FILTER is needed)", errno)
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: installing the filter: %w", errno)
	}
	if tid != 0 {
		return fmt.Errorf("seccomp: installing the filter: thread %d has another one: %w", tid, errors.ErrUnsupported)
	}
	return nil
}
