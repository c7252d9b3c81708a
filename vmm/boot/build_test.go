package boot

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/qenex/qenex-kernel/memmap"
)

// Builders of synthetic kernels, small enough to read in a hex dump.

type testSegment struct {
	paddr, vaddr uint64
	data         []byte
	bss          uint64
}

type testELF struct {
	entry    uint64
	segments []testSegment
	notes    []byte // put into a PT_NOTE of its own behind the segments
}

// note makes one ELF note.
func note(owner string, kind uint32, desc []byte) []byte {
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	b := le.AppendUint32(nil, uint32(len(owner)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = append(b, pad([]byte(owner+"\x00"))...)
	return append(b, pad(bytes.Clone(desc))...)
}

// bytes lays the file out: header, program headers, segments, notes.
func (e testELF) bytes() []byte {
	count := len(e.segments)
	if e.notes != nil {
		count++
	}
	h := make([]byte, elfHeaderSize)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], etExec)
	le.PutUint16(h[18:], emX8664)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], e.entry)
	le.PutUint64(h[32:], elfHeaderSize)
	le.PutUint16(h[52:], elfHeaderSize)
	le.PutUint16(h[54:], phdrSize)
	le.PutUint16(h[56:], uint16(count))
	var body []byte
	start := uint64(elfHeaderSize + count*phdrSize)
	add := func(kind uint32, s testSegment) {
		p := make([]byte, phdrSize)
		le.PutUint32(p, kind)
		le.PutUint64(p[8:], start+uint64(len(body)))
		le.PutUint64(p[16:], s.vaddr)
		le.PutUint64(p[24:], s.paddr)
		le.PutUint64(p[32:], uint64(len(s.data)))
		le.PutUint64(p[40:], uint64(len(s.data))+s.bss)
		h = append(h, p...)
		body = append(body, s.data...)
	}
	for _, s := range e.segments {
		add(ptLoad, s)
	}
	if e.notes != nil {
		add(ptNote, testSegment{data: e.notes})
	}
	return append(h, body...)
}

const (
	textAt = 0x1000000
	dataAt = 0x1400000
	virt   = 0xffffffff80000000
)

// tinyELF has text, data with a bss, and a PVH note, like a vmlinux.
func tinyELF() testELF {
	return testELF{
		entry: textAt,
		segments: []testSegment{
			{paddr: textAt, vaddr: virt + textAt, data: pattern(0x3210, 1)},
			{paddr: dataAt, vaddr: virt + dataAt, data: pattern(0x1003, 2), bss: 0x5000},
		},
		notes: append(note("Linux", 257, []byte{1}), note("Xen", notePhys32Entry, le.AppendUint64(nil, textAt+0x70))...),
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i) ^ seed
	}
	return b
}

// testBz describes a bzImage; the zero values of most fields are filled in.
type testBz struct {
	version     uint16
	payload     []byte // compressed, its size appended
	prefAddress uint64
	initSize    uint32
	relocatable bool
}

const testCmdlineSize = 0x7ff

func (z testBz) bytes() []byte {
	const setupSects = 3
	f := make([]byte, (setupSects+1)*setupSector)
	copy(f, "MZ")
	f[offSetupSects] = setupSects
	le.PutUint16(f[offBootFlag:], bootFlag)
	le.PutUint16(f[offJump:], 0x6aeb)
	le.PutUint32(f[offMagic:], hdrMagic)
	le.PutUint16(f[offVersion:], max(z.version, 0x020f))
	le.PutUint16(f[offKernelVer:], 0x300)
	copy(f[0x500:], "6.1.0-test (builder) #1\x00")
	f[offLoadFlags] = loadedHigh
	le.PutUint32(f[offCode32:], 0x100000)
	le.PutUint32(f[offInitrdMax:], 0x7fffffff)
	le.PutUint32(f[offAlignment:], 0x200000)
	if z.relocatable {
		f[offRelocatable] = 1
	}
	le.PutUint16(f[offXLoadFlags:], xlfKernel64)
	le.PutUint32(f[offCmdlineSize:], testCmdlineSize)
	le.PutUint64(f[offPrefAddress:], z.prefAddress)
	le.PutUint32(f[offInitSize:], z.initSize)

	code := pattern(0x2a3, 3)
	le.PutUint32(f[offPayload:], uint32(len(code)))
	le.PutUint32(f[offPayloadLen:], uint32(len(z.payload)))
	code = append(code, z.payload...)
	code = append(code, make([]byte, 0x400)...)
	code = append(code, make([]byte, -len(code)&15)...)
	le.PutUint32(f[offSysSize:], uint32(len(code)/16))
	return append(f, code...)
}

// tinyBz wraps tinyELF, compressed with c.
func tinyBz(t testing.TB, c compression) testBz {
	p := compress(t, c, tinyELF().bytes())
	if c != gzipped {
		p = le.AppendUint32(p, uint32(len(tinyELF().bytes())))
	}
	return testBz{payload: p, prefAddress: textAt, initSize: 0x800000, relocatable: true}
}

// compress packs b as Linux's build would, with what Go can write.
func compress(t testing.TB, c compression, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch c {
	case gzipped:
		w = gzip.NewWriter(&out)
	case xzed:
		w, err = xz.NewWriter(&out)
	case lzmaed:
		w, err = lzma.NewWriter(&out)
	case lz4ed:
		z := lz4.NewWriter(&out)
		err = z.Apply(lz4.LegacyOption(true))
		w = z
	case zstded:
		w, err = zstd.NewWriter(&out)
	default:
		t.Fatalf("no writer for %s", c)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var writable = []compression{gzipped, xzed, lzmaed, lz4ed, zstded}

func newMemory(t testing.TB, size uint64) *memmap.Memory {
	t.Helper()
	m, err := memmap.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func open(t testing.TB, b []byte) *Kernel {
	t.Helper()
	k, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func load(t testing.TB, mem *memmap.Memory, cfg Config) *Entry {
	t.Helper()
	e, err := Load(mem, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func at(t testing.TB, mem *memmap.Memory, gpa, n uint64) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := mem.Read(gpa, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// sentinels are all the errors this package promises to wrap.
var sentinels = []error{ErrNotKernel, ErrTruncated, ErrHeader, ErrPayload, ErrMode, ErrMemory, ErrCmdline, ErrInitrd, ErrRead}

// checkError wants err to wrap exactly one sentinel, want if that is not nil.
func checkError(t testing.TB, err, want error) {
	t.Helper()
	n := 0
	for _, s := range sentinels {
		if errors.Is(err, s) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("error %q wraps %d of the package's errors, want 1", err, n)
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("error %q does not wrap %q", err, want)
	}
}

const mib = 1 << 20
