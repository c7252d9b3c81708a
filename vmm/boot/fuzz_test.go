package boot

import (
	"bytes"
	"io"
	"testing"

	"github.com/qenex/qenex-kernel/memmap"
)

const fuzzMemory = 32 * mib

// fuzzLoad loads whatever it is given and checks what Load promises: one known error, or an entry
// whose every range lies in RAM and is clear of the others.
func fuzzLoad(t *testing.T, file []byte, mode Mode) (*memmap.Memory, *Entry) {
	t.Helper()
	k, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		checkError(t, err, nil)
		return nil, nil
	}
	k.Version()
	mem := newMemory(t, fuzzMemory)
	initrd := []byte("initrd")
	e, err := Load(mem, Config{Kernel: k, Mode: mode, Fresh: true, Initrds: []Initrd{{R: bytes.NewReader(initrd), Size: int64(len(initrd))}}})
	if err != nil {
		checkError(t, err, nil)
		return nil, nil
	}
	l := e.Layout
	for _, r := range []Range{l.Kernel, l.Initrd} {
		if r.GPA < HighRAM || r.End() < r.GPA || r.End() > fuzzMemory {
			t.Errorf("range %#x is outside RAM", r)
		}
	}
	if l.Initrd.GPA < l.Kernel.End() && l.Kernel.GPA < l.Initrd.End() {
		t.Errorf("kernel %#x and initrd %#x overlap", l.Kernel, l.Initrd)
	}
	if e.RIP < l.Kernel.GPA || e.RIP >= l.Kernel.End() {
		t.Errorf("entry %#x is outside the kernel %#x", e.RIP, l.Kernel)
	}
	if e.Mode != Linux64 && e.Mode != PVH && e.Mode != Direct {
		t.Errorf("mode %s", e.Mode)
	}
	return mem, e
}

func FuzzBzImage(f *testing.F) {
	for _, c := range writable {
		f.Add(tinyBz(f, c).bytes(), uint8(Direct))
	}
	bz := tinyBz(f, gzipped).bytes()
	f.Add(bz, uint8(Auto))
	f.Add(bz, uint8(PVH))
	f.Add(bz[:0x264], uint8(Auto))
	f.Add(patched(bz, offSetupSects, 255, 1), uint8(Auto))
	f.Add(patched(bz, offPayload, 0xfffffff0, 4), uint8(Direct))
	f.Add(patched(bz, offPrefAddress, 1<<64-1, 8), uint8(Linux64))
	f.Fuzz(func(t *testing.T, file []byte, mode uint8) {
		// A bzImage even after mutation: other files are FuzzELF's and FuzzPayload's.
		if len(file) >= 0x210 {
			le.PutUint16(file[offBootFlag:], bootFlag)
			le.PutUint32(file[offMagic:], hdrMagic)
		}
		fuzzLoad(t, file, Mode(mode%4))
	})
}

func FuzzELF(f *testing.F) {
	tiny := tinyELF()
	tiny.segments[0].data = tiny.segments[0].data[:0x90]
	tiny.segments[1].data = tiny.segments[1].data[:0x30]
	f.Add(tiny.bytes(), uint8(Auto))
	f.Add(tiny.bytes(), uint8(Direct))
	inside := tiny // the note lies in a segment
	inside.notes = nil
	n := note("Xen", notePhys32Entry, le.AppendUint32(nil, textAt))
	inside.segments = append(inside.segments[:1:1], testSegment{paddr: dataAt, data: n})
	b := inside.bytes()
	f.Add(b, uint8(PVH))
	ph := elfHeaderSize + phdrSize
	f.Add(patched(b, ph, ptNote, 4), uint8(PVH))
	f.Add(patched(tiny.bytes(), elfHeaderSize+8, 0, 8), uint8(Auto)) // covers the headers
	f.Add(patched(tiny.bytes(), ph+24, textAt+1, 8), uint8(Auto))
	f.Fuzz(func(t *testing.T, file []byte, mode uint8) {
		copy(file, "\x7fELF")
		mem, e := fuzzLoad(t, file, Mode(mode%4))

		// The same file through a decompressor's eyes must load the same bytes, or be refused.
		s, err := newStream(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		headers, err := parseELF(s)
		if err != nil {
			checkError(t, err, nil)
			return
		}
		again := newMemory(t, fuzzMemory)
		if _, err := headers.load(again, s, true); err != nil {
			checkError(t, err, nil)
			return
		}
		if e == nil {
			return
		}
		for _, g := range headers.segments {
			if g.fileSize != 0 && !bytes.Equal(at(t, mem, g.paddr, g.fileSize), at(t, again, g.paddr, g.fileSize)) {
				t.Errorf("the segment at %#x differs between file and stream", g.paddr)
			}
		}
	})
}

func FuzzPayload(f *testing.F) {
	for _, c := range writable {
		f.Add(compress(f, c, pattern(3000, 7)))
		f.Add(compress(f, c, nil))
	}
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte("\x89LZO\x00\x0d\x0a\x1a\x0a"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\xff"))
	f.Add([]byte("\x5d\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		c := detectCompression(packed)
		if c == uncompressed {
			return
		}
		r, err := unpack(bytes.NewReader(packed), 0, uint64(len(packed)), c)
		if err != nil {
			checkError(t, err, ErrPayload)
			return
		}
		defer r.Close()
		s, err := newStream(io.LimitReader(r, 4*mib)) // the real limit takes too long here
		if err == nil {
			if err = s.read(s.pos+100, make([]byte, 100)); err == nil {
				err = s.finish()
			}
		}
		if err != nil {
			checkError(t, err, nil)
		}
	})
}
