package blockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Locks are open-file-description locks on bytes of the image, in the layout that QEMU documents for its own ("disk image file
// locking"), so that the two exclude each other: a shared lock on byte 100+i says that permission i is in use, one on byte 200+i that
// others must not have it. A lock is gone with its descriptor, however the process ends.
const (
	lockUsed   = 100
	lockDenied = 200

	lockRead   = 0
	lockWrite  = 1
	lockResize = 3
)

// lock takes the right to read, and if write also to write, and excludes all who write. Who reads excludes writers in turn, so that
// there is one writer or any number of readers.
func (f *file) lock(write bool) error {
	used, denied := []int64{lockRead}, []int64{lockWrite, lockResize}
	if write {
		used = append(used, lockWrite, lockResize)
	}
	for _, i := range used {
		if err := f.setLock(lockUsed + i); err != nil {
			return err
		}
	}
	for _, i := range denied {
		if err := f.setLock(lockDenied + i); err != nil {
			return err
		}
	}
	// Everybody takes locks first and looks second: of two at the same time, at least one sees the other.
	for _, i := range used {
		if err := f.lookLock(lockDenied + i); err != nil {
			return err
		}
	}
	for _, i := range denied {
		if err := f.lookLock(lockUsed + i); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) setLock(at int64) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock disk image %s: %w", f.path, err)
	}
	return nil
}

func (f *file) lookLock(at int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	if err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_GETLK, &l); err != nil {
		return fmt.Errorf("look for locks of disk image %s: %w", f.path, err)
	}
	if l.Type != unix.F_UNLCK {
		return fmt.Errorf("disk image %s: %w; stop that, or open the image read-only in both, or give each an overlay of its own", f.path, ErrLocked)
	}
	return nil
}
