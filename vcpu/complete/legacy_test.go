package complete

import (
	"encoding/binary"
	"testing"
)

// TestAddressing32And16 checks the forms that only 32- and 16-bit code has: popcnt
// edx of a doubleword with a known number of bits at the address meant.
func TestAddressing32And16(t *testing.T) {
	flat4G := Segment{Limit: 0xffff_ffff, Type: 3}
	for _, tt := range []struct {
		name, code string
		big        bool
		want       uint64 // address
	}{
		{"[eax]", "f3 0f b8 10", true, 0x1100},
		{"[disp32]", "f3 0f b8 15 40 12 00 00", true, 0x1240},
		{"[ebx+esi*4+8]", "f3 0f b8 54 b3 08", true, 0x1208 + 4*0x10},
		{"[bx+si] by 67", "67 f3 0f b8 10", true, 0x1210},
		{"[eax] by 67", "66 67 f3 0f b8 10", false, 0x1100},
		{"[bx+si]", "66 f3 0f b8 10", false, 0x1210},
		{"[bx+di+disp8]", "66 f3 0f b8 51 04", false, 0x1224},
		{"[bp+si]", "66 f3 0f b8 12", false, 0x1310},
		{"[si+disp16]", "66 f3 0f b8 94 00 10", false, 0x1010},
		{"[disp16]", "66 f3 0f b8 16 80 12", false, 0x1280},
		{"[bp+disp8]", "66 f3 0f b8 56 fc", false, 0x12fc},
		{"[bx]", "66 f3 0f b8 17", false, 0x1200},
		{"es:[eax]", "26 f3 0f b8 10", true, 0x1500},
		{"fs:[bx]", "64 66 f3 0f b8 17", false, 0x1900},
	} {
		c, m := kernelCPU(), page()
		c.Long, c.Big, c.RIP = false, tt.big, 0x100
		c.Seg = [6]Segment{flat4G, flat4G, flat4G, flat4G, flat4G, flat4G}
		c.Seg[ES].Base, c.Seg[FS].Base = 0x400, 0x700
		c.GPR = [16]uint64{RAX: 0x1100, RBX: 0x1200, RSI: 0x10, RDI: 0x20, RBP: 0x1300}
		for i := range c.GPR {
			c.GPR[i] |= 0xdead << 32 // cannot be seen
		}
		binary.LittleEndian.PutUint32(m.b[tt.want-m.base:], 0x10101)
		must(t, &c, m, tt.code)
		if c.GPR[RDX] != 3 {
			t.Errorf("%s: popcnt is %d, read from elsewhere", tt.name, c.GPR[RDX])
		}
	}
}

// TestSegmentProtection is popcnt eax, [eax] or stmxcsr [eax] in 32-bit code.
func TestSegmentProtection(t *testing.T) {
	const load, store = "f3 0f b8 00", "0f ae 18"
	for _, tt := range []struct {
		name, code string
		ds         Segment
		ok         bool
	}{
		{"inside", load, Segment{Limit: 0x1003, Type: 3}, true},
		{"last byte outside", load, Segment{Limit: 0x1002, Type: 3}, false},
		{"null", load, Segment{Limit: 0xffff, Type: 3, Unusable: true}, false},
		{"read-only, load", load, Segment{Limit: 0xffff, Type: 1}, true},
		{"read-only, store", store, Segment{Limit: 0xffff, Type: 1}, false},
		{"writable, store", store, Segment{Limit: 0xffff, Type: 3}, true},
		{"readable code, load", load, Segment{Limit: 0xffff, Type: 11}, true},
		{"execute-only, load", load, Segment{Limit: 0xffff, Type: 9}, false},
		{"code, store", store, Segment{Limit: 0xffff, Type: 11}, false},
		{"expand-down, above", load, Segment{Limit: 0xfff, Type: 7}, true},
		{"expand-down, at the limit", load, Segment{Limit: 0x1000, Type: 7}, false},
	} {
		c := kernelCPU()
		c.Long, c.Big, c.RIP = false, true, 0
		c.Seg[DS], c.GPR[RAX] = tt.ds, 0x1000
		out, err := new(Engine).Complete(&c, page(), bytesOf(t, tt.code))
		if err != nil {
			t.Fatal(err)
		}
		if ok := out.Inject == nil; ok != tt.ok || !ok && *out.Inject != *exGP {
			t.Errorf("%s: %v", tt.name, out.Inject)
		}
	}
}

// TestLegacyEncodings: bytes that mean something else outside 64-bit code.
func TestLegacyEncodings(t *testing.T) {
	c, m := kernelCPU(), page()
	c.Long, c.Big, c.RIP = false, true, 0
	c.GPR[RBX], c.GPR[RCX] = 0x0f, 0xff
	must(t, &c, m, "c4 e2 60 f2 c1") // andn eax, ebx, ecx
	if c.GPR[RAX] != 0xf0 {
		t.Errorf("andn: %#x", c.GPR[RAX])
	}
	for _, code := range []string{
		"c4 00",             // les eax, [eax]
		"48 0f c7 08",       // dec eax
		"c5 00 00 00 00 00", // lds eax, [eax]
	} {
		before := c
		out, err := new(Engine).Complete(&c, m, bytesOf(t, code))
		if err == nil || !sameCPU(&c, &before) {
			t.Errorf("%s completed as %s", code, out.Op)
		}
	}
}

