package blockdev

import (
	"errors"
	"fmt"
	"sync"
)

// overlayBlock is the unit in which an overlay holds data, in bytes.
const overlayBlock = 4096

// overlay is a disk that reads from a base and writes to a file of its own. The base is never written.
//
// Order. The file of an overlay with a path says by a bitmap which blocks are its own; Flush
//
//  1. takes the bits that were set after their data was written,
//  2. makes all data durable (fdatasync),
//  3. writes these bits and makes them durable.
//
// So a bit that is read after a crash, at whatever moment, stands for data that was durable before the bit was written. Bits are
// only ever set, so it does not matter if half a page of them is written. What was flushed is there; what was not may be there or
// not, as on a disk with a cache.
type overlay struct {
	base   Disk
	file   *file
	data   int64 // where block 0 is in file; immutable
	bitsAt int64 // where the bitmap is in file, 0 if it is in memory only; immutable
	size   int64 // immutable
	bits   *bitmap

	// up is held by all who write blocks that are the base's yet: shared if they write whole blocks, alone if they take a part of one
	// from the base. Else that part could be written over what another has written meanwhile.
	up sync.RWMutex

	flushing sync.Mutex // one Flush at a time
}

func (d *overlay) Size() int64    { return d.size }
func (d *overlay) ReadOnly() bool { return false }

func (d *overlay) Volatile() bool { return d.bitsAt == 0 || d.file.unsafe }

func (d *overlay) BlockSize() int { return max(d.base.BlockSize(), int(d.file.align), SectorSize) }

// Close flushes, for else blocks that were written would be forgotten.
func (d *overlay) Close() error { return errors.Join(d.Flush(), d.file.close(), d.base.Close()) }

// blocks returns the first of the blocks that n bytes at off touch, and their number.
func blocks(off, n int64) (first, count int64) {
	first = off / overlayBlock
	return first, (off+n+overlayBlock-1)/overlayBlock - first
}

// runs calls f for each part of n bytes at off whose blocks are all the overlay's own, or all the base's; at is relative to off.
func (d *overlay) runs(off, n int64, f func(own bool, at, n int64) error) error {
	for at := int64(0); at < n; {
		first, count := blocks(off+at, n-at)
		own, k := d.bits.run(first, count)
		part := min(n, (first+k)*overlayBlock-off) - at
		if err := f(own, at, part); err != nil {
			return err
		}
		at += part
	}
	return nil
}

func (d *overlay) Read(vec [][]byte, off int64) error {
	n := length(vec)
	if err := inside(off, n, d.size); err != nil {
		return err
	}
	return d.runs(off, n, func(own bool, at, n int64) error {
		if own {
			return d.file.readAt(Cut(vec, at, n), d.data+off+at)
		}
		return d.base.Read(Cut(vec, at, n), off+at)
	})
}

var errNotCached = errors.New("not in the page cache")

func (d *overlay) TryRead(vec [][]byte, off int64) bool {
	n := length(vec)
	return inside(off, n, d.size) == nil && d.runs(off, n, func(own bool, at, n int64) error {
		if own && d.file.tryRead(Cut(vec, at, n), d.data+off+at) || !own && d.base.TryRead(Cut(vec, at, n), off+at) {
			return nil
		}
		return errNotCached
	}) == nil
}

func (d *overlay) Write(vec [][]byte, off int64) error {
	return d.change(off, length(vec), func() error { return d.file.writeAt(vec, d.data+off) })
}

func (d *overlay) WriteZeroes(off, n int64, unmap bool) error {
	return d.change(off, n, func() error { return d.file.clear(d.data+off, n, unmap) })
}

// Discard gives back blocks that are the overlay's own; they stay its own, and read as zeroes. Those of the base stay as they are.
func (d *overlay) Discard(off, n int64) error {
	if err := inside(off, n, d.size); err != nil {
		return err
	}
	return d.runs(off, n, func(own bool, at, n int64) error {
		if !own {
			return nil
		}
		_, err := d.file.punch(d.data+off+at, n)
		return err
	})
}

// change calls write, which writes n bytes at off of the file, and makes their blocks the overlay's own.
func (d *overlay) change(off, n int64, write func() error) error {
	if err := inside(off, n, d.size); err != nil || n == 0 {
		return err
	}
	first, count := blocks(off, n)
	if own, k := d.bits.run(first, count); own && k == count {
		return write()
	}
	if off%overlayBlock == 0 && (n%overlayBlock == 0 || off+n == d.size) {
		d.up.RLock()
		defer d.up.RUnlock()
	} else {
		d.up.Lock()
		defer d.up.Unlock()
		for _, block := range []int64{first, first + count - 1} {
			if err := d.copyUp(block); err != nil {
				return err
			}
		}
	}
	if err := write(); err != nil {
		return err
	}
	d.bits.set(first, count)
	return nil
}

// copyUp makes a block the overlay's own with what the base has in it. d.up is held alone.
func (d *overlay) copyUp(block int64) error {
	if d.bits.get(block) {
		return nil
	}
	at := block * overlayBlock
	vec := [][]byte{make([]byte, min(overlayBlock, d.size-at))}
	if err := d.base.Read(vec, at); err != nil {
		return fmt.Errorf("copy a block to the overlay: %w", err)
	}
	if err := d.file.writeAt(vec, d.data+at); err != nil {
		return err
	}
	d.bits.set(block, 1)
	return nil
}

func (d *overlay) Flush() error {
	if d.bitsAt == 0 {
		return nil // nobody can look at it after us
	}
	d.flushing.Lock()
	defer d.flushing.Unlock()
	pages := d.bits.takeDirty()
	if err := d.file.sync(); err != nil || pages == nil {
		d.bits.giveBack(pages)
		return err
	}
	for i, page := range pages {
		if err := d.file.writeAt([][]byte{page}, d.bitsAt+i*bitPageSize); err != nil {
			d.bits.giveBack(pages)
			return err
		}
	}
	return d.file.sync()
}
