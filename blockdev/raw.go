package blockdev

import "fmt"

// raw is a disk whose bytes are those of a file, in order.
type raw struct {
	*file
	readOnly bool
}

func newRaw(f *file, readOnly bool) (*raw, error) {
	if f.size%SectorSize != 0 {
		return nil, fmt.Errorf("raw disk image %s: %w: its size of %d bytes is no multiple of %d; add zeroes: truncate -s %%%d FILE", f.path, ErrImage, f.size, SectorSize, SectorSize)
	}
	return &raw{f, readOnly}, nil
}

func (d *raw) Size() int64    { return d.size }
func (d *raw) ReadOnly() bool { return d.readOnly }
func (d *raw) Volatile() bool { return d.unsafe }
func (d *raw) Close() error   { return d.close() }

func (d *raw) BlockSize() int { return int(max(d.align, SectorSize)) }

func (d *raw) Read(vec [][]byte, off int64) error {
	if err := inside(off, length(vec), d.size); err != nil {
		return err
	}
	return d.readAt(vec, off)
}

func (d *raw) TryRead(vec [][]byte, off int64) bool {
	return inside(off, length(vec), d.size) == nil && d.tryRead(vec, off)
}

func (d *raw) Write(vec [][]byte, off int64) error {
	if d.readOnly {
		return ErrReadOnly
	}
	return d.writeAt(vec, off)
}

func (d *raw) Flush() error {
	if d.readOnly {
		return nil
	}
	return d.sync()
}

func (d *raw) Discard(off, n int64) error {
	if err := inside(off, n, d.size); err != nil {
		return err
	}
	if d.readOnly {
		return ErrReadOnly
	}
	_, err := d.punch(off, n)
	return err
}

func (d *raw) WriteZeroes(off, n int64, unmap bool) error {
	if err := inside(off, n, d.size); err != nil {
		return err
	}
	if d.readOnly {
		return ErrReadOnly
	}
	return d.clear(off, n, unmap)
}
