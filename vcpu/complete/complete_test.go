package complete

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// kernelCPU is a 64-bit kernel at CPL 0 with everything enabled.
func kernelCPU() CPU {
	c := CPU{RIP: 0xffffffff81000000, RFLAGS: 0x10202, Long: true,
		CR0: 0x80050033, CR4: cr4OSFXSR | cr4OSXSAVE | cr4FSGSBASE, EFER: eferLMA, XCR0: xServed,
		TSC: func() uint64 { return 0x1122334455667788 }, TSCAux: 7}
	c.FPU.initX87()
	c.FPU.MXCSR = mxcsrInit
	return c
}

// page is memory at 0x1000..0x1FFF, the stage of the table tests.
func page() *flat { return &flat{base: 0x1000, b: make([]byte, 0x1000)} }

// flat is a window of linear memory; all else faults. It notes its writes.
type flat struct {
	base   uint64
	b      []byte
	writes int
}

func (m *flat) window(va uint64, n int, code uint32) ([]byte, error) {
	if va < m.base || va-m.base > uint64(len(m.b)) || uint64(n) > uint64(len(m.b))-(va-m.base) {
		return nil, &Fault{Vector: VectorPF, Code: code, Addr: max(va, m.base+uint64(len(m.b)))}
	}
	return m.b[va-m.base:][:n], nil
}

func (m *flat) Read(va uint64, p []byte) error {
	w, err := m.window(va, len(p), 0)
	copy(p, w)
	return err
}

func (m *flat) Write(va uint64, p []byte) error {
	w, err := m.window(va, len(p), 2)
	copy(w, p)
	m.writes++
	return err
}

// bytesOf parses "0f 01 ca".
func bytesOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// must completes an instruction that must not fault.
func must(t *testing.T, c *CPU, m Memory, code string) Outcome {
	t.Helper()
	b, rip := bytesOf(t, code), c.RIP
	var e Engine
	out, err := e.Complete(c, m, b)
	if err != nil {
		t.Fatal(err)
	}
	if out.Inject != nil && out.Inject.Kind == KindFault {
		t.Fatalf("%s: %v", code, out.Inject)
	}
	if c.RIP != rip+uint64(len(b)) || c.RFLAGS&FlagRF != 0 {
		t.Fatalf("%s: rip moved by %d, flags %#x", code, c.RIP-rip, c.RFLAGS)
	}
	return out
}

func TestFlagsAndSystem(t *testing.T) {
	c, m := kernelCPU(), page()
	must(t, &c, m, "0f 01 cb")
	if c.RFLAGS&FlagAC == 0 {
		t.Error("stac left AC clear")
	}
	must(t, &c, m, "0f 01 ca")
	if c.RFLAGS&FlagAC != 0 {
		t.Error("clac left AC set")
	}
	c.GPR = [16]uint64{^uint64(0), ^uint64(0), ^uint64(0)}
	must(t, &c, m, "0f 01 f9") // rdtscp
	if c.GPR[RAX] != 0x55667788 || c.GPR[RDX] != 0x11223344 || c.GPR[RCX] != 7 {
		t.Errorf("rdtscp: %x", c.GPR[:3])
	}
	must(t, &c, m, "f3 41 0f c7 ff") // rdpid r15
	if c.GPR[R15] != 7 {
		t.Errorf("rdpid: %x", c.GPR[R15])
	}
	c.GPR[RCX], c.XCR0 = 0, 3
	must(t, &c, m, "0f 01 d0") // xgetbv
	if c.GPR[RAX] != 3 || c.GPR[RDX] != 0 {
		t.Errorf("xgetbv: %x", c.GPR[:3])
	}
	c.GPR[RCX] = 1
	must(t, &c, m, "0f 01 d0")
	if c.GPR[RAX] != 0 {
		t.Errorf("xgetbv of components in use, none of which is: %x", c.GPR[RAX])
	}
	c.FPU.XMM[15][15] = 1
	must(t, &c, m, "0f 01 d0")
	if c.GPR[RAX] != xSSE {
		t.Errorf("xgetbv of components in use: %x, want SSE", c.GPR[RAX])
	}
	c.GPR[RAX], c.GPR[RCX], c.GPR[RDX] = 1, 0, 0
	must(t, &c, m, "0f 01 d1") // xsetbv
	if c.XCR0 != 1 {
		t.Errorf("xsetbv: XCR0 %#x", c.XCR0)
	}
	c.GPR[RAX] = 0xffff800000000123
	must(t, &c, m, "f3 48 0f ae d8") // wrgsbase rax
	must(t, &c, m, "f3 0f ae d0")    // wrfsbase eax
	if c.Seg[GS].Base != 0xffff800000000123 || c.Seg[FS].Base != 0x123 {
		t.Errorf("segment bases %+v", c.Seg)
	}
	c.GPR[RAX], c.GPR[RCX] = 0x1080, 0
	must(t, &c, m, "0f 01 c8") // monitor
	must(t, &c, m, "0f 01 c9") // mwait
	c.GPR[RBX] = 1
	m.b[0x100] = 0 // PCID 0, address 0
	c.GPR[RAX] = 0x1100
	if out := must(t, &c, m, "66 0f 38 82 18"); !out.FlushTLB { // invpcid rbx, [rax]
		t.Error("invpcid asks for no flush")
	}
}

