package blockdev

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The header of a qcow2 image, as QEMU's docs/interop/qcow2.txt has it; numbers are big-endian.
const (
	qcow2Magic = "QFI\xfb"

	qcow2MinHeader = 72  // version 2
	qcow2V3Header  = 104 // version 3, without the compression type

	minClusterBits = 9
	maxClusterBits = 21

	// Limits that QEMU has too.
	maxL1         = 32 << 20 // bytes
	maxRefTable   = 8 << 20  // bytes
	maxSnapshots  = 65536
	maxBackingLen = 1023
	// maxQcow2 is the largest virtual size.
	maxQcow2 = 1 << 46

	incompatDirty       = 1 << 0 // reference counts may be wrong; we do not use them
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4

	compressionZlib = 0
	compressionZstd = 1

	extensionEnd     = 0
	extensionBacking = 0xe2792aca
)

// qcow2Header is a header that was checked, but for the backing file's name.
type qcow2Header struct {
	version       uint32
	clusterBits   uint
	size          int64  // bytes
	l1, l1Size    int64  // offset, entries
	refTable      int64  // offset
	refTableSize  int64  // bytes
	zstd          bool   // how compressed clusters are compressed
	backing       string // "" if there is none
	backingFormat string // "" if the image does not say
}

// parseQcow2 checks the header of an image of fileSize bytes. head is the file's beginning: a whole cluster, or all there is.
func parseQcow2(head []byte, fileSize int64) (*qcow2Header, error) {
	if len(head) < qcow2MinHeader || string(head[:4]) != qcow2Magic {
		return nil, fmt.Errorf("%w: no qcow2 header", ErrImage)
	}
	be32 := func(at int) uint32 { return binary.BigEndian.Uint32(head[at:]) }
	be64 := func(at int) uint64 { return binary.BigEndian.Uint64(head[at:]) }
	bad := func(format string, args ...any) (*qcow2Header, error) {
		return nil, fmt.Errorf("%w: qcow2 header: "+format, append([]any{ErrImage}, args...)...)
	}

	h := &qcow2Header{version: be32(4), clusterBits: uint(be32(20))}
	if h.version != 2 && h.version != 3 {
		return bad("version %d; 2 and 3 are known", h.version)
	}
	if h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits {
		return bad("clusters of 2^%d bytes; 2^%d to 2^%d are possible", h.clusterBits, minClusterBits, maxClusterBits)
	}
	cluster := int64(1) << h.clusterBits
	head = head[:min(int64(len(head)), cluster)]

	length := int64(qcow2MinHeader)
	if h.version == 3 {
		if len(head) < qcow2V3Header {
			return bad("it is cut off")
		}
		length = int64(be32(100))
		if length < qcow2V3Header || length%8 != 0 || length > int64(len(head)) {
			return bad("length %d", length)
		}
		if err := h.features(be64(72), head[:length]); err != nil {
			return nil, err
		}
		if order := be32(96); order > 6 {
			return bad("reference counts of 2^%d bits", order)
		}
	}

	if size := be64(24); size > maxQcow2 || size%SectorSize != 0 {
		return bad("virtual size %d; a multiple of %d up to %d is possible", size, SectorSize, int64(maxQcow2))
	} else {
		h.size = int64(size)
	}
	if method := be32(32); method != 0 {
		return bad("encryption method %d; encrypted images cannot be read: qemu-img convert writes a plain one", method)
	}

	// table checks that n bytes at off are whole clusters' beginning, behind the header, inside the file.
	table := func(off uint64, n int64) bool {
		return off >= uint64(cluster) && off%uint64(cluster) == 0 && off <= uint64(fileSize) && n <= fileSize-int64(off)
	}
	perL1 := cluster / 8 * cluster // bytes of the disk behind one entry
	h.l1Size = int64(be32(36))
	if need := (h.size + perL1 - 1) / perL1; h.l1Size < need || h.l1Size*8 > maxL1 {
		return bad("L1 table of %d entries; the disk needs %d, %d are possible", h.l1Size, need, maxL1/8)
	}
	if h.l1Size > 0 && !table(be64(40), h.l1Size*8) {
		return bad("L1 table of %d bytes at offset %#x of a file of %d", h.l1Size*8, be64(40), fileSize)
	}
	h.l1 = int64(be64(40))
	h.refTableSize = int64(be32(56)) * cluster
	if h.refTableSize > maxRefTable || !table(be64(48), h.refTableSize) {
		return bad("reference table of %d bytes at offset %#x of a file of %d", h.refTableSize, be64(48), fileSize)
	}
	h.refTable = int64(be64(48))
	if overlap(h.l1, h.l1Size*8, h.refTable, h.refTableSize) {
		return bad("L1 table and reference table overlap")
	}
	if n := be32(60); n > maxSnapshots || n > 0 && !table(be64(64), 0) {
		return bad("%d snapshots at offset %#x", n, be64(64))
	}
	if err := h.extensions(head[length:]); err != nil {
		return nil, err
	}

	if off, n := be64(8), be32(16); off != 0 {
		if n == 0 || n > maxBackingLen || off < uint64(length) || off > uint64(len(head)) || uint64(n) > uint64(len(head))-off {
			return bad("backing file's name of %d bytes at offset %#x", n, off)
		}
		h.backing = string(head[off : off+uint64(n)])
		if strings.ContainsRune(h.backing, 0) {
			return bad("backing file's name %q", h.backing)
		}
	} else if n != 0 {
		return bad("backing file's name of %d bytes without an offset", n)
	}
	return h, nil
}

// features checks the incompatible features; head is the header of a version 3 image.
func (h *qcow2Header) features(bits uint64, head []byte) error {
	const known = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2
	var why string
	switch {
	case bits&incompatCorrupt != 0:
		why = "it is marked as corrupt; qemu-img check -r all may repair it"
	case bits&incompatDataFile != 0:
		why = "its data are in another file, which is not supported; qemu-img convert writes one file"
	case bits&incompatExtendedL2 != 0:
		why = "it has extended L2 entries, which are not supported; qemu-img convert writes it without"
	case bits&^known != 0:
		why = fmt.Sprintf("unknown features %#x", bits&^known)
	}
	kind := byte(compressionZlib)
	if len(head) > qcow2V3Header {
		kind = head[qcow2V3Header]
	}
	if (bits&incompatCompression != 0) != (kind != compressionZlib) || kind > compressionZstd {
		why = fmt.Sprintf("compression type %d with features %#x", kind, bits)
	}
	if why != "" {
		return fmt.Errorf("%w: qcow2 header: %s", ErrImage, why)
	}
	h.zstd = kind == compressionZstd
	return nil
}

// extensions walks through the header extensions, of which only the backing file's format matters to us.
func (h *qcow2Header) extensions(b []byte) error {
	for len(b) >= 8 {
		kind, n := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		if kind == extensionEnd {
			return nil
		}
		padded := (n + 7) &^ 7
		if padded > int64(len(b)-8) {
			return fmt.Errorf("%w: qcow2 header extension %#x: %d bytes do not fit", ErrImage, kind, n)
		}
		if kind == extensionBacking {
			h.backingFormat = string(b[8 : 8+n])
		}
		b = b[8+padded:]
	}
	return nil
}

// overlap says whether two ranges have a byte in common.
func overlap(a, an, b, bn int64) bool { return a < b+bn && b < a+an }
