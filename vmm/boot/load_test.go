package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/bootparam"
	"github.com/bobuhiro11/gokvm/pvh"
	"github.com/u-root/u-root/pkg/boot/bzimage"

	"github.com/qenex/qenex-kernel/memmap"
)

// checkSegments compares guest memory with tinyELF's segments.
func checkSegments(t *testing.T, mem *memmap.Memory) {
	t.Helper()
	for _, s := range tinyELF().segments {
		want := append(bytes.Clone(s.data), make([]byte, s.bss)...)
		if got := at(t, mem, s.paddr, uint64(len(want))); !bytes.Equal(got, want) {
			t.Errorf("segment at %#x is not what the file holds", s.paddr)
		}
	}
}

func TestModes(t *testing.T) {
	elfFile := tinyELF().bytes()
	noNote := tinyELF()
	noNote.notes = nil
	virtual := noNote
	virtual.entry += virt
	short := tinyELF()
	short.notes = note("Xen", notePhys32Entry, le.AppendUint32(nil, textAt+8))
	type test struct {
		name string
		file []byte
		mode Mode
		want Mode
		rip  uint64
	}
	tests := []test{
		{"ELF auto", elfFile, Auto, PVH, textAt + 0x70},
		{"ELF pvh", elfFile, PVH, PVH, textAt + 0x70},
		{"ELF pvh, 4-byte note", short.bytes(), PVH, PVH, textAt + 8},
		{"ELF direct", elfFile, Direct, Direct, textAt},
		{"ELF without note auto", noNote.bytes(), Auto, Direct, textAt},
		{"ELF virtual entry", virtual.bytes(), Auto, Direct, textAt},
	}
	for _, c := range writable {
		packed, bz := compress(t, c, elfFile), tinyBz(t, c).bytes()
		tests = append(tests,
			test{c.String() + " auto", packed, Auto, PVH, textAt + 0x70},
			test{c.String() + " direct", packed, Direct, Direct, textAt},
			test{c.String() + " bzImage direct", bz, Direct, Direct, textAt},
			test{c.String() + " bzImage pvh", bz, PVH, PVH, textAt + 0x70},
			test{c.String() + " bzImage auto", bz, Auto, Linux64, textAt + 0x200},
			test{c.String() + " bzImage linux64", bz, Linux64, Linux64, textAt + 0x200},
		)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mem := newMemory(t, 64*mib)
			e := load(t, mem, Config{Kernel: open(t, tt.file), Mode: tt.mode, Fresh: true, Cmdline: "quiet"})
			if e.Mode != tt.want || e.RIP != tt.rip {
				t.Errorf("mode %s at %#x, want %s at %#x", e.Mode, e.RIP, tt.want, tt.rip)
			}
			if e.Mode == Linux64 {
				code := tt.file[4*setupSector:]
				if !bytes.Equal(at(t, mem, textAt, uint64(len(code))), code) {
					t.Error("the protected-mode kernel is not what the file holds")
				}
				if e.Layout.Kernel != (Range{textAt, 0x800000}) {
					t.Errorf("kernel range %#x, want init_size bytes at pref_address", e.Layout.Kernel)
				}
			} else {
				checkSegments(t, mem)
				if e.Layout.Kernel != (Range{textAt, dataAt - textAt + 0x1003 + 0x5000}) {
					t.Errorf("kernel range %#x, want both segments", e.Layout.Kernel)
				}
			}
			if e.Mode == PVH {
				checkPVHState(t, mem, e)
			} else {
				checkLongState(t, mem, e)
			}
		})
	}
}

// TestForeignPayloads unpacks what Go cannot write: bzip2, and xz with the x86 filter as Linux's
// build calls it. The files hold tinyELF.
func TestForeignPayloads(t *testing.T) {
	for _, name := range []string{"tiny.elf.bz2", "tiny.elf.x86.xz"} {
		t.Run(name, func(t *testing.T) {
			packed, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			mem := newMemory(t, 64*mib)
			load(t, mem, Config{Kernel: open(t, packed), Mode: PVH, Fresh: true})
			checkSegments(t, mem)

			bz := tinyBz(t, gzipped)
			bz.payload = le.AppendUint32(packed, uint32(len(tinyELF().bytes())))
			mem = newMemory(t, 64*mib)
			load(t, mem, Config{Kernel: open(t, bz.bytes()), Mode: Direct, Fresh: true})
			checkSegments(t, mem)
		})
	}
}

