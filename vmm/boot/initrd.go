package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/qenex/qenex-kernel/memmap"
)

// Initrd is one initial RAM disk: Size bytes behind R. Several are joined, each beginning at a
// multiple of four bytes, as Linux takes them.
type Initrd struct {
	Name string // for errors
	R    io.ReaderAt
	Size int64 // bytes
}

// initrdSize returns the joined length of all.
func initrdSize(all []Initrd) (uint64, error) {
	var n uint64
	for _, d := range all {
		// 2^46 is more than any guest's RAM, and no sum of as many as fit in memory overflows.
		if d.Size < 0 || d.Size > 1<<46 {
			return 0, fmt.Errorf("%w %s: its size is %d bytes", ErrInitrd, d.Name, d.Size)
		}
		n = (n+3)&^3 + uint64(d.Size)
		if n > 1<<46 {
			return 0, fmt.Errorf("%w %s: all together have %d bytes", ErrInitrd, d.Name, n)
		}
	}
	return n, nil
}

// placeInitrd returns the highest page-aligned place for size bytes in low RAM that is clear of
// the taken ranges and has its last byte at last or below.
func placeInitrd(size, lowRAM, last uint64, taken []Range) (Range, error) {
	if size == 0 {
		return Range{}, nil
	}
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b Range) int { return cmp.Compare(b.GPA, a.GPA) })
	top := lowRAM
	if last < top {
		top = last + 1
	}
	// Walk the gaps between the taken ranges from the top down.
	for _, t := range append(taken, Range{0, HighRAM}) {
		if top > t.End() && top-t.End() >= size {
			if at := (top - size) &^ (pageSize - 1); at >= t.End() {
				return Range{at, size}, nil
			}
		}
		top = min(top, t.GPA)
	}
	return Range{}, fmt.Errorf("%w: no room for an initrd of %d bytes between %#x and %#x beside the kernel; give the guest more memory or shrink the initrd", ErrMemory, size, HighRAM, min(lowRAM, last))
}

// loadInitrds fills at, which placeInitrd made as long as all of them.
func loadInitrds(mem *memmap.Memory, at Range, all []Initrd) error {
	if at.Size == 0 {
		return nil
	}
	view, err := mem.View(at.GPA, at.Size)
	if err != nil {
		return fmt.Errorf("%w: initrd: %w", ErrMemory, err)
	}
	done := 0
	for _, d := range all {
		next := (done + 3) &^ 3
		clear(view[done:next])
		p := view[next : next+int(d.Size)]
		if n, err := d.R.ReadAt(p, 0); n != len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%w %s: after %d of %d bytes: %w", ErrInitrd, d.Name, n, d.Size, err)
		}
		done = next + int(d.Size)
	}
	return nil
}
