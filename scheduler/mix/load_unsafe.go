package mix

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The loads make their system calls past Go's scheduler, which has nothing else to run and would only add its own wake-ups.

// receive reads a byte of standard input; io.EOF if there is no more.
func receive() (byte, error) {
	var b [1]byte
	for {
		switch n, _, errno := unix.RawSyscall(unix.SYS_READ, 0, uintptr(unsafe.Pointer(&b)), 1); {
		case errno == unix.EINTR || errno == unix.EAGAIN:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return b[0], nil
		}
	}
}

// send writes a message to standard output. That the peer is gone, the next receive says.
func send() {
	b := [1]byte{messageByte}
	for {
		if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(&b)), 1); errno != unix.EINTR && errno != unix.EAGAIN {
			return
		}
	}
}

// pause sleeps for t; a signal may end it early, which the next measurement counts as 0.
func pause(t unix.Timespec) {
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

// mapWord maps the page of a mix, which its guests share, and returns the word at an offset that is a multiple of 4. It is never unmapped.
func mapWord(path string, offset int) (*atomic.Uint32, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("load: shared page: %w", err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("load: map %s: %w", path, err)
	}
	return (*atomic.Uint32)(unsafe.Pointer(&page[offset])), nil
}