func checkLongState(t *testing.T, mem *memmap.Memory, e *Entry) {
	t.Helper()
	if e.CR0 != 0x80000011 || e.CR4 != 0x20 || e.EFER != 0x500 || e.RFLAGS != 2 || e.RSI != ZeroPage {
		t.Errorf("CR0 %#x CR4 %#x EFER %#x RFLAGS %#x RSI %#x", e.CR0, e.CR4, e.EFER, e.RFLAGS, e.RSI)
	}
	if !e.Code.L || e.Code.DB || e.Code.Selector != 0x10 || e.Data.Selector != 0x18 {
		t.Errorf("code segment %+v, data segment %+v", e.Code, e.Data)
	}
	// Walk the page tables for addresses all over the lower 4 GiB.
	for _, va := range []uint64{0, ZeroPage, textAt, e.RIP, 0x7fffffff, 0xbfffffff, 0xfee00000, 0xffffffff} {
		pml4e := le.Uint64(at(t, mem, e.CR3+va>>39*8, 8))
		pdpte := le.Uint64(at(t, mem, pml4e&^0xfff+va>>30&511*8, 8))
		pde := le.Uint64(at(t, mem, pdpte&^0xfff+va>>21&511*8, 8))
		if pml4e&0xfff != 3 || pdpte&0xfff != 3 || pde&0xfff != 0x83 || pde&^0xfff+va&0x1fffff != va {
			t.Errorf("%#x: PML4E %#x, PDPTE %#x, PDE %#x do not map it to itself", va, pml4e, pdpte, pde)
		}
	}
}

func checkPVHState(t *testing.T, mem *memmap.Memory, e *Entry) {
	t.Helper()
	if e.CR0 != 0x11 || e.CR3 != 0 || e.CR4 != 0 || e.EFER != 0 || e.RFLAGS != 2 || e.RBX != PVHInfo {
		t.Errorf("CR0 %#x CR3 %#x CR4 %#x EFER %#x RFLAGS %#x RBX %#x", e.CR0, e.CR3, e.CR4, e.EFER, e.RFLAGS, e.RBX)
	}
	if e.Code.L || !e.Code.DB || e.Code.Limit != 0xffffffff || e.Data.Limit != 0xffffffff || e.Task.Limit != 0x67 || e.Task.Type != 0xb {
		t.Errorf("segments %+v %+v %+v", e.Code, e.Data, e.Task)
	}
}

func TestGDTMatchesGokvm(t *testing.T) {
	want := pvh.CreateGDT()
	for i, s := range []Segment{{}, code32, flat, task} {
		if got := s.descriptor(); got != want[i] {
			t.Errorf("descriptor %#x, gokvm has %#x", got, want[i])
		}
	}
	if got := code64.descriptor(); got != 0x00af9b000000ffff {
		t.Errorf("64-bit code descriptor %#x", got)
	}
	mem := newMemory(t, 32*mib)
	if err := writeGDT(mem); err != nil {
		t.Fatal(err)
	}
	for _, s := range []Segment{code32, code64, flat, task} {
		if got := le.Uint64(at(t, mem, GDTBase+uint64(s.Selector), 8)); got != s.descriptor() {
			t.Errorf("selector %#x names %#x, want %#x", s.Selector, got, s.descriptor())
		}
	}
}