// TestSelectors checks VERR, VERW, LAR and LSL against descriptors of all sorts.
func TestSelectors(t *testing.T) {
	const (
		data0     = 0x00cf93000000ffff // DPL 0, 4 GiB
		data3     = 0x0040f20000001234 // DPL 3, limit 0x1234
		readOnly3 = 0x00cff1000000ffff
		code3     = 0x00affb000000ffff
		execOnly3 = 0x00aff9000000ffff
		conform0  = 0x00af9e000000ffff // conforming, DPL 0
		tss64     = 0x0000890000000067 // available TSS, DPL 0
		tss16     = 0x0000810000000067 // 16-bit TSS
		gate      = 0x00008e0000000000 // interrupt gate
	)
	m := page()
	for i, d := range []uint64{0, data0, data3, readOnly3, code3, execOnly3, conform0, tss64, tss16, gate} {
		binary.LittleEndian.PutUint64(m.b[8*i:], d)
	}
	binary.LittleEndian.PutUint64(m.b[0x108:], data3) // LDT entry 1
	for _, tt := range []struct {
		name                 string
		sel                  uint64
		cpl                  uint8
		verr, verw, lar, lsl bool
		rights, limit        uint64
	}{
		{name: "null", sel: 3},
		{name: "beyond the table", sel: 80},
		{name: "kernel data at CPL 0", sel: 8, verr: true, verw: true, lar: true, lsl: true, rights: 0xcf9300, limit: 0xffffffff},
		{name: "kernel data by RPL 3", sel: 8 | 3},
		{name: "kernel data at CPL 3", sel: 8, cpl: 3},
		{name: "user data", sel: 16 | 3, cpl: 3, verr: true, verw: true, lar: true, lsl: true, rights: 0x40f200, limit: 0x1234},
		{name: "read-only", sel: 24, verr: true, lar: true, lsl: true, rights: 0xcff100, limit: 0xffffffff},
		{name: "code", sel: 32 | 3, cpl: 3, verr: true, lar: true, lsl: true, rights: 0xaffb00, limit: 0xffffffff},
		{name: "execute-only", sel: 40, lar: true, lsl: true, rights: 0xaff900, limit: 0xffffffff},
		{name: "conforming at CPL 3", sel: 48 | 3, cpl: 3, verr: true, lar: true, lsl: true, rights: 0xaf9e00, limit: 0xffffffff},
		{name: "TSS", sel: 56, lar: true, lsl: true, rights: 0x8900, limit: 0x67},
		{name: "16-bit TSS in long mode", sel: 64},
		{name: "interrupt gate", sel: 72},
		{name: "LDT", sel: 8 | 4 | 3, cpl: 3, verr: true, verw: true, lar: true, lsl: true, rights: 0x40f200, limit: 0x1234},
		{name: "beyond the LDT", sel: 16 | 4},
	} {
		run := func(op, code string, want bool, value uint64) {
			c := kernelCPU()
			c.CPL, c.GPR[RAX], c.GPR[RBX] = tt.cpl, tt.sel, 0x5555
			c.GDT, c.LDT = Table{Base: 0x1000, Limit: 79}, Table{Base: 0x1100, Limit: 15}
			must(t, &c, m, code)
			if got := c.RFLAGS&FlagZF != 0; got != want {
				t.Errorf("%s of %s: ZF %v", op, tt.name, got)
			}
			if !want {
				value = 0x5555
			}
			if op[0] == 'l' && c.GPR[RBX] != value {
				t.Errorf("%s of %s: %#x, want %#x", op, tt.name, c.GPR[RBX], value)
			}
		}
		run("verr", "0f 00 e0", tt.verr, 0)
		run("verw", "0f 00 e8", tt.verw, 0)
		run("lar", "0f 02 d8", tt.lar, tt.rights)
		run("lsl", "0f 03 d8", tt.lsl, tt.limit)
	}
	// 16-bit types exist outside IA-32e mode, and a selector in memory is 16 bits.
	c := kernelCPU()
	c.EFER, c.GPR[RAX] = 0, 0x1ffe
	c.GDT = Table{Base: 0x1000, Limit: 79}
	binary.LittleEndian.PutUint16(m.b[0xffe:], 64)
	must(t, &c, m, "0f 02 18")
	if c.RFLAGS&FlagZF == 0 || c.GPR[RBX] != 0x8100 {
		t.Errorf("lar of a 16-bit TSS: %#x", c.GPR[RBX])
	}
}

// TestMisalignedSSE: MXCSR.MM lets computing instructions, but not movaps, take
// misaligned operands.
func TestMisalignedSSE(t *testing.T) {
	c, m := kernelCPU(), page()
	c.FPU.MXCSR |= mxcsrMM
	c.GPR[RAX] = 0x1003
	m.b[3] = 0x5a
	must(t, &c, m, "66 0f ef 08")
	if c.FPU.XMM[1][0] != 0x5a {
		t.Errorf("pxor: %x", c.FPU.XMM[1])
	}
	if out, err := new(Engine).Complete(&c, m, bytesOf(t, "0f 28 08")); err != nil || out.Inject == nil || *out.Inject != *exGP {
		t.Errorf("movaps: %v, %v", out.Inject, err)
	}
}

// TestX87LastInstruction: opcode and pointers of the last instruction.
func TestX87LastInstruction(t *testing.T) {
	c, m := kernelCPU(), page()
	rip := c.RIP
	c.GPR[RAX] = 0x1010
	must(t, &c, m, "dd 00") // fld m64
	must(t, &c, m, "db e2") // fnclex is not noted
	f := &c.FPU
	if f.FOP != 0x500 || f.FIP != rip || f.FDP != 0x1010 {
		t.Errorf("FOP %#x FIP %#x FDP %#x", f.FOP, f.FIP, f.FDP)
	}
	// An unmasked denormal operand leaves the stack alone.
	m.b[0x10] = 1
	c.FPU.initX87()
	f.FCW &^= fswDE
	must(t, &c, m, "dd 00")
	if f.FSW != fswDE|fswES|fswB || f.FTW != 0 {
		t.Errorf("status %#x, tags %#x", f.FSW, f.FTW)
	}
}
