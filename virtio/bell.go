package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bell is an eventfd that the driver rings, by ioeventfd or through the transport, and one goroutine waits for.
type bell struct {
	fd   int // of file; file.Fd would make it blocking
	file *os.File
}

func newBell(name string) (*bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("doorbell of %s: eventfd: %w", name, err)
	}
	return &bell{fd: fd, file: os.NewFile(uintptr(fd), name)}, nil
}

// ring wakes whoever waits, now or next.
func (b *bell) ring() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// A counter that is full, which takes 2^64 rings, is as good as rung.
	if _, err := unix.Write(b.fd, one[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("ring a virtqueue's doorbell: %w", err)
	}
	return nil
}

// wait blocks until the bell was rung since the last wait, or stop was called.
func (b *bell) wait() error {
	var count [8]byte
	if _, err := b.file.Read(count[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			return ErrStopped
		}
		return fmt.Errorf("wait for a virtqueue's doorbell: %w", err)
	}
	return nil
}

// stop makes wait return ErrStopped from now on, until start.
func (b *bell) stop() error { return b.file.SetReadDeadline(time.Unix(1, 0)) }

func (b *bell) start() error { return b.file.SetReadDeadline(time.Time{}) }

func (b *bell) close() error { return b.file.Close() }