func TestZeroPage(t *testing.T) {
	bz := tinyBz(t, gzipped).bytes()
	initrd := pattern(5000, 9)
	for _, tt := range []struct {
		name string
		file []byte
		mode Mode
	}{{"bzImage", bz, Auto}, {"ELF", tinyELF().bytes(), Direct}} {
		t.Run(tt.name, func(t *testing.T) {
			mem := newMemory(t, 5<<30)
			e := load(t, mem, Config{Kernel: open(t, tt.file), Mode: tt.mode, Fresh: true, Cmdline: "console=ttyS0 quiet", RSDP: ACPIBase,
				Initrds: []Initrd{{Name: "i", R: bytes.NewReader(initrd), Size: int64(len(initrd))}}})
			page := at(t, mem, ZeroPage, pageSize)

			var p bootparam.BootParam
			if err := binary.Read(bytes.NewReader(page), le, &p); err != nil {
				t.Fatal(err)
			}
			if _, err := bootparam.New(bytes.NewReader(page)); err != nil {
				t.Errorf("gokvm does not take the header: %v", err)
			}
			var u bzimage.LinuxHeader
			if err := u.UnmarshalBinary(page); err != nil {
				t.Fatal(err)
			}
			h := p.Hdr
			for _, f := range []struct {
				name      string
				got, want uint64
			}{
				{"header", uint64(h.Header), hdrMagic},
				{"version", uint64(h.Version), 0x020f},
				{"type_of_loader", uint64(h.TypeOfLoader), 0xff},
				{"loadflags", uint64(h.LoadFlags), 1},
				{"code32_start", uint64(h.Code32Start), textAt},
				{"ramdisk_image", uint64(h.RamdiskImage), e.Layout.Initrd.GPA},
				{"ramdisk_size", uint64(h.RamdiskSize), uint64(len(initrd))},
				{"cmd_line_ptr", uint64(h.CmdlinePtr), CmdlineBase},
				{"cmdline_size", uint64(h.CmdlineSize), testCmdlineSize},
				{"u-root ramdisk_image", uint64(u.RamdiskImage), e.Layout.Initrd.GPA},
				{"u-root ramdisk_size", uint64(u.RamdiskSize), uint64(len(initrd))},
				{"u-root cmd_line_ptr", uint64(u.Cmdlineptr), CmdlineBase},
				{"ext_ramdisk_image", uint64(u.ExtRamdiskImage), 0},
				{"ext_cmd_line_ptr", uint64(u.ExtCmdlinePtr), 0},
				{"acpi_rsdp_addr", le.Uint64(page[0x70:]), ACPIBase},
				{"sentinel", uint64(page[0x1ef]), 0},
				{"e820_entries", uint64(p.E820Entries), 4},
			} {
				if f.got != f.want {
					t.Errorf("%s is %#x, want %#x", f.name, f.got, f.want)
				}
			}
			if !bytes.Equal(page[:0x40], make([]byte, 0x40)) {
				t.Error("screen_info is not empty")
			}
			want := []bootparam.E820Entry{
				{Addr: 0, Size: 0x9fc00, Type: 1},
				{Addr: 0x9fc00, Size: 0x60400, Type: 2},
				{Addr: 0x100000, Size: 0xbff00000, Type: 1},
				{Addr: 0x100000000, Size: 0x80000000, Type: 1},
			}
			for i, w := range want {
				if p.E820Map[i] != w {
					t.Errorf("e820[%d] is %#x, want %#x", i, p.E820Map[i], w)
				}
			}
			if got := string(at(t, mem, e.Layout.Cmdline.GPA, e.Layout.Cmdline.Size)); got != "console=ttyS0 quiet\x00" {
				t.Errorf("command line is %q", got)
			}
		})
	}
}

func TestStartInfoMatchesGokvm(t *testing.T) {
	initrd := pattern(100, 9)
	mem := newMemory(t, 4<<30)
	e := load(t, mem, Config{Kernel: open(t, tinyELF().bytes()), Fresh: true, Cmdline: "x", RSDP: ACPIBase,
		Initrds: []Initrd{{R: bytes.NewReader(initrd), Size: 100}}})

	info := pvh.NewStartInfo(ACPIBase, CmdlineBase)
	info.NrModules, info.ModlistPAddr, info.MemMapPAddr, info.MemMapEntries = 1, pvhModules, pvhMemmap, uint32(len(e.Layout.E820))
	type encoder interface{ Bytes() ([]byte, error) }
	compare := func(what string, gpa uint64, want encoder) {
		b, err := want.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if got := at(t, mem, gpa, uint64(len(b))); !bytes.Equal(got, b) {
			t.Errorf("%s is\n% x, gokvm makes\n% x", what, got, b)
		}
	}
	compare("start info", e.RBX, info)
	compare("module", pvhModules, pvh.NewModListEntry(e.Layout.Initrd.GPA, 100, 0))
	if len(e.Layout.E820) != 4 {
		t.Errorf("%d memory ranges, want 4", len(e.Layout.E820))
	}
	for i, r := range e.Layout.E820 {
		compare(fmt.Sprint("memory range ", i), pvhMemmap+uint64(i)*pvhMemmapEntry, pvh.NewMemMapTableEntry(r.GPA, r.Size, uint32(r.Type)))
	}

	file := tinyELF().bytes()
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := pvh.ParsePVHEntry(bytes.NewReader(file), f.Progs[2])
	if err != nil || uint64(entry) != e.RIP {
		t.Errorf("PVH entry %#x, gokvm finds %#x (%v)", e.RIP, entry, err)
	}
}