func TestSoftwareInterrupts(t *testing.T) {
	for _, tt := range []struct {
		code string
		long bool
		want *Exception
	}{
		{"cc", true, &Exception{Vector: 3, Kind: KindTrap}},
		{"f1", true, &Exception{Vector: 1, Kind: KindTrap}},
		{"cd 80", true, &Exception{Vector: 0x80, Kind: KindSoftInterrupt}},
		{"cd 03", true, &Exception{Vector: 3, Kind: KindSoftInterrupt}},
		{"ce", false, &Exception{Vector: 4, Kind: KindTrap}},
	} {
		c := kernelCPU()
		c.Long, c.Big = tt.long, true
		c.RIP = 0x1000
		c.RFLAGS |= FlagOF | FlagTF // delivery clears TF: no #DB beside
		if out := must(t, &c, page(), tt.code); out.Inject == nil || *out.Inject != *tt.want {
			t.Errorf("%s: %+v, want %+v", tt.code, out.Inject, tt.want)
		}
	}
	c := kernelCPU()
	c.Long, c.Big, c.RIP = false, true, 0
	if out := must(t, &c, page(), "ce"); out.Inject != nil {
		t.Errorf("into without overflow: %v", out.Inject)
	}
}

func TestGatePrivilege(t *testing.T) {
	m := page()
	m.b[3*16+5], m.b[4*16+5] = 0xee, 0x8e // long mode gates of DPL 3 and DPL 0
	user := func() CPU {
		c := kernelCPU()
		c.CPL = 3
		c.IDT = Table{Base: 0x1000, Limit: 5*16 - 1}
		return c
	}
	c := user()
	if out := must(t, &c, m, "cc"); *out.Inject != (Exception{Vector: 3, Kind: KindTrap}) {
		t.Errorf("int3 through a gate of DPL 3: %v", out.Inject)
	}
	for _, tt := range []struct {
		code string
		want uint32
	}{{"cd 04", 4*8 + 2}, {"cd 05", 5*8 + 2}, {"cd ff", 0xff*8 + 2}} {
		c := user()
		out, err := new(Engine).Complete(&c, m, bytesOf(t, tt.code))
		if err != nil || *out.Inject != (Exception{Vector: VectorGP, HasCode: true, Code: tt.want}) {
			t.Errorf("%s: %v, %v", tt.code, out.Inject, err)
		}
	}
	c = user()
	c.IDT.Base = 0x8000
	if out, err := new(Engine).Complete(&c, m, []byte{0xcc}); err != nil || out.Inject.Vector != VectorPF || out.Inject.Payload != 0x8000+3*16 {
		t.Errorf("IDT not present: %v, %v", out.Inject, err)
	}
	c = user()
	if out := must(t, &c, m, "f1"); out.Inject.Vector != VectorDB {
		t.Errorf("int1 at CPL 3: %v", out.Inject)
	}
}

func TestSingleStep(t *testing.T) {
	c := kernelCPU()
	c.RFLAGS |= FlagTF
	out := must(t, &c, page(), "f3 48 0f b8 c3")
	if want := (Exception{Vector: VectorDB, Kind: KindTrap, Payload: 1 << 14}); out.Inject == nil || *out.Inject != want {
		t.Errorf("%+v, want %+v", out.Inject, want)
	}
}

// swapping is a Memory that swaps atomically, as far as the engine knows.
type swapping struct {
	*flat
	swaps int
}

func (m *swapping) CompareAndSwap(va uint64, old, repl []byte) (bool, error) {
	m.swaps++
	w, err := m.window(va, len(old), 2)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(w, old) {
		copy(old, w)
		return false, nil
	}
	copy(w, repl)
	return true, nil
}

