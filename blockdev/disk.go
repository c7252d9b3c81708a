package blockdev

import (
	"errors"
	"fmt"
)

// SectorSize is the unit of a disk's size and of all requests, in bytes.
const SectorSize = 512

var (
	// ErrRange says that a request does not lie inside the disk.
	ErrRange = errors.New("outside the disk")
	// ErrReadOnly says that a disk is not to be written.
	ErrReadOnly = errors.New("the disk is read-only")
	// ErrTruncated says that an image has become shorter than it was when it was opened.
	ErrTruncated = errors.New("the image was truncated after it was opened")
	// ErrLocked says that another program has the image open in a way that excludes ours.
	ErrLocked = errors.New("the image is in use by another program")
	// ErrImage says that an image is not what its format demands.
	ErrImage = errors.New("bad image")
)

// Disk is the storage of one virtual disk. Offsets and lengths are bytes and need not be aligned. Buffers may be guest memory,
// which changes at any time: they are handed to the kernel or copied, never parsed. All methods but Close may be called
// concurrently; requests that overlap in time and place take effect in any order.
type Disk interface {
	// Read fills vec from off. On an error any part of vec may have been written.
	Read(vec [][]byte, off int64) error
	// TryRead is Read, if that can be done without waiting for a device. False: it was not done, though parts of vec may have
	// been written.
	TryRead(vec [][]byte, off int64) bool
	// Write stores vec at off. It is durable after the next Flush. On an error any part of the range may have been written.
	Write(vec [][]byte, off int64) error
	// Flush makes everything durable whose Write, WriteZeroes or Discard returned before Flush was called. Once it has failed it
	// fails for ever: the kernel forgets data that it could not write.
	Flush() error
	// Discard says that n bytes at off are not needed any more: reads return what was there, or zeroes, until they are
	// written again.
	Discard(off, n int64) error
	// WriteZeroes clears n bytes at off. With unmap their storage may be given back.
	WriteZeroes(off, n int64, unmap bool) error
	// Volatile says that Flush makes nothing durable: the disk is to be lost with this process or its host.
	Volatile() bool
	// Size returns the disk's size in bytes, a multiple of SectorSize. It never changes.
	Size() int64
	// ReadOnly says whether the methods that change the disk fail with ErrReadOnly.
	ReadOnly() bool
	// BlockSize returns the unit in bytes that requests had best be multiples of, a power of two of SectorSize or more.
	BlockSize() int
	// Close frees everything, locks included. No other call may be under way or follow. Only Flush makes data durable.
	Close() error
}

// inside says whether n bytes at off lie inside size.
func inside(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at offset %d of %d: %w", n, off, size, ErrRange)
	}
	return nil
}

// length returns how many bytes vec holds.
func length(vec [][]byte) int64 {
	var n int64
	for _, b := range vec {
		n += int64(len(b))
	}
	return n
}

// Cut returns the n bytes of vec from skip on as views of the same memory; they must be there.
func Cut(vec [][]byte, skip, n int64) [][]byte {
	for len(vec) > 0 && skip >= int64(len(vec[0])) {
		skip -= int64(len(vec[0]))
		vec = vec[1:]
	}
	if n == 0 {
		return nil
	}
	if skip == 0 && n == length(vec) {
		return vec
	}
	var out [][]byte
	for _, b := range vec {
		b = b[skip:]
		skip = 0
		if int64(len(b)) >= n {
			return append(out, b[:n:n])
		}
		out = append(out, b)
		n -= int64(len(b))
	}
	panic("blockdev: fewer bytes than the caller said")
}

// zero clears vec.
func zero(vec [][]byte) {
	for _, b := range vec {
		clear(b)
	}
}