func TestBzImageMatchesURoot(t *testing.T) {
	file := tinyBz(t, gzipped).bytes()
	var u bzimage.BzImage
	if err := u.UnmarshalBinary(file); err != nil {
		t.Fatal(err)
	}
	k := open(t, file)
	if k.bz.code != uint64(u.KernelOffset) || !bytes.Equal(u.KernelCode, tinyELF().bytes()) {
		t.Errorf("kernel at file offset %#x, u-root finds it at %#x", k.bz.code, u.KernelOffset)
	}
	if got := k.Version(); got != "6.1.0-test (builder) #1" {
		t.Errorf("version %q", got)
	}
	if got := k.Format(); got != "bzImage, protocol 2.15" {
		t.Errorf("format %q", got)
	}
}

// TestNotFresh boots into memory full of an earlier guest's bytes.
func TestNotFresh(t *testing.T) {
	for _, mode := range []Mode{Direct, Linux64} {
		t.Run(mode.String(), func(t *testing.T) {
			mem := newMemory(t, 32*mib)
			all, err := mem.View(0, 32*mib)
			if err != nil {
				t.Fatal(err)
			}
			for i := range all {
				all[i] = 0xa5
			}
			file := tinyBz(t, gzipped).bytes()
			initrds := []Initrd{{R: strings.NewReader("abcde"), Size: 5}, {R: strings.NewReader("xyz"), Size: 3}}
			e := load(t, mem, Config{Kernel: open(t, file), Mode: mode, Cmdline: "a", Initrds: initrds})
			if mode == Direct {
				checkSegments(t, mem)
			} else {
				n := uint64(len(file) - 4*setupSector)
				if rest := at(t, mem, textAt+n, e.Layout.Kernel.Size-n); bytes.Contains(rest, []byte{0xa5}) {
					t.Error("memory behind the kernel was not cleared")
				}
			}
			if got := string(at(t, mem, e.Layout.Initrd.GPA, e.Layout.Initrd.Size)); got != "abcde\x00\x00\x00xyz" {
				t.Errorf("initrd %q", got)
			}
			if bytes.Contains(at(t, mem, ZeroPage, pageSize), []byte{0xa5}) {
				t.Error("the zero page has old bytes")
			}
			checkLongState(t, mem, e)
		})
	}
}

// TestFreshTouchesLittle counts the pages that a boot with a large bss touches.
func TestFreshTouchesLittle(t *testing.T) {
	if b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled"); err == nil && !bytes.Contains(b, []byte("[never]")) && !bytes.Contains(b, []byte("[advise]")) {
		t.Skipf("shared memory comes in huge pages here: %s", b)
	}
	k := tinyELF()
	k.segments[1].bss = 256 * mib
	mem := newMemory(t, 1<<30)
	load(t, mem, Config{Kernel: open(t, k.bytes()), Mode: Direct, Fresh: true})
	touched := 0
	for _, v := range []Range{{0, mib}, {textAt, 260 * mib}} {
		view, err := mem.View(v.GPA, v.Size)
		if err != nil {
			t.Fatal(err)
		}
		touched += residentPages(t, view)
	}
	// Kernel 4 + 2, GDT, zero page, page tables 6, command line.
	if touched > 16 {
		t.Errorf("%d pages touched, want at most 16", touched)
	}
}

