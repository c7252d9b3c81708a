package block

import (
	"encoding/binary"
	"errors"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/virtio"
)

// Types of requests (virtio 1.2, 5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// Status of a request (virtio 1.2, 5.2.6).
const (
	statusOK     = 0
	statusIOErr  = 1
	statusUnsupp = 2
)

const (
	headerLen  = 16 // type, reserved, sector
	segmentLen = 16 // sector, number of sectors, flags

	flagUnmap = 1
)

// request is a chain whose header was copied and checked.
type request struct {
	kind     uint32
	off      int64      // typeIn, typeOut: where on the disk, in bytes
	data     [][]byte   // views of guest memory
	n        int64      // bytes of data
	segments [][2]int64 // typeDiscard, typeWriteZeroes: offsets and lengths in bytes
	unmap    [maxSegments]bool
	status   []byte // one byte of guest memory
}

// errFraming says that there is no way to answer a request.
var errFraming = errors.New("block request without room for its status")

// parse reads a chain. A status other than statusOK is the answer.
func (d *Device) parse(c *virtio.Chain) (r request, status byte, err error) {
	writable := int64(c.WriteLen())
	if writable < 1 {
		return r, 0, errFraming
	}
	last := c.Writable()[len(c.Writable())-1]
	r.status = last[len(last)-1:]
	if c.ReadLen() < headerLen {
		return r, statusIOErr, nil
	}
	var head [headerLen]byte
	if _, err := c.Read(head[:]); err != nil {
		return r, 0, err
	}
	r.kind = binary.LittleEndian.Uint32(head[:])
	sector := binary.LittleEndian.Uint64(head[8:])

	out := int64(c.ReadLen()) - headerLen
	in := writable - 1
	switch r.kind {
	case typeIn, typeGetID:
		r.n, r.data = in, blockdev.Cut(c.Writable(), 0, in)
		if out != 0 {
			return r, statusIOErr, nil
		}
	case typeOut, typeFlush, typeDiscard, typeWriteZeroes:
		r.n, r.data = out, blockdev.Cut(c.Readable(), headerLen, out)
		if in != 0 {
			return r, statusIOErr, nil
		}
	default:
		return r, statusUnsupp, nil
	}
	switch r.kind {
	case typeIn, typeOut:
		if r.kind == typeOut && d.cfg.Disk.ReadOnly() || r.n%blockdev.SectorSize != 0 || r.n > maxData || !d.inside(sector, uint64(r.n)/blockdev.SectorSize) {
			return r, statusIOErr, nil
		}
		r.off = int64(sector) * blockdev.SectorSize
	case typeGetID:
		if r.n != SerialLen {
			return r, statusIOErr, nil
		}
	case typeDiscard, typeWriteZeroes:
		status, err = d.parseSegments(c, &r)
	}
	return r, status, err
}

// inside says whether n sectors from first on lie inside the disk.
func (d *Device) inside(first, n uint64) bool {
	size := uint64(d.cfg.Disk.Size()) / blockdev.SectorSize
	return first <= size && n <= size-first
}

// parseSegments reads the ranges of a discard or of a writing of zeroes.
func (d *Device) parseSegments(c *virtio.Chain, r *request) (status byte, err error) {
	feature, most := uint64(FeatureDiscard), uint32(maxDiscardSectors)
	if r.kind == typeWriteZeroes {
		feature, most = FeatureWriteZeroes, maxZeroSectors
	}
	switch {
	case d.cfg.Disk.ReadOnly():
		return statusIOErr, nil
	case d.features&feature == 0:
		return statusUnsupp, nil
	case r.n == 0 || r.n%segmentLen != 0 || r.n/segmentLen > maxSegments:
		return statusIOErr, nil
	}
	var raw [maxSegments * segmentLen]byte
	if _, err := c.Read(raw[:r.n]); err != nil {
		return 0, err
	}
	for i := range int(r.n / segmentLen) {
		s := raw[i*segmentLen:]
		first, n, flags := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint32(s[8:]), binary.LittleEndian.Uint32(s[12:])
		if flags&^flagUnmap != 0 || r.kind == typeDiscard && flags != 0 {
			return statusUnsupp, nil
		}
		if n > most || !d.inside(first, uint64(n)) {
			return statusIOErr, nil
		}
		r.unmap[i] = flags&flagUnmap != 0
		r.segments = append(r.segments, [2]int64{int64(first) * blockdev.SectorSize, int64(n) * blockdev.SectorSize})
	}
	return statusOK, nil
}
