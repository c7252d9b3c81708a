package boot

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qenex/qenex-kernel/memmap"
)

// ELF-64 numbers.
const (
	elfHeaderSize = 64
	phdrSize      = 56
	maxPhdrs      = 128
	etExec        = 2
	emX8664       = 62
	ptLoad        = 1
	ptNote        = 4
	maxNotes      = 1 << 16

	notePhys32Entry = 18 // XEN_ELFNOTE_PHYS32_ENTRY, owner "Xen"
)

// segment is a PT_LOAD.
type segment struct {
	off, fileSize uint64
	paddr, vaddr  uint64
	memSize       uint64
}

// extent is a range of the file.
type extent struct{ off, size uint64 }

// elfFile is an ELF kernel's headers, checked: the segments are not empty, lie at HighRAM or
// above, do not overlap in memory and are sorted by file offset; no sum overflows.
type elfFile struct {
	entry    uint64
	segments []segment
	notes    []extent
}

// parseELF reads and checks the headers of f.
func parseELF(f *image) (*elfFile, error) {
	h := make([]byte, elfHeaderSize)
	if err := f.read(0, h); err != nil {
		return nil, err
	}
	switch {
	case string(h[:4]) != "\x7fELF":
		return nil, fmt.Errorf("%w: the unpacked data begins with % x, not with an ELF header", ErrNotKernel, h[:4])
	case h[4] != 2 || h[5] != 1:
		return nil, fmt.Errorf("%w: ELF class %d, data %d; only 64-bit little-endian (2, 1) can be booted", ErrNotKernel, h[4], h[5])
	case le.Uint16(h[18:]) != emX8664:
		return nil, fmt.Errorf("%w: an ELF file for machine %d, not for x86-64 (%d)", ErrNotKernel, le.Uint16(h[18:]), emX8664)
	case le.Uint16(h[16:]) != etExec:
		return nil, fmt.Errorf("%w: an ELF file of type %d; a kernel is an executable (%d), not an object, a shared library or a program", ErrNotKernel, le.Uint16(h[16:]), etExec)
	}
	e := &elfFile{entry: le.Uint64(h[24:])}
	phoff, size, count := le.Uint64(h[32:]), le.Uint16(h[54:]), uint64(le.Uint16(h[56:]))
	if size != phdrSize || count == 0 || count > maxPhdrs {
		return nil, fmt.Errorf("%w: %d program headers of %d bytes; 1 to %d of %d are expected", ErrHeader, count, size, maxPhdrs, phdrSize)
	}
	if phoff < elfHeaderSize || phoff > f.limit() || count*phdrSize > f.limit()-phoff {
		return nil, fmt.Errorf("%w: %d program headers at offset %#x lie outside the file", ErrTruncated, count, phoff)
	}
	ph := make([]byte, count*phdrSize)
	if err := f.read(phoff, ph); err != nil {
		return nil, err
	}
	for i := 0; len(ph) > 0; i, ph = i+1, ph[phdrSize:] {
		if err := e.add(i, ph[:phdrSize], f.limit()); err != nil {
			return nil, err
		}
	}
	if len(e.segments) == 0 {
		return nil, fmt.Errorf("%w: none of the %d program headers loads anything", ErrHeader, count)
	}
	return e, e.checkOverlap()
}

// add checks program header i of a file that ends at limit and keeps what matters of it.
func (e *elfFile) add(i int, p []byte, limit uint64) error {
	kind := le.Uint32(p)
	s := segment{
		off: le.Uint64(p[8:]), vaddr: le.Uint64(p[16:]), paddr: le.Uint64(p[24:]),
		fileSize: le.Uint64(p[32:]), memSize: le.Uint64(p[40:]),
	}
	if kind != ptLoad && kind != ptNote {
		return nil
	}
	if s.fileSize != 0 && (s.off > limit || s.fileSize > limit-s.off) {
		return fmt.Errorf("%w: segment %d is %#x bytes at offset %#x, beyond the file's end at %#x; fetch or build it again", ErrTruncated, i, s.fileSize, s.off, limit)
	}
	if kind == ptNote {
		if s.fileSize > maxNotes {
			return fmt.Errorf("%w: notes of %d bytes, more than %d", ErrHeader, s.fileSize, maxNotes)
		}
		if s.fileSize != 0 {
			e.notes = append(e.notes, extent{s.off, s.fileSize})
		}
		return nil
	}
	switch {
	case s.memSize == 0 && s.fileSize == 0:
		return nil
	case s.fileSize > s.memSize:
		return fmt.Errorf("%w: segment %d has %#x bytes in the file and room for %#x in memory", ErrHeader, i, s.fileSize, s.memSize)
	case s.paddr+s.memSize < s.paddr:
		return fmt.Errorf("%w: segment %d of %#x bytes at %#x wraps round the address space", ErrHeader, i, s.memSize, s.paddr)
	case s.paddr < HighRAM:
		return fmt.Errorf("%w: segment %d is to be loaded at %#x; below %#x is boot data, link the kernel higher", ErrHeader, i, s.paddr, HighRAM)
	}
	e.segments = append(e.segments, s)
	return nil
}