func TestInitrdPlacement(t *testing.T) {
	kernel := Range{16 * mib, 8 * mib}
	for _, tt := range []struct {
		name            string
		size, low, last uint64
		want            uint64
		wantErr         bool
	}{
		{"top of RAM", 3 * mib, 64 * mib, 0x7fffffff, 61 * mib, false},
		{"page-aligned down", 3*mib + 1, 64 * mib, 0x7fffffff, 61*mib - 4096, false},
		{"initrd_addr_max", 3 * mib, 4 << 30, 0x37ffffff, 0x38000000 - 3*mib, false},
		{"initrd_addr_max is everything", mib, 64 * mib, 1<<64 - 1, 63 * mib, false},
		{"exactly above the kernel", 8 * mib, 32 * mib, 0x7fffffff, 24 * mib, false},
		{"below the kernel", 10 * mib, 32 * mib, 0x7fffffff, 6 * mib, false},
		{"exactly below the kernel", 15 * mib, 24 * mib, 0x7fffffff, mib, false},
		{"no room", 15*mib + 1, 32 * mib, 0x7fffffff, 0, true},
		{"more than RAM", 1 << 40, 32 * mib, 0x7fffffff, 0, true},
		{"limit below 1 MiB", 1, 32 * mib, 0xffff, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := placeInitrd(tt.size, tt.low, tt.last, []Range{kernel})
			if tt.wantErr {
				checkError(t, err, ErrMemory)
				return
			}
			if err != nil || got != (Range{tt.want, tt.size}) {
				t.Errorf("at %#x (%v), want %#x", got, err, tt.want)
			}
		})
	}
}

func TestKernelPlacement(t *testing.T) {
	for _, tt := range []struct {
		name      string
		bz        bzImage
		low, want uint64
		wantErr   bool
	}{
		{"preferred", bzImage{prefAddress: 16 * mib, initSize: mib, alignment: 2 * mib}, 32 * mib, 16 * mib, false},
		{"exactly fits", bzImage{prefAddress: 16 * mib, initSize: 16 * mib, alignment: 2 * mib}, 32 * mib, 16 * mib, false},
		{"one byte short", bzImage{prefAddress: 16 * mib, initSize: 16*mib + 1, alignment: 2 * mib}, 32 * mib, 0, true},
		{"no preference", bzImage{initSize: mib, alignment: 2 * mib}, 32 * mib, 2 * mib, false},
		{"preference not aligned", bzImage{prefAddress: 17 * mib, initSize: mib, alignment: 2 * mib}, 32 * mib, 18 * mib, false},
		{"not relocatable", bzImage{prefAddress: 17 * mib, initSize: mib, alignment: 1}, 32 * mib, 17 * mib, false},
		{"beyond RAM", bzImage{prefAddress: 64 * mib, initSize: mib, alignment: 1}, 32 * mib, 0, true},
		{"alignment wraps", bzImage{prefAddress: 1<<64 - 1, initSize: mib, alignment: 1 << 31}, 32 * mib, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.bz.place(tt.low)
			if tt.wantErr {
				checkError(t, err, ErrMemory)
				return
			}
			if err != nil || got != (Range{tt.want, tt.bz.initSize}) {
				t.Errorf("at %#x (%v), want %#x", got, err, tt.want)
			}
		})
	}
}

// patched returns b with the little-endian bytes of v, n of them, at off.
func patched(b []byte, off int, v uint64, n int) []byte {
	b = bytes.Clone(b)
	copy(b[off:off+n], le.AppendUint64(nil, v)[:n])
	return b
}

type brokenReader struct{}

func (r brokenReader) ReadAt(p []byte, off int64) (int, error) { return 0, errors.New("bad sector") }

