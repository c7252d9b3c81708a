package terminal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrStopped is what Reader.Read returns once Stop has been called.
var ErrStopped = errors.New("terminal: reading was stopped")

// Reader reads a file descriptor that may be silent for ever, typically standard input,
// and can be stopped while it waits. The descriptor is neither closed nor changed.
type Reader struct {
	fd   int
	wake int // eventfd, readable from Stop on

	reading sync.Mutex // held by Read and by Close, so that wake is not closed under poll

	mu     sync.Mutex // guards closed and writing to wake
	closed bool
}

// NewReader returns a Reader of fd, which the caller keeps open until Close.
func NewReader(fd int) (*Reader, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("terminal: cannot make an eventfd to stop reading fd %d: %w", fd, err)
	}
	return &Reader{fd: fd, wake: wake}, nil
}

// Read implements io.Reader. It waits until fd has something to read, is at its end
// (io.EOF; a terminal that was hung up counts as that), or Stop is called (ErrStopped).
func (r *Reader) Read(p []byte) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.isClosed() {
		return 0, ErrStopped
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		fds := []unix.PollFd{{Fd: int32(r.wake), Events: unix.POLLIN}, {Fd: int32(r.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("terminal: waiting for input on fd %d: %w", r.fd, err)
		}
		if fds[0].Revents != 0 {
			return 0, ErrStopped
		}
		n, err := unix.Read(r.fd, p)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN:
		case err == unix.EIO, err == nil && n == 0:
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("terminal: reading fd %d: %w", r.fd, err)
		default:
			return n, nil
		}
	}
}

// Stop makes the Read in progress and all later ones return ErrStopped. It may be
// called from any goroutine, more than once.
func (r *Reader) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		// This fails only when the counter is full, and then the eventfd is readable.
		_, _ = unix.Write(r.wake, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// Close stops the Reader, waits until no Read is in progress and releases what the
// Reader holds. fd stays open.
func (r *Reader) Close() error {
	r.Stop()
	r.reading.Lock()
	defer r.reading.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return unix.Close(r.wake)
}

func (r *Reader) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}