// checkOverlap leaves the segments sorted by file offset.
func (e *elfFile) checkOverlap() error {
	slices.SortFunc(e.segments, func(a, b segment) int { return cmp.Compare(a.paddr, b.paddr) })
	for i := 1; i < len(e.segments); i++ {
		a, b := e.segments[i-1], e.segments[i]
		if a.paddr+a.memSize > b.paddr {
			return fmt.Errorf("%w: the segments at %#x (%#x bytes) and %#x overlap", ErrHeader, a.paddr, a.memSize, b.paddr)
		}
	}
	slices.SortStableFunc(e.segments, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	return nil
}

// span returns the range from the first to the last loaded byte.
func (e *elfFile) span() Range {
	lo, hi := ^uint64(0), uint64(0)
	for _, s := range e.segments {
		lo, hi = min(lo, s.paddr), max(hi, s.paddr+s.memSize)
	}
	return Range{lo, hi - lo}
}

// load copies the segments of f into mem and returns the notes' bytes. Unless mem is fresh, it
// clears what the file does not fill.
func (e *elfFile) load(mem *memmap.Memory, f *image, fresh bool) (notes [][]byte, err error) {
	views := make([][]byte, len(e.segments))
	for i, s := range e.segments {
		if views[i], err = mem.View(s.paddr, s.memSize); err != nil {
			return nil, fmt.Errorf("%w: the kernel has %#x bytes to load at %#x: %w; give the guest at least %d MiB", ErrMemory, s.memSize, s.paddr, err, mibFor(s.paddr, s.memSize))
		}
	}
	// One pass in file order, so that a decompressor need not be run twice. Notes mostly lie inside
	// a loaded segment; those are taken from memory below, the others here.
	pending := slices.Clone(e.notes)
	slices.SortFunc(pending, func(a, b extent) int { return cmp.Compare(a.off, b.off) })
	pending = slices.DeleteFunc(pending, func(n extent) bool {
		return slices.ContainsFunc(e.segments, func(s segment) bool { return s.contains(n) })
	})
	readNotes := func(before uint64) error {
		for len(pending) > 0 && pending[0].off < before {
			b := make([]byte, pending[0].size)
			if err := f.read(pending[0].off, b); err != nil {
				return err
			}
			notes, pending = append(notes, b), pending[1:]
		}
		return nil
	}
	for i, s := range e.segments {
		if err := readNotes(s.off); err != nil {
			return nil, err
		}
		if s.fileSize != 0 {
			if err := f.read(s.off, views[i][:s.fileSize]); err != nil {
				return nil, err
			}
		}
		if !fresh {
			clear(views[i][s.fileSize:])
		}
	}
	if err := readNotes(^uint64(0)); err != nil {
		return nil, err
	}
	for _, n := range e.notes {
		for i, s := range e.segments {
			if s.contains(n) {
				at := n.off - s.off
				notes = append(notes, views[i][at:at+n.size])
				break
			}
		}
	}
	return notes, nil
}

// contains says whether the note's bytes are loaded with s.
func (s segment) contains(n extent) bool {
	return n.off >= s.off && n.off-s.off <= s.fileSize && n.size <= s.fileSize-(n.off-s.off)
}

// directEntry is the physical address of the ELF entry point. Linux gives a physical one; a
// virtual one is translated.
func (e *elfFile) directEntry() (uint64, error) {
	for _, s := range e.segments {
		if e.entry >= s.paddr && e.entry-s.paddr < s.memSize {
			return e.entry, nil
		}
	}
	for _, s := range e.segments {
		if e.entry >= s.vaddr && e.entry-s.vaddr < s.memSize {
			return s.paddr + (e.entry - s.vaddr), nil
		}
	}
	return 0, fmt.Errorf("%w: the entry point %#x lies in no loaded segment", ErrHeader, e.entry)
}

// pvhEntry looks for the PVH note; ok is false if there is none.
func (e *elfFile) pvhEntry(notes [][]byte) (entry uint64, ok bool, err error) {
	for _, n := range notes {
		desc, found := findNote(n, "Xen", notePhys32Entry)
		if !found {
			continue
		}
		switch len(desc) { // Linux writes the width of a pointer, others four bytes
		case 4:
			entry = uint64(le.Uint32(desc))
		case 8:
			entry = le.Uint64(desc)
		default:
			return 0, false, fmt.Errorf("%w: the PVH note holds %d bytes; an address has 4 or 8", ErrHeader, len(desc))
		}
		for _, s := range e.segments {
			if entry <= 0xffffffff && entry >= s.paddr && entry-s.paddr < s.memSize {
				return entry, true, nil
			}
		}
		return 0, false, fmt.Errorf("%w: the PVH entry point %#x lies in no loaded segment below 4 GiB", ErrHeader, entry)
	}
	return 0, false, nil
}

// findNote returns the descriptor of the first note of that owner and type in b. Names and
// descriptors are padded to four bytes, as Linux and Xen have them.
func findNote(b []byte, owner string, kind uint32) ([]byte, bool) {
	for len(b) >= 12 {
		nameLen, descLen, t := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		b = b[12:]
		nameEnd, descEnd := (nameLen+3)&^3, (nameLen+3)&^3+descLen
		if descEnd > uint64(len(b)) {
			return nil, false
		}
		if t == kind && string(b[:nameLen]) == owner+"\x00" {
			return b[nameEnd:descEnd], true
		}
		b = b[min((descEnd+3)&^3, uint64(len(b))):]
	}
	return nil, false
}