func TestBadKernels(t *testing.T) {
	bz := tinyBz(t, gzipped).bytes()
	tiny := tinyELF().bytes()
	ph := func(i, field int) int { return elfHeaderSize + i*phdrSize + field }
	overlapping := tinyELF()
	overlapping.segments[1].paddr = textAt + 0x3000
	lowSegment := tinyELF()
	lowSegment.segments[0].paddr = 0x8000
	outside := tinyELF()
	outside.entry = 0x300000
	badNote := tinyELF()
	badNote.notes = note("Xen", notePhys32Entry, le.AppendUint32(nil, 0x5000))
	wideNote := tinyELF()
	wideNote.notes = note("Xen", notePhys32Entry, make([]byte, 16))
	noNote := tinyELF()
	noNote.notes = nil
	packedText := compress(t, gzipped, []byte("#!/bin/sh\necho this is a script and no kernel, though it is packed like one\n"))
	lzo := tinyBz(t, gzipped)
	lzo.payload = append([]byte("\x89LZO\x00\x0d\x0a\x1a"), make([]byte, 100)...)
	bomb := tinyBz(t, zstded)
	bomb.payload = patched(bomb.payload, len(bomb.payload)-4, 0x7fffffff, 4)
	brokenZstd := tinyBz(t, zstded)
	brokenZstd.payload = patched(brokenZstd.payload, 20, 0xffffffff, 4)
	shortStream := compress(t, gzipped, tiny[:len(tiny)-0x1000])
	fatLZMA := patched(compress(t, lzmaed, tiny), 1, 0xffff0000, 4)
	half := func(b []byte) []byte { return b[:len(b)/2] }
	wrongSum := compress(t, gzipped, tiny)
	wrongSum = patched(wrongSum, len(wrongSum)-8, 0x12345678, 4)
	noPayload := patched(bz, offPayloadLen, 0, 4)

	for _, tt := range []struct {
		name string
		file []byte
		mode Mode
		mem  uint64
		want error
	}{
		{"empty", nil, Auto, 64 * mib, ErrNotKernel},
		{"text", []byte("#!/bin/sh\n"), Auto, 64 * mib, ErrNotKernel},
		{"zeroes", make([]byte, 8192), Auto, 64 * mib, ErrNotKernel},
		{"packed text", packedText, Auto, 64 * mib, ErrNotKernel},
		{"half an ELF header", tiny[:40], Auto, 64 * mib, ErrTruncated},
		{"ELF cut in its program headers", tiny[:100], Auto, 64 * mib, ErrTruncated},
		{"ELF cut in a segment", tiny[:0x2000], Auto, 64 * mib, ErrTruncated},
		{"packed ELF cut in a segment", shortStream, Auto, 64 * mib, ErrTruncated},
		{"packed ELF, stream cut", half(compress(t, gzipped, tiny)), Auto, 64 * mib, ErrTruncated},
		{"packed ELF, checksum wrong", wrongSum, Auto, 64 * mib, ErrPayload},
		{"32-bit ELF", patched(tiny, 4, 1, 1), Auto, 64 * mib, ErrNotKernel},
		{"big-endian ELF", patched(tiny, 5, 2, 1), Auto, 64 * mib, ErrNotKernel},
		{"ELF for ARM", patched(tiny, 18, 183, 2), Auto, 64 * mib, ErrNotKernel},
		{"shared library", patched(tiny, 16, 3, 2), Auto, 64 * mib, ErrNotKernel},
		{"no program headers", patched(tiny, 56, 0, 2), Auto, 64 * mib, ErrHeader},
		{"many program headers", patched(tiny, 56, 0xffff, 2), Auto, 64 * mib, ErrHeader},
		{"program headers beyond the file", patched(tiny, 32, 1<<63, 8), Auto, 64 * mib, ErrTruncated},
		{"nothing to load", patched(patched(tiny, ph(0, 0), 7, 4), ph(1, 0), 7, 4), Auto, 64 * mib, ErrHeader},
		{"overlapping segments", overlapping.bytes(), Auto, 64 * mib, ErrHeader},
		{"segment in boot data", lowSegment.bytes(), Auto, 64 * mib, ErrHeader},
		{"segment wraps", patched(tiny, ph(0, 24), 1<<64-0x1000, 8), Auto, 64 * mib, ErrHeader},
		{"more in the file than in memory", patched(tiny, ph(0, 40), 8, 8), Auto, 64 * mib, ErrHeader},
		{"segment offset huge", patched(tiny, ph(0, 8), 1<<64-1, 8), Auto, 64 * mib, ErrTruncated},
		{"segment in the hole", patched(tiny, ph(1, 24), 0xd0000000, 8), Auto, 64 * mib, ErrMemory},
		{"segment half beyond RAM", patched(tiny, ph(1, 24), 64*mib-0x1000, 8), Auto, 64 * mib, ErrMemory},
		{"segment huge", patched(tiny, ph(1, 40), 1<<62, 8), Auto, 64 * mib, ErrMemory},
		{"entry outside", outside.bytes(), Direct, 64 * mib, ErrHeader},
		{"PVH entry outside", badNote.bytes(), Auto, 64 * mib, ErrHeader},
		{"PVH note too wide", wideNote.bytes(), Auto, 64 * mib, ErrHeader},
		{"notes huge", patched(tiny, ph(2, 32), maxNotes+1, 8), Auto, 64 * mib, ErrTruncated},
		{"no PVH note", noNote.bytes(), PVH, 64 * mib, ErrMode},
		{"ELF in mode linux64", tiny, Linux64, 64 * mib, ErrMode},
		{"ELF in little memory", tiny, Auto, 16 * mib, ErrMemory},
		{"bzImage in little memory", bz, Auto, 16 * mib, ErrMemory},
		{"1 MiB of memory", bz, Auto, mib, ErrMemory},
		{"bzImage cut in its header", bz[:0x240], Auto, 64 * mib, ErrTruncated},
		{"bzImage cut", bz[:len(bz)-16], Auto, 64 * mib, ErrTruncated},
		{"bzImage's setup beyond the file", patched(bz, offSetupSects, 255, 1), Auto, 64 * mib, ErrTruncated},
		{"bzImage's syssize huge", patched(bz, offSysSize, 0xffffffff, 4), Auto, 64 * mib, ErrTruncated},
		{"bzImage's syssize tiny", patched(bz, offSysSize, 32, 4), Auto, 64 * mib, ErrHeader},
		{"bzImage's header end", patched(bz, offJump+1, 0xff, 1), Auto, 64 * mib, ErrHeader},
		{"bzImage's header short", patched(bz, offJump+1, 0x10, 1), Auto, 64 * mib, ErrHeader},
		{"bzImage's alignment", patched(bz, offAlignment, 3, 4), Auto, 64 * mib, ErrHeader},
		{"bzImage's init_size huge", patched(bz, offInitSize, 0xffffffff, 4), Auto, 64 * mib, ErrMemory},
		{"bzImage's pref_address huge", patched(bz, offPrefAddress, 1<<64-1, 8), Auto, 64 * mib, ErrMemory},
		{"bzImage's payload beyond", patched(bz, offPayload, 0xfffffff0, 4), Direct, 64 * mib, ErrHeader},
		{"old protocol", patched(bz, offVersion, 0x020b, 2), Auto, 64 * mib, ErrMode},
		{"zImage", patched(bz, offLoadFlags, 0, 1), Auto, 64 * mib, ErrMode},
		{"32-bit kernel", patched(bz, offXLoadFlags, 0, 2), Auto, 64 * mib, ErrMode},
		{"no payload", noPayload, Direct, 64 * mib, ErrMode},
		{"unknown payload", patched(bz, 4*setupSector+0x2a3, 0, 8), Direct, 64 * mib, ErrPayload},
		{"lzo payload", lzo.bytes(), Direct, 64 * mib, ErrPayload},
		{"payload bomb", bomb.bytes(), Direct, 64 * mib, ErrPayload},
		{"broken payload", brokenZstd.bytes(), Direct, 64 * mib, ErrPayload},
		{"lzma with a dictionary of 4 GiB", fatLZMA, Direct, 64 * mib, ErrPayload},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := newMemory(t, tt.mem)
			k, err := Open(bytes.NewReader(tt.file), int64(len(tt.file)))
			if err == nil {
				_, err = Load(mem, Config{Kernel: k, Mode: tt.mode, Fresh: true})
			}
			if err == nil {
				t.Fatal("no error")
			}
			checkError(t, err, tt.want)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
		})
	}
	_, err := Open(brokenReader{}, 1<<20)
	checkError(t, err, ErrRead)
}