func TestCompareExchangeUsesSwapper(t *testing.T) {
	m := &swapping{flat: page()}
	c := kernelCPU()
	c.GPR[RSI], c.GPR[RBX], c.GPR[RCX] = 0x1020, 0x1111, 0x2222
	must(t, &c, m, "f0 48 0f c7 0e") // lock cmpxchg16b [rsi]
	if c.RFLAGS&FlagZF == 0 || m.b[0x20] != 0x11 || m.b[0x28] != 0x22 {
		t.Errorf("not swapped: % x", m.b[0x20:0x30])
	}
	must(t, &c, m, "65 48 0f c7 0e") // without lock, through gs
	if c.RFLAGS&FlagZF != 0 || c.GPR[RAX] != 0x1111 || c.GPR[RDX] != 0x2222 {
		t.Errorf("rdx:rax %x:%x", c.GPR[RDX], c.GPR[RAX])
	}
	if m.swaps != 2 || m.writes != 0 {
		t.Errorf("%d swaps, %d writes beside them", m.swaps, m.writes)
	}
	c.GPR[RSI] = 0x1021
	must(t, &c, m, "0f c7 0e")
	if m.swaps != 2 || m.writes != 1 {
		t.Errorf("unaligned cmpxchg8b: %d swaps, %d writes", m.swaps-2, m.writes)
	}
	c.GPR[RSI] = 0x3000
	if out, err := new(Engine).Complete(&c, m, bytesOf(t, "48 0f c7 0e")); err != nil || out.Inject.Vector != VectorPF {
		t.Errorf("fault of the swap: %v, %v", out.Inject, err)
	}
}

func TestLength(t *testing.T) {
	pad := strings.Repeat("66", 11)
	c := kernelCPU()
	must(t, &c, page(), pad+"f30fb8c3") // 15 bytes
	for _, tt := range []struct {
		code string
		want error
	}{
		{"66" + pad + "f30fb8c3", ErrTooLong},
		{pad + "f30fb805000000", ErrTooLong},
		{strings.Repeat("66", 15), ErrTooLong},
		{strings.Repeat("66", 14), ErrTruncated},
		{"", ErrTruncated},
		{"0f", ErrTruncated},
		{"c4e2", ErrTruncated},
		{"0f0b", ErrUnknown}, // ud2
		{"90", ErrUnknown},
		{"62f17c4828c0", ErrUnknown}, // EVEX
		{"c5f828c1", ErrUnknown},     // vmovaps
	} {
		before := c
		_, err := new(Engine).Complete(&c, page(), bytesOf(t, tt.code))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.code, err, tt.want)
		}
		if !sameCPU(&c, &before) {
			t.Errorf("%s: state changed", tt.code)
		}
	}
}

// TestRefusalNamesInstruction: the mnemonic of what is refused is worth a counter too.
func TestRefusalNamesInstruction(t *testing.T) {
	for code, want := range map[string]string{"d8c1": "fadd", "0fbcc3": "bsf", "66480f3a44c100": "pclmulqdq", "0f58c1": "addps"} {
		c := kernelCPU()
		out, err := new(Engine).Complete(&c, page(), bytesOf(t, code))
		if !errors.Is(err, ErrUnknown) || out.Op != want || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %s", code, out.Op, err, want)
		}
	}
}

var errBus = errors.New("no such memory")

// broken is a Memory that fails for a reason of its own.
type broken struct{}

func (broken) Read(uint64, []byte) error  { return errBus }
func (broken) Write(uint64, []byte) error { return errBus }

func TestMemoryErrorIsReturned(t *testing.T) {
	c := kernelCPU()
	before := c
	if _, err := new(Engine).Complete(&c, broken{}, bytesOf(t, "f3 0f b8 00")); !errors.Is(err, errBus) {
		t.Errorf("%v", err)
	}
	if !sameCPU(&c, &before) {
		t.Error("state changed")
	}
}

// sameCPU compares all but the TSC function.
func sameCPU(a, b *CPU) bool {
	x, y := *a, *b
	x.TSC, y.TSC = nil, nil
	return x.GPR == y.GPR && x.RIP == y.RIP && x.RFLAGS == y.RFLAGS && x.FPU == y.FPU && x.Seg == y.Seg &&
		x.XCR0 == y.XCR0 && x.CR0 == y.CR0 && x.CR4 == y.CR4 && x.EFER == y.EFER && x.CPL == y.CPL
}

// wild is a Memory whose every byte is a function of its address, with pages
// that fault and pages that cannot be written.
type wild struct {
	key    uint64
	writes int
}

