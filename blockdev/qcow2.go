package blockdev

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// Bits of entries of L1 and L2 tables.
const (
	entryOffset     = 0x00fffffffffffe00
	entryCopied     = 1 << 63
	entryCompressed = 1 << 62
	entryZero       = 1 << 0 // version 3
)

// cacheBytes is about what is kept of L2 tables, and as much again of decompressed clusters, in bytes.
const cacheBytes = 8 << 20

// qcow2 is a read-only disk in a qcow2 image. What a table says is checked when the table is read, each time: it lies inside the
// file, where neither the header nor another table of ours is. Two of the disk's clusters may share one of the file: that shows
// the same bytes twice and harms nobody.
type qcow2 struct {
	file    *file
	head    *qcow2Header
	backing Disk // nil: what is not in the image reads as zeroes

	l1     []uint64 // offsets of L2 tables, 0 if there is none; immutable
	tables []uint64 // the same, sorted

	l2       *cache[int64, []uint64]
	clusters *cache[int64, []byte] // decompressed, by their number in the disk
	zstd     sync.Pool             // of *zstd.Decoder
}

// openQcow2 reads header and L1 table. The caller closes file after an error.
func openQcow2(f *file) (*qcow2, error) {
	head := make([]byte, min(f.size, 1<<maxClusterBits))
	if err := f.readAt([][]byte{head}, 0); err != nil {
		return nil, err
	}
	h, err := parseQcow2(head, f.size)
	if err != nil {
		return nil, fmt.Errorf("disk image %s: %w", f.path, err)
	}
	perCache := int(max(4, cacheBytes>>h.clusterBits))
	d := &qcow2{
		file: f, head: h,
		l2: newCache[int64, []uint64](perCache), clusters: newCache[int64, []byte](perCache),
	}
	if err := d.loadL1(); err != nil {
		return nil, fmt.Errorf("disk image %s: %w", f.path, err)
	}
	return d, nil
}

func (d *qcow2) cluster() int64 { return 1 << d.head.clusterBits }

// loadL1 reads and checks the L1 table.
func (d *qcow2) loadL1() error {
	raw := make([]byte, d.head.l1Size*8)
	if err := d.file.readAt([][]byte{raw}, d.head.l1); err != nil {
		return err
	}
	d.l1 = make([]uint64, d.head.l1Size)
	for i := range d.l1 {
		e := binary.BigEndian.Uint64(raw[i*8:])
		off := e & entryOffset
		if e&^(entryOffset|entryCopied) != 0 || off != 0 && !d.wholeCluster(off) {
			return fmt.Errorf("%w: entry %d of the L1 table is %#x", ErrImage, i, e)
		}
		if d.l1[i] = off; off != 0 {
			d.tables = append(d.tables, off)
		}
	}
	slices.Sort(d.tables)
	for i := 1; i < len(d.tables); i++ {
		if d.tables[i] == d.tables[i-1] {
			return fmt.Errorf("%w: the L1 table names the L2 table at %#x twice", ErrImage, d.tables[i])
		}
	}
	return nil
}

// wholeCluster says whether a cluster of the file begins at off, inside the file, and has neither header, L1 nor reference table.
// Its end may be missing: images end where their data end.
func (d *qcow2) wholeCluster(off uint64) bool {
	n := d.cluster()
	if off%uint64(n) != 0 || off < uint64(n) || off >= uint64(d.file.size) {
		return false
	}
	at := int64(off)
	return !overlap(at, n, d.head.l1, d.head.l1Size*8) && !overlap(at, n, d.head.refTable, d.head.refTableSize)
}

// loadL2 reads and checks the L2 table at off.
func (d *qcow2) loadL2(off uint64) ([]uint64, error) {
	raw := make([]byte, d.cluster())
	if err := d.file.readAt([][]byte{raw}, int64(off)); err != nil {
		return nil, err
	}
	table := make([]uint64, len(raw)/8)
	for i := range table {
		e := binary.BigEndian.Uint64(raw[i*8:])
		if !d.soundL2(e) {
			return nil, fmt.Errorf("%w: entry %d of the L2 table at %#x is %#x", ErrImage, i, off, e)
		}
		table[i] = e
	}
	return table, nil
}

func (d *qcow2) soundL2(e uint64) bool {
	if e&entryCompressed != 0 {
		at, _ := d.compressed(e)
		return e&entryCopied == 0 && at >= d.cluster() && at < d.file.size
	}
	allowed := uint64(entryOffset | entryCopied)
	if d.head.version == 3 {
		allowed |= entryZero
	}
	if e&^allowed != 0 {
		return false
	}
	off := e & entryOffset
	if off == 0 {
		return true
	}
	_, table := slices.BinarySearch(d.tables, off)
	return !table && d.wholeCluster(off)
}

// compressed returns where the data of a compressed cluster is, and at most how long.
func (d *qcow2) compressed(e uint64) (at, n int64) {
	bits := 62 - (d.head.clusterBits - 8)
	at = int64(e & (1<<bits - 1))
	sectors := int64(e &^ (entryCopied | entryCompressed) >> bits)
	return at, (sectors+1)*SectorSize - at%SectorSize
}