func TestBadCmdlineAndInitrd(t *testing.T) {
	bz, tiny := open(t, tinyBz(t, gzipped).bytes()), open(t, tinyELF().bytes())
	long := strings.Repeat("x", 2048)
	for _, tt := range []struct {
		name string
		cfg  Config
		want error
	}{
		{"command line for a bzImage", Config{Kernel: bz, Cmdline: long}, ErrCmdline},
		{"command line for an ELF", Config{Kernel: tiny, Cmdline: long}, ErrCmdline},
		{"command line with NUL", Config{Kernel: tiny, Cmdline: "a\x00b"}, ErrCmdline},
		{"initrd shorter than said", Config{Kernel: bz, Initrds: []Initrd{{Name: "i", R: strings.NewReader("abc"), Size: 4}}}, ErrInitrd},
		{"initrd unreadable", Config{Kernel: bz, Initrds: []Initrd{{Name: "i", R: brokenReader{}, Size: 4}}}, ErrInitrd},
		{"initrd of negative size", Config{Kernel: bz, Initrds: []Initrd{{Name: "i", R: brokenReader{}, Size: -1}}}, ErrInitrd},
		{"initrd of huge size", Config{Kernel: bz, Initrds: []Initrd{{Name: "i", R: brokenReader{}, Size: 1<<63 - 1}}}, ErrInitrd},
		{"initrd larger than memory", Config{Kernel: bz, Initrds: []Initrd{{Name: "i", R: brokenReader{}, Size: 64 * mib}}}, ErrMemory},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Fresh = true
			_, err := Load(newMemory(t, 64*mib), tt.cfg)
			if err == nil {
				t.Fatal("no error")
			}
			checkError(t, err, tt.want)
		})
	}
	load(t, newMemory(t, 64*mib), Config{Kernel: bz, Fresh: true, Cmdline: long[:2047]})
	load(t, newMemory(t, 64*mib), Config{Kernel: tiny, Fresh: true, Cmdline: long[:2047]})
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Auto, Linux64, PVH, Direct} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%s is read as %s (%v)", m, got, err)
		}
	}
	_, err := ParseMode("bios")
	checkError(t, err, ErrMode)
}

