package ext4

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

var le = binary.LittleEndian

const (
	inlineTarget = 60 // a symbolic link shorter than this is in its inode
	extentsFlag  = 0x80000
	extraSize    = 32 // bytes of the inode behind the first 128 that are fields
	xattrStart   = 128 + extraSize
)

// encode returns the inode as it is on disk.
func (n *Inode) encode() ([]byte, error) {
	b := make([]byte, inodeSize)
	links := n.links
	if n.Dir() && links > MaxLinks {
		links = 1 // dir_nlink: too many to count
	}
	le.PutUint16(b[0x00:], n.Mode)
	le.PutUint16(b[0x02:], uint16(n.UID))
	le.PutUint16(b[0x78:], uint16(n.UID>>16))
	le.PutUint16(b[0x18:], uint16(n.GID))
	le.PutUint16(b[0x7a:], uint16(n.GID>>16))
	le.PutUint32(b[0x04:], uint32(n.size))
	le.PutUint32(b[0x6c:], uint32(n.size>>32))
	le.PutUint16(b[0x1a:], uint16(links))
	le.PutUint32(b[0x68:], n.acl)
	le.PutUint16(b[0x80:], extraSize)
	putTime(b, 0x08, 0x8c, n.Atime)
	putTime(b, 0x0c, 0x84, n.Mtime) // the time of change is that of the contents: both are the image's
	putTime(b, 0x10, 0x88, n.Mtime)
	putTime(b, 0x90, 0x94, n.Mtime)
	sectors := uint64(n.blocks) + uint64(len(n.leaves))
	if n.acl != 0 {
		sectors++
	}
	le.PutUint32(b[0x1c:], uint32(sectors*(blockSize/512)))
	switch n.Mode & TypeMask {
	case TypeChar, TypeBlock:
		n.device(b[0x28:])
	case TypeSymlink:
		if len(n.Target) < inlineTarget {
			copy(b[0x28:], n.Target)
			break
		}
		fallthrough
	case TypeRegular, TypeDir:
		le.PutUint32(b[0x20:], extentsFlag)
		n.extents(b[0x28:])
	}
	return b, n.inlineXattrs(b[xattrStart:])
}

// device encodes a device number as Linux does: in the first word if it is of 16 bits, else in the second.
func (n *Inode) device(b []byte) {
	if n.Major < 256 && n.Minor < 256 {
		le.PutUint32(b, n.Major<<8|n.Minor)
	} else {
		le.PutUint32(b[4:], n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
	}
}

// putTime writes seconds at one place and nanoseconds, with two more bits of seconds, at another. Times that do not fit become the first second of 1970.
func putTime(b []byte, at, extra int, t time.Time) {
	s := t.Unix()
	if s < -1<<31 || s >= 1<<34-1<<31 {
		t, s = time.Unix(0, 0), 0
	}
	epoch := uint32((s-int64(int32(s)))>>32) & 3
	le.PutUint32(b[at:], uint32(s))
	le.PutUint32(b[extra:], uint32(t.Nanosecond())<<2|epoch)
}

// pieces is how many extents the contents take.
func (n *Inode) pieces() int { return int((n.blocks + extentMax - 1) / extentMax) }

func extentHeader(b []byte, entries, room, depth int) {
	le.PutUint16(b, 0xf30a)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(room))
	le.PutUint16(b[6:], uint16(depth))
}

// extent writes the i-th extent of the contents.
func (n *Inode) extent(b []byte, i int) {
	first := uint32(i) * extentMax
	le.PutUint32(b, first)
	le.PutUint16(b[4:], uint16(min(n.blocks-first, extentMax)))
	le.PutUint32(b[8:], n.start+first)
}

// leaves writes the blocks of extents that an inode has no room for.
func (w *Writer) leaves(n *Inode) error {
	if n.pieces() <= rootExtents {
		return nil
	}
	for i := 0; i < n.pieces(); i += leafExtents {
		b := make([]byte, blockSize)
		count := min(n.pieces()-i, leafExtents)
		extentHeader(b, count, leafExtents, 0)
		for j := range count {
			n.extent(b[12+12*j:], i+j)
		}
		at, err := w.put(b)
		if err != nil {
			return err
		}
		n.leaves = append(n.leaves, at)
	}
	return nil
}

// extents writes the root of the extent tree.
func (n *Inode) extents(b []byte) {
	if len(n.leaves) == 0 {
		extentHeader(b, n.pieces(), rootExtents, 0)
		for i := range n.pieces() {
			n.extent(b[12+12*i:], i)
		}
		return
	}
	extentHeader(b, len(n.leaves), rootExtents, 1)
	for i, leaf := range n.leaves {
		le.PutUint32(b[12+12*i:], uint32(i)*leafExtents*extentMax)
		le.PutUint32(b[16+12*i:], leaf)
	}
}

// entryTypes are the types in directory entries.
var entryTypes = map[uint16]byte{TypeRegular: 1, TypeDir: 2, TypeChar: 3, TypeBlock: 4, TypeFIFO: 5, TypeSocket: 6, TypeSymlink: 7}

// entries returns a directory's blocks. No entry crosses a block, and the last of each reaches to its end.
func (n *Inode) entries() []byte {
	var out []byte
	last := -1 // offset of the last entry in out
	add := func(name string, number uint32, typ byte) {
		size := (8 + len(name) + 3) &^ 3
		if last >= 0 && len(out)%blockSize+size <= blockSize && len(out)%blockSize != 0 {
			le.PutUint16(out[last+4:], uint16(len(out)-last))
		} else {
			out = fill(out, last)
		}
		last = len(out)
		out = append(out, make([]byte, size)...)
		le.PutUint32(out[last:], number)
		out[last+6], out[last+7] = byte(len(name)), typ
		copy(out[last+8:], name)
	}
	add(".", n.number, entryTypes[TypeDir])
	add("..", n.parent, entryTypes[TypeDir])
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		c := n.Children[name]
		add(name, c.number, entryTypes[c.Mode&TypeMask])
	}
	return fill(out, last)
}

// fill makes the last entry reach to the end of its block.
func fill(out []byte, last int) []byte {
	if last < 0 {
		return out
	}
	end := (len(out) + blockSize - 1) / blockSize * blockSize
	le.PutUint16(out[last+4:], uint16(end-last))
	return append(out, make([]byte, end-len(out))...)
}

// writeInodes writes all inode tables; what is not in use stays a hole.
func (w *Writer) writeInodes(p plan, root, journal *Inode) error {
	for _, n := range append([]*Inode{root, journal}, w.numbered...) {
		b, err := n.encode()
		if err != nil {
			return fmt.Errorf("inode %d: %w", n.number, err)
		}
		if _, err := w.file.WriteAt(b, p.inodeOffset(n.number)); err != nil {
			return err
		}
	}
	return nil
}
