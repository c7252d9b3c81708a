package blockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// zeroChunk is how much is written at once where the file system cannot clear a range by itself.
const zeroChunk = 1 << 20

var zeroes = make([]byte, zeroChunk)

// punch gives the storage of n bytes at off back. False: this file system cannot, and nothing was done.
func (f *file) punch(off, n int64) (bool, error) {
	return f.allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// clear makes n bytes at off read as zeroes; with unmap their storage may be given back.
func (f *file) clear(off, n int64, unmap bool) error {
	modes := []uint32{unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	if unmap {
		modes = append([]uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}, modes...)
	}
	for _, mode := range modes {
		if done, err := f.allocate(mode, off, n); done || err != nil {
			return err
		}
	}
	for n > 0 {
		k := min(n, zeroChunk)
		if err := f.writeAt([][]byte{zeroes[:k]}, off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// allocate calls fallocate. False: the file system does not know this mode.
func (f *file) allocate(mode uint32, off, n int64) (bool, error) {
	if n == 0 {
		return true, nil
	}
	err := f.room(off, n)
	if err == nil {
		_, err = retry(func() (int, error) { return 0, unix.Fallocate(f.fd, mode, off, n) })
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), f.device && errors.Is(err, unix.EINVAL): // EINVAL: less than its sectors
		return false, nil
	case err != nil:
		return false, fmt.Errorf("clear %d bytes at offset %d of %s: %w", n, off, f.path, err)
	}
	return true, nil
}