func (m *wild) Read(va uint64, p []byte) error { return m.access(va, p, false) }

func (m *wild) Write(va uint64, p []byte) error {
	if err := m.access(va, nil, true); err != nil {
		return err
	}
	m.writes++
	return m.access(va+uint64(len(p)-1), nil, true)
}

func (m *wild) access(va uint64, p []byte, write bool) error {
	r := rand.NewPCG(m.key, va>>12)
	switch k := r.Uint64() % 8; {
	case k == 0:
		return &Fault{Vector: VectorPF, Code: 4, Addr: va}
	case k == 1 && write:
		return &Fault{Vector: VectorPF, Code: 7, Addr: va}
	case k == 2:
		return errBus
	}
	for i := range p {
		p[i] = byte(r.Uint64() >> (va % 50))
	}
	return nil
}

// FuzzComplete feeds hostile bytes and registers: no panic, no change of state
// without success, at most one write.
func FuzzComplete(f *testing.F) {
	for op, e := range table {
		head := []byte{byte(op)}
		switch op &^ 0xff {
		case map0F:
			head = []byte{0x0f, byte(op)}
		case map0F38:
			head = []byte{0x0f, 0x38, byte(op)}
		case vexed | map0F38:
			head = []byte{0xc4, 0xe2, 0x78, byte(op)}
		case vexed | map0F3A:
			head = []byte{0xc4, 0xe3, 0x7b, byte(op)}
		}
		for _, prefix := range []string{"", "\x66", "\xf3\x48", "\xf2", "\xf0", "\x67\x65"} {
			for _, tail := range []string{"\x04\x8b\x01\x02\x03\x04", "\xc1\x05", "\x48\x08", "\x3d\x00\x00\x00\x80\x01"} {
				f.Add(append(append([]byte(prefix), head...), tail...), uint64(op)*3, uint16(len(e.name)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, code []byte, seed uint64, mode uint16) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := kernelCPU()
		for i := range c.GPR {
			c.GPR[i] = r.Uint64() >> (r.Uint64() % 64) &^ (r.Uint64() % 128)
		}
		for i := range c.Seg {
			c.Seg[i] = Segment{Base: r.Uint64(), Limit: r.Uint32(), Type: uint8(r.Uint32() & 15), Unusable: r.Uint32()%8 == 0}
		}
		c.GDT, c.LDT, c.IDT = Table{r.Uint64(), r.Uint32()}, Table{r.Uint64(), r.Uint32()}, Table{r.Uint64(), r.Uint32()}
		c.FPU.FSW, c.FPU.FCW, c.FPU.FTW = uint16(r.Uint32()), uint16(r.Uint32()), uint8(r.Uint32())
		for i := range c.FPU.ST {
			c.FPU.ST[i] = real80{r.Uint64(), uint16(r.Uint32())}.bytes()
		}
		c.CPL, c.Long, c.Big = uint8(mode&3), mode&4 == 0, mode&8 != 0
		c.CR0 ^= uint64(mode >> 4 & 15)
		c.CR4 ^= uint64(mode>>8&1) * cr4OSFXSR
		c.RFLAGS = r.Uint64()
		before := c
		m := &wild{key: seed}
		out, err := new(Engine).Complete(&c, m, bytes.Clone(code))
		if err != nil || out.Inject != nil && out.Inject.Kind == KindFault {
			if !sameCPU(&c, &before) {
				t.Fatalf("% x: state changed although %v, %v", code, out.Inject, err)
			}
			if err != nil && out.Inject != nil {
				t.Fatalf("% x: both %v and %v", code, out.Inject, err)
			}
			return
		}
		if n := c.RIP - before.RIP; c.Long && (n < 1 || n > MaxLen) || out.Op == "" || m.writes > 1 || c.RFLAGS&FlagRF != 0 {
			t.Fatalf("% x: %q moved rip by %d with %d writes, flags %#x", code, out.Op, n, m.writes, c.RFLAGS)
		}
	})
}

func BenchmarkComplete(b *testing.B) {
	for _, bm := range []struct{ name, code string }{
		{"cmpxchg16b", "65 48 0f c7 0e"}, {"popcnt", "f3 48 0f b8 c3"}, {"xsave", "48 0f ae 26"}, {"fwait", "9b"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			c, m, code := kernelCPU(), page(), bytesOf(b, bm.code)
			c.GPR[RSI] = 0x1040
			var e Engine
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Complete(&c, m, code); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
