package fs9p

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Types of requests; the answer's is one more.
const (
	tError     = 6 // of Rlerror less one
	tStatfs    = 8
	tLopen     = 12
	tLcreate   = 14
	tSymlink   = 16
	tMknod     = 18
	tReadlink  = 22
	tGetattr   = 24
	tSetattr   = 26
	tReaddir   = 40
	tFsync     = 50
	tLock      = 52
	tGetlock   = 54
	tLink      = 70
	tMkdir     = 72
	tRenameat  = 74
	tUnlinkat  = 76
	tVersion   = 100
	tAttach    = 104
	tFlush     = 108
	tWalk      = 110
	tRead      = 116
	tWrite     = 118
	tClunk     = 120
	tRemove    = 122
	headerSize = 7 // bytes: size[4] type[1] tag[2]
)

const (
	noFID = 1<<32 - 1

	// maxMessage bounds a message in bytes.
	maxMessage = 512 << 10
	// minMessage is what a client must have room for at least.
	minMessage = 4 << 10
	// maxRequest bounds a request, without the data of a write: names have 255 bytes, a walk 16 of them, a link's target 4095.
	maxRequest = 8 << 10
	// maxNames bounds the names of a walk.
	maxNames = 16
	// maxName bounds a name in bytes.
	maxName = 255

	readHeader  = headerSize + 4         // of Rread and Rreaddir
	writeHeader = headerSize + 4 + 8 + 4 // of Twrite
	errorSize   = headerSize + 4         // of Rlerror
	entrySize   = qidSize + 8 + 1 + 2    // of a directory entry, without its name
	qidSize     = 13
)

// decoder takes a request apart. What is missing reads as zero, and bad says so.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.bad = true
		d.b = nil
		return make([]byte, min(n, 8))
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() uint8   { return d.bytes(1)[0] }
func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.bytes(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.bytes(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.bytes(8)) }

func (d *decoder) str() string {
	n := int(d.u16())
	p := d.bytes(n)
	if d.bad {
		return ""
	}
	return string(p)
}

// encoder appends to an answer.
type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.LittleEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) str(s string) { e.u16(uint16(len(s))); e.b = append(e.b, s...) }

// header makes room for a message's header, which finish fills in.
func (e *encoder) header() { e.b = append(e.b[:0], make([]byte, headerSize)...) }

// finish writes the header of a message with extra bytes behind what is encoded.
func (e *encoder) finish(typ uint8, tag uint16, extra int) {
	binary.LittleEndian.PutUint32(e.b, uint32(len(e.b)+extra))
	e.b[4] = typ
	binary.LittleEndian.PutUint16(e.b[5:], tag)
}

// qid names a file for as long as it exists.
func (e *encoder) qid(st *unix.Stat_t) {
	e.u8(qidType(st.Mode))
	e.u32(uint32(st.Mtim.Nano()) ^ uint32(st.Size)<<8)
	e.u64(st.Ino) // one file system: mounts are not entered
}

func qidType(mode uint32) uint8 {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return 0x80
	case unix.S_IFLNK:
		return 0x02
	}
	return 0
}

// part returns the n bytes of views from off on, or what there is of them, as views.
func part(views [][]byte, off, n uint64) [][]byte {
	var out [][]byte
	for _, v := range views {
		if off >= uint64(len(v)) {
			off -= uint64(len(v))
			continue
		}
		v = v[off:]
		off = 0
		if v = v[:min(n, uint64(len(v)))]; len(v) > 0 {
			out = append(out, v)
			n -= uint64(len(v))
		}
		if n == 0 || len(out) == maxVectors {
			break
		}
	}
	return out
}

// maxVectors is the most that readv and writev take.
const maxVectors = 1024

// put copies b to the beginning of views.
func put(views [][]byte, b []byte) {
	for _, v := range views {
		b = b[copy(v, b):]
	}
}

// take copies the beginning of views to b and returns how much that was.
func take(b []byte, views [][]byte) (n int) {
	for _, v := range views {
		n += copy(b[n:], v)
	}
	return n
}

func length(views [][]byte) (n uint64) {
	for _, v := range views {
		n += uint64(len(v))
	}
	return n
}
