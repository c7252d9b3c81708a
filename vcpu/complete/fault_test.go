package complete

import (
	"encoding/binary"
	"errors"
	"testing"
)

// TestFaults: each of these must fault and change nothing.
func TestFaults(t *testing.T) {
	gp := Exception{Vector: VectorGP, HasCode: true}
	ss := Exception{Vector: VectorSS, HasCode: true}
	ac := Exception{Vector: VectorAC, HasCode: true}
	ud := Exception{Vector: VectorUD}
	nm := Exception{Vector: VectorNM}
	mf := Exception{Vector: VectorMF}
	pf := func(code uint32, addr uint64) Exception {
		return Exception{Vector: VectorPF, HasCode: true, Code: code, Payload: addr}
	}
	user := func(c *CPU) { c.CPL = 3 }
	rax := func(v uint64) func(*CPU) { return func(c *CPU) { c.GPR[RAX] = v } }
	rcx := func(v uint64) func(*CPU) { return func(c *CPU) { c.GPR[RCX] = v } }
	ts := func(c *CPU) { c.CR0 |= cr0TS }
	em := func(c *CPU) { c.CR0 |= cr0EM }
	noSSE := func(c *CPU) { c.CR4 &^= cr4OSFXSR }
	noXSAVE := func(c *CPU) { c.CR4 &^= cr4OSXSAVE }
	real := func(c *CPU) { c.CR0 &^= cr0PE; c.Long = false; c.Seg[DS].Limit = 0xffff }
	pending := func(c *CPU) { c.FPU.FSW |= fswIE | fswES | fswB }
	strict := func(c *CPU) { c.CPL, c.GPR[RAX] = 3, 0x1001; c.CR0 |= cr0AM; c.RFLAGS |= FlagAC }

	for _, tt := range []struct {
		name, code string
		setup      func(*CPU)
		want       Exception
	}{
		{"cmpxchg16b unaligned", "48 0f c7 08", rax(0x1008), gp},
		{"cmpxchg16b not canonical", "48 0f c7 08", rax(0x800000000000), gp},
		{"not canonical by the stack", "48 0f c7 0c 24", func(c *CPU) { c.GPR[RSP] = 1 << 63 }, ss},
		{"not canonical by rbp", "f3 0f b8 45 00", func(c *CPU) { c.GPR[RBP] = 1 << 63 }, ss},
		{"not canonical by r13", "f3 41 0f b8 45 00", func(c *CPU) { c.GPR[R13] = 1 << 63 }, gp},
		{"end not canonical", "f3 48 0f b8 00", rax(0x7ffffffffffc), gp},
		{"end wraps", "f3 48 0f b8 00", rax(0xfffffffffffffffc), gp},
		{"gs base not canonical", "65 f3 0f b8 00", func(c *CPU) { c.Seg[GS].Base = 1 << 62 }, gp},
		{"cmpxchg16b page fault", "48 0f c7 08", rax(0x2000), pf(0, 0x2000)},
		{"cmpxchg16b write fault", "f0 48 0f c7 08", rax(0x5000), pf(0, 0x5000)},
		{"store fault", "0f ae 18", rax(0x5000), pf(2, 0x5000)},
		{"load across the end", "f3 48 0f b8 00", rax(0x1ffc), pf(0, 0x2000)},
		{"fst fault", "dd 10", rax(0x5000), pf(2, 0x5000)},
		{"fstp m80 fault", "db 38", rax(0x1ffc), pf(2, 0x2000)},
		{"fxsave fault", "0f ae 00", rax(0x1f00), pf(0, 0x2000)},
		{"clwb fault", "66 0f ae 30", rax(0x2000), pf(0, 0x2000)},

		{"lock popcnt", "f0 f3 0f b8 c3", nil, ud},
		{"lock int3", "f0 cc", nil, ud},
		{"lock clac", "f0 0f 01 ca", nil, ud},
		{"lock fxsave", "f0 0f ae 00", nil, ud},
		{"lock fild", "f0 db 00", nil, ud},
		{"lock cmpxchg8b of a register", "f0 0f c7 c8", nil, ud},
		{"lock rdpid", "f0 f3 0f c7 f8", nil, ud},
		{"lock pxor", "f0 66 0f ef 00", nil, ud},

		{"clac at CPL 3", "0f 01 ca", user, ud},
		{"stac at CPL 3", "0f 01 cb", user, ud},
		{"monitor at CPL 3", "0f 01 c8", user, ud},
		{"monitor extension", "0f 01 c8", rcx(1), gp},
		{"mwait at CPL 3", "0f 01 c9", user, ud},
		{"mwait extension", "0f 01 c9", rcx(2), gp},
		{"rdtscp denied", "0f 01 f9", func(c *CPU) { c.CPL, c.CR4 = 3, c.CR4|cr4TSD }, gp},
		{"rdfsbase denied", "f3 0f ae c0", func(c *CPU) { c.CR4 &^= cr4FSGSBASE }, ud},
		{"wrfsbase not canonical", "f3 48 0f ae d0", rax(1 << 62), gp},
		{"into in 64-bit code", "ce", nil, ud},
		{"int n in virtual-8086 mode", "cd 10", func(c *CPU) { c.Long = false; c.RFLAGS |= FlagVM }, gp},

		{"xgetbv disabled", "0f 01 d0", noXSAVE, ud},
		{"xgetbv of register 2", "0f 01 d0", rcx(2), gp},
		{"xsetbv disabled", "0f 01 d1", noXSAVE, ud},
		{"xsetbv at CPL 3", "0f 01 d1", func(c *CPU) { c.CPL, c.GPR[RAX] = 3, 3 }, gp},
		{"xsetbv of register 1", "0f 01 d1", func(c *CPU) { c.GPR[RAX], c.GPR[RCX] = 3, 1 }, gp},
		{"xsetbv without x87", "0f 01 d1", rax(2), gp},
		{"xsetbv unsupported", "0f 01 d1", rax(7), gp},
		{"xsetbv high bits", "0f 01 d1", func(c *CPU) { c.GPR[RAX], c.GPR[RDX] = 3, 1 }, gp},

		{"x87 with TS", "d9 e8", ts, nm},
		{"x87 with EM", "d9 e8", em, nm},
		{"fnclex with TS", "db e2", ts, nm},
		{"fninit with TS", "db e3", ts, nm},
		{"fnstsw with TS", "df e0", ts, nm},
		{"fnstcw with EM", "d9 38", em, nm},
		{"fldcw with TS", "d9 28", ts, nm},
		{"fwait with MP and TS", "9b", ts, nm},
		{"fwait with an exception", "9b", pending, mf},
		{"fld1 with an exception", "d9 e8", pending, mf},
		{"fldcw with an exception", "d9 28", pending, mf},
		{"emms with an exception", "0f 77", pending, mf},
		{"emms with EM", "0f 77", em, ud},
		{"emms with TS", "0f 77", ts, nm},
		{"movq mm with EM", "0f 6f c1", em, ud},

		{"pxor with EM", "66 0f ef c0", em, ud},
		{"pxor with TS", "66 0f ef c0", ts, nm},
		{"pxor without OSFXSR", "66 0f ef c0", noSSE, ud},
		{"pxor unaligned", "66 0f ef 00", rax(0x1008), gp},
		{"movaps load unaligned", "0f 28 00", rax(0x1008), gp},
		{"movaps store unaligned", "0f 29 00", rax(0x1008), gp},
		{"movntdq unaligned", "66 0f e7 00", rax(0x1008), gp},
		{"ldmxcsr with TS", "0f ae 10", ts, nm},
		{"ldmxcsr without OSFXSR", "0f ae 10", noSSE, ud},
		{"ldmxcsr reserved bit", "0f ae 10", rax(0x1ffc), gp},
		{"stmxcsr with EM", "0f ae 18", em, ud},
		{"fxsave unaligned", "0f ae 00", rax(0x1008), gp},
		{"fxsave with TS", "0f ae 00", ts, nm},
		{"fxsave with EM", "0f ae 00", em, nm},
		{"fxrstor unaligned", "0f ae 08", rax(0x1008), gp},
		{"fxrstor reserved MXCSR", "0f ae 08", rax(0x1800), gp},

		{"xsave disabled", "0f ae 20", noXSAVE, ud},
		{"xsave with TS", "0f ae 20", ts, nm},
		{"xsave unaligned", "0f ae 20", rax(0x1010), gp},
		{"xrstor unaligned", "0f ae 28", rax(0x1020), gp},
		{"xsavec unaligned", "0f c7 20", rax(0x1020), gp},
		{"xsaves at CPL 3", "0f c7 28", user, gp},
		{"xrstors at CPL 3", "0f c7 18", user, gp},
		{"xrstors of the standard format", "0f c7 18", rax(0x1000), gp},

		{"invpcid at CPL 3", "66 0f 38 82 18", user, gp},
		{"invpcid type", "66 0f 38 82 18", func(c *CPU) { c.GPR[RAX], c.GPR[RBX] = 0x1000, 4 }, gp},
		{"invpcid reserved bits", "66 0f 38 82 18", func(c *CPU) { c.GPR[RAX], c.GPR[RBX] = 0x1ff0, 2 }, gp},
		{"invpcid PCID disabled", "66 0f 38 82 18", rax(0x1020), gp},
		{"invpcid address", "66 0f 38 82 18", func(c *CPU) { c.GPR[RAX], c.CR4 = 0x1030, c.CR4|cr4PCIDE }, gp},
		{"invpcid page fault", "66 0f 38 82 18", rax(0x1ff8), pf(0, 0x2000)},

		{"VEX after 66", "66 c4 e2 78 f2 c1", nil, ud},
		{"VEX after F3", "f3 c4 e2 78 f2 c1", nil, ud},
		{"VEX after LOCK", "f0 c4 e2 78 f2 c1", nil, ud},
		{"VEX after REX", "48 c4 e2 78 f2 c1", nil, ud},
		{"VEX of map 0", "c4 e0 78 f2 c1", nil, ud},
		{"VEX.L", "c4 e2 7c f2 c1", nil, ud},
		{"rorx with vvvv", "c4 e3 73 f0 c1 05", nil, ud},
		{"bls group 0", "c4 e2 78 f3 c1", nil, ud},
		{"andn with 66", "c4 e2 79 f2 c1", nil, ud},
		{"andn in real mode", "c4 e2 78 f2 c1", real, ud},
		{"verw in real mode", "0f 00 e8", real, ud},

		{"popcnt m32 unaligned with AC", "f3 0f b8 00", strict, ac},
		{"fld m80 unaligned with AC", "db 28", strict, ac},
		{"fld m80 even with AC", "db 68 01", strict, ac},
		{"fnstcw unaligned with AC", "d9 38", strict, ac},
		{"cmpxchg8b unaligned with AC", "0f c7 08", strict, ac},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, m := kernelCPU(), page()
			for i := range m.b[0x800:] {
				m.b[0x800+i] = 0xff // of no valid format
			}
			m.b[0x20] = 5    // a PCID
			m.b[0x3f] = 0x40 // an address that is not canonical
			if tt.setup != nil {
				tt.setup(&c)
			}
			before, memory := c, string(m.b)
			out, err := new(Engine).Complete(&c, m, bytesOf(t, tt.code))
			if err != nil {
				t.Fatal(err)
			}
			if out.Inject == nil || *out.Inject != tt.want {
				t.Errorf("%+v, want %+v", out.Inject, tt.want)
			}
			if !sameCPU(&c, &before) || string(m.b) != memory {
				t.Error("state changed")
			}
		})
	}
}