// TestRealKernels loads every kernel in QENEX_GUEST_DIR in every mode it has.
func TestRealKernels(t *testing.T) {
	dir := os.Getenv("QENEX_GUEST_DIR")
	if dir == "" {
		t.Skip("QENEX_GUEST_DIR is not set: NO REAL KERNEL WAS LOADED; 'make guest' gets some")
	}
	var files []string
	for _, pattern := range []string{"bzImage*", "vmlinu*", "*/bzImage*", "*/vmlinu*"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, m...)
	}
	if len(files) == 0 {
		t.Fatalf("no bzImage* or vmlinu* in %s", dir)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		k, err := Open(f, st.Size())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, mode := range []Mode{Auto, Linux64, PVH, Direct} {
			t.Run(strings.TrimPrefix(name, dir+"/")+"/"+mode.String(), func(t *testing.T) {
				mem := newMemory(t, 256*mib)
				e, err := Load(mem, Config{Kernel: k, Mode: mode, Fresh: true, Cmdline: "console=ttyS0"})
				if errors.Is(err, ErrMode) && k.bz == nil && mode == Linux64 {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s %s: mode %s, entry %#x, kernel %#x", k.Format(), k.Version(), e.Mode, e.RIP, e.Layout.Kernel)
				if e.Mode == Direct {
					compareWithELF(t, mem, name, k)
				}
			})
		}
	}
}

// compareWithELF checks a directly loaded kernel against debug/elf's view of the file, or of
// what u-root unpacks from it.
func compareWithELF(t *testing.T, mem *memmap.Memory, name string, k *Kernel) {
	t.Helper()
	var f *elf.File
	var err error
	if k.bz == nil {
		f, err = elf.Open(name)
	} else {
		var u bzimage.BzImage
		var file []byte
		if file, err = os.ReadFile(name); err == nil {
			if err = u.UnmarshalBinary(file); err == nil {
				f, err = u.ELF()
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		want := make([]byte, p.Memsz)
		if _, err := io.ReadFull(p.Open(), want[:p.Filesz]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(at(t, mem, p.Paddr, p.Memsz), want) {
			t.Errorf("segment at %#x is not what the file holds", p.Paddr)
		}
	}
}
