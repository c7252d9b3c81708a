package blockdev

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

func (d *qcow2) Size() int64    { return d.head.size }
func (d *qcow2) ReadOnly() bool { return true }
func (d *qcow2) Volatile() bool { return false }
func (d *qcow2) BlockSize() int { return int(max(d.file.align, SectorSize)) }
func (d *qcow2) Flush() error   { return nil }

func (d *qcow2) Write([][]byte, int64) error          { return ErrReadOnly }
func (d *qcow2) Discard(int64, int64) error           { return ErrReadOnly }
func (d *qcow2) WriteZeroes(int64, int64, bool) error { return ErrReadOnly }

func (d *qcow2) Close() error {
	err := d.file.close()
	if d.backing != nil {
		err = errors.Join(err, d.backing.Close())
	}
	return err
}

// Where a part of the disk is.
type place int

const (
	inBacking    place = iota // or nowhere
	isZero                    // nowhere
	inFile                    // at an offset
	isCompressed              // in a cluster of its own
)

// extent is a part of the disk that is in one place.
type extent struct {
	place place
	n     int64  // bytes
	at    int64  // inFile: offset in the file
	entry uint64 // isCompressed
}

// find returns the extent that begins at off, at most n bytes.
func (d *qcow2) find(off, n int64) (extent, error) {
	var all extent
	for n > all.n {
		e, err := d.findCluster(off+all.n, n-all.n)
		if err != nil {
			return extent{}, err
		}
		switch {
		case all.n == 0:
			all = e
		case all.place == e.place && e.place != isCompressed && (e.place != inFile || e.at == all.at+all.n):
			all.n += e.n
		default:
			return all, nil
		}
	}
	return all, nil
}

// findCluster is find inside one cluster.
func (d *qcow2) findCluster(off, n int64) (extent, error) {
	in := off & (d.cluster() - 1)
	e := extent{n: min(n, d.cluster()-in)}
	number := off >> d.head.clusterBits
	perTable := d.cluster() / 8
	table := d.l1[number/perTable]
	if table == 0 {
		return e, nil
	}
	l2, err := d.l2.get(number/perTable, func() ([]uint64, error) { return d.loadL2(table) })
	if err != nil {
		return e, err
	}
	switch entry := l2[number%perTable]; {
	case entry&entryCompressed != 0:
		e.place, e.entry = isCompressed, entry
	case d.head.version == 3 && entry&entryZero != 0:
		e.place = isZero
	case entry&entryOffset != 0:
		e.place, e.at = inFile, int64(entry&entryOffset)+in
	}
	return e, nil
}

func (d *qcow2) Read(vec [][]byte, off int64) error {
	total := length(vec)
	if err := inside(off, total, d.head.size); err != nil {
		return err
	}
	for at := int64(0); at < total; {
		e, err := d.find(off+at, total-at)
		if err == nil {
			err = d.readExtent(Cut(vec, at, e.n), off+at, e)
		}
		if err != nil {
			return fmt.Errorf("disk image %s: %w", d.file.path, err)
		}
		at += e.n
	}
	return nil
}

// TryRead reads what is in the page cache without being compressed.
func (d *qcow2) TryRead(vec [][]byte, off int64) bool {
	n := length(vec)
	if inside(off, n, d.head.size) != nil {
		return false
	}
	e, err := d.find(off, n)
	if err != nil || e.n != n {
		return false
	}
	switch e.place {
	case inFile:
		return d.file.tryRead(vec, e.at)
	case isZero:
		zero(vec)
		return true
	}
	return false
}

func (d *qcow2) readExtent(vec [][]byte, off int64, e extent) error {
	switch e.place {
	case inFile:
		return d.file.readAt(vec, e.at)
	case isCompressed:
		number := off >> d.head.clusterBits
		data, err := d.clusters.get(number, func() ([]byte, error) { return d.decompress(e.entry) })
		if err != nil {
			return fmt.Errorf("compressed cluster %d: %w", number, err)
		}
		data = data[off&(d.cluster()-1):]
		for _, b := range vec {
			data = data[copy(b, data):]
		}
	case inBacking:
		if d.backing != nil && off < d.backing.Size() {
			n := min(e.n, d.backing.Size()-off)
			zero(Cut(vec, n, e.n-n))
			return d.backing.Read(Cut(vec, 0, n), off)
		}
		zero(vec)
	case isZero:
		zero(vec)
	}
	return nil
}

// decompress returns the cluster behind a compressed entry.
func (d *qcow2) decompress(entry uint64) ([]byte, error) {
	at, n := d.compressed(entry)
	raw := make([]byte, min(n, d.file.size-at))
	if err := d.file.readAt([][]byte{raw}, at); err != nil {
		return nil, err
	}
	out := make([]byte, d.cluster())
	var err error
	if d.head.zstd {
		err = d.unzstd(out, raw)
	} else {
		_, err = io.ReadFull(flate.NewReader(bytes.NewReader(raw)), out)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrImage, err)
	}
	return out, nil
}

// unzstd fills out from raw, which has padding behind its end.
func (d *qcow2) unzstd(out, raw []byte) error {
	z, _ := d.zstd.Get().(*zstd.Decoder)
	if z == nil {
		var err error
		// One at a time, and no more memory than the largest cluster takes.
		if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
			return err
		}
	}
	defer d.zstd.Put(z)
	if err := z.Reset(bytes.NewReader(raw)); err != nil {
		return err
	}
	_, err := io.ReadFull(z, out)
	return err
}