// TestPendingWithoutNE: the exception would be an external interrupt.
func TestPendingWithoutNE(t *testing.T) {
	c := kernelCPU()
	c.CR0 &^= cr0NE
	c.FPU.FSW |= fswES
	if _, err := new(Engine).Complete(&c, page(), []byte{0x9b}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestXCR0(t *testing.T) {
	const all = 7 | 3<<3 | 7<<5 | 3<<17
	for _, tt := range []struct {
		supported, v uint64
		ok           bool
	}{
		{0, 1, true}, {0, 3, true}, {0, 0, false}, {0, 7, false},
		{all, 7, true}, {all, 5, false}, {all, 7 | 7<<5, true}, {all, 3 | 7<<5, false}, {all, 7 | 1<<5, false},
		{all, 3 | 3<<3, true}, {all, 3 | 1<<3, false}, {all, 3 | 3<<17, true}, {all, 3 | 1<<17, false}, {all, 3 | 1<<9, false},
	} {
		if got := (&Engine{XCR0: tt.supported}).validXCR0(tt.v); got != tt.ok {
			t.Errorf("XCR0 %#x where %#x is supported: %v", tt.v, tt.supported, got)
		}
	}
}

// xsaveArea is a kernel CPU with some state, RAX at an area of memory filled
// with ones, and all of EDX:EAX in the mask's place.
func xsaveArea() (CPU, *flat) {
	c, m := kernelCPU(), page()
	for i := range m.b {
		m.b[i] = 0xff
	}
	c.GPR[RSI], c.GPR[RAX] = 0x1040, 3
	c.FPU.XMM[3][4] = 0x77
	return c, m
}

func header(m *flat) (bv, comp uint64) {
	return binary.LittleEndian.Uint64(m.b[0x40+xsBV:]), binary.LittleEndian.Uint64(m.b[0x40+xsComp:])
}

// TestXsaveHeader: what each form does to the header, and to a component in its
// initial configuration (SDM vol. 1, 13.7 to 13.11).
func TestXsaveHeader(t *testing.T) {
	const old = ^uint64(0)
	for _, tt := range []struct {
		name, code string
		mask       uint64
		bv, comp   uint64
		x87        bool // FCW stored
	}{
		{"xsave", "0f ae 26", 3, old&^3 | xSSE, old, true},
		{"xsave of SSE", "0f ae 26", 2, old, old, false},
		{"xsaveopt", "0f ae 36", 3, old&^3 | xSSE, old, false},
		{"xsavec", "0f c7 26", 3, xSSE, xCompacted | 3, false},
		{"xsavec of x87", "0f c7 26", 1, 0, xCompacted | 1, false},
		{"xsaves", "0f c7 2e", 3, xSSE, xCompacted | 3, false},
	} {
		c, m := xsaveArea()
		c.GPR[RAX] = tt.mask
		must(t, &c, m, tt.code)
		bv, comp := header(m)
		if bv != tt.bv || comp != tt.comp {
			t.Errorf("%s: XSTATE_BV %#x, XCOMP_BV %#x, want %#x, %#x", tt.name, bv, comp, tt.bv, tt.comp)
		}
		if stored := binary.LittleEndian.Uint16(m.b[0x40:]) == fcwInit; stored != tt.x87 {
			t.Errorf("%s: x87 state stored: %v", tt.name, stored)
		}
		if mem := m.b[0x40+xsComp+8]; mem != 0xff {
			t.Errorf("%s: reserved header bytes written", tt.name)
		}
	}
}

func TestXsaveOtherComponents(t *testing.T) {
	for _, code := range []string{"0f ae 26", "0f ae 2e", "0f c7 26", "0f ae 36"} {
		c, m := xsaveArea()
		c.XCR0, c.GPR[RAX] = 7, 7
		before, memory := c, string(m.b)
		if _, err := new(Engine).Complete(&c, m, bytesOf(t, code)); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s with AVX: %v", code, err)
		}
		if !sameCPU(&c, &before) || string(m.b) != memory {
			t.Errorf("%s: state changed", code)
		}
	}
}

// TestXrstorHeader: which headers fault (SDM vol. 1, 13.8.1 and 13.8.2), and what
// the good ones load.
func TestXrstorHeader(t *testing.T) {
	const bad = true
	for _, tt := range []struct {
		name     string
		bv, comp uint64
		at       int // header byte set to 1
		super    bool
		fault    bool
		mxcsr    uint32 // expected, from 0x1fa0 in memory
	}{
		{name: "standard, nothing", mxcsr: 0x1fa0},
		{name: "standard, both", bv: 3, mxcsr: 0x1fa0},
		{name: "standard, AVX not in XCR0", bv: 7, fault: bad},
		{name: "standard, reserved byte 16", bv: 3, at: 16, fault: bad},
		{name: "standard, byte 24 ignored", bv: 3, at: 24, mxcsr: 0x1fa0},
		{name: "standard, XCOMP_BV without bit 63", bv: 3, comp: 3, fault: bad},
		{name: "compacted, nothing", comp: xCompacted | 3, mxcsr: mxcsrInit},
		{name: "compacted, both", bv: 3, comp: xCompacted | 3, mxcsr: 0x1fa0},
		{name: "compacted, component not in format", bv: 3, comp: xCompacted | 1, fault: bad},
		{name: "compacted, AVX not in XCR0", bv: 3, comp: xCompacted | 7, fault: bad},
		{name: "compacted, reserved byte 63", bv: 3, comp: xCompacted | 3, at: 63, fault: bad},
		{name: "xrstors, both", bv: 3, comp: xCompacted | 3, super: true, mxcsr: 0x1fa0},
		{name: "xrstors, standard", bv: 3, super: true, fault: bad},
	} {
		c, m := xsaveArea()
		area := m.b[0x40:]
		clear(area[:xsHdrEnd])
		binary.LittleEndian.PutUint16(area[fxFCW:], 0x77f)
		binary.LittleEndian.PutUint32(area[fxMXCSR:], 0x1fa0)
		area[fxXMM+16*9] = 0x55
		binary.LittleEndian.PutUint64(area[xsBV:], tt.bv)
		binary.LittleEndian.PutUint64(area[xsComp:], tt.comp)
		if tt.at != 0 {
			area[xsBV+tt.at] = 1
		}
		code := "0f ae 2e"
		if tt.super {
			code = "0f c7 1e"
		}
		before := c
		out, err := new(Engine).Complete(&c, m, bytesOf(t, code))
		if err != nil {
			t.Fatal(err)
		}
		if tt.fault {
			if out.Inject == nil || *out.Inject != *exGP || !sameCPU(&c, &before) {
				t.Errorf("%s: %v", tt.name, out.Inject)
			}
			continue
		}
		want := FPU{FCW: fcwInit, MXCSR: tt.mxcsr}
		if tt.bv != 0 {
			want.FCW, want.XMM[9][0] = 0x77f, 0x55
		}
		if c.FPU != want {
			t.Errorf("%s: %+v, want %+v", tt.name, c.FPU, want)
		}
	}
}

// TestXsaveMXCSR: MXCSR alone makes the SSE component be in use.
func TestXsaveMXCSR(t *testing.T) {
	for _, code := range []string{"0f ae 26", "0f ae 36", "0f c7 26"} {
		c, m := xsaveArea()
		c.FPU.XMM[3][4], c.FPU.MXCSR = 0, 0x1fa0
		must(t, &c, m, code)
		if bv, _ := header(m); bv&3 != xSSE || m.b[0x40+fxMXCSR] != 0xa0 {
			t.Errorf("%s: XSTATE_BV %#x, MXCSR byte %#x", code, bv, m.b[0x40+fxMXCSR])
		}
	}
}

// TestFxsavePadding: the bytes behind each x87 register are stored as 0.
func TestFxsavePadding(t *testing.T) {
	c, m := xsaveArea()
	c.FPU.ST[2] = [16]byte{9: 1, 10: 2, 15: 3}
	must(t, &c, m, "0f ae 06")
	if st := m.b[0x40+fxST+32:][:16]; st[9] != 1 || st[10] != 0 || st[15] != 0 {
		t.Errorf("% x", st)
	}
}

// TestFxsaveScope: CR4.OSFXSR and EFER.FFXSR leave parts out, as does 32-bit code.
func TestFxsaveScope(t *testing.T) {
	for _, tt := range []struct {
		name            string
		setup           func(*CPU)
		mxcsr, xmm, top bool
	}{
		{"all", func(*CPU) {}, true, true, true},
		{"no OSFXSR", func(c *CPU) { c.CR4 &^= cr4OSFXSR }, false, false, false},
		{"FFXSR", func(c *CPU) { c.EFER |= eferFFXSR }, true, false, false},
		{"FFXSR at CPL 3", func(c *CPU) { c.EFER |= eferFFXSR; c.CPL = 3 }, true, true, true},
		{"32-bit code", func(c *CPU) { c.Long, c.Big, c.RIP, c.Seg[DS] = false, true, 0, Segment{Limit: 0xffffffff, Type: 3} }, true, true, false},
	} {
		c, m := xsaveArea()
		tt.setup(&c)
		must(t, &c, m, "0f ae 06")
		area := m.b[0x40:]
		if got := area[fxMXCSR] != 0xff; got != tt.mxcsr {
			t.Errorf("%s: MXCSR stored: %v", tt.name, got)
		}
		if got := area[fxXMM] != 0xff; got != tt.xmm {
			t.Errorf("%s: XMM0 stored: %v", tt.name, got)
		}
		if got := area[fxXMM+8*16] != 0xff; got != tt.top {
			t.Errorf("%s: XMM8 stored: %v", tt.name, got)
		}
		if area[fxEnd] != 0xff {
			t.Errorf("%s: reserved bytes written", tt.name)
		}
	}
}
