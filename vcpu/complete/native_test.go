//go:build linux && amd64

package complete

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/arch/x86/x86asm"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/vcpu/complete/internal/native"
)

// machine is the one native machine of the test process.
var machine = sync.OnceValues(native.New)

// nativeMu makes machine serve one test at a time.
var nativeMu sync.Mutex

// image is the FXSAVE64 image of the state.
func image(c *CPU) (area [fxSize]byte) {
	x := exec{cpu: *c, eng: &Engine{}}
	x.cpu.Long, x.rex = true, rexW
	x.saveX87(area[:])
	x.saveMXCSR(area[:])
	x.saveXMM(area[:])
	return area
}

// fromImage is the reverse of image. It takes the status word as it is.
func fromImage(c *CPU, area []byte) {
	x := exec{cpu: *c, eng: &Engine{MXCSR: ^uint32(0)}}
	x.cpu.Long, x.rex = true, rexW
	x.loadX87(area)
	if err := x.loadMXCSR(area); err != nil {
		panic(err)
	}
	x.loadXMM(area)
	c.FPU = x.cpu.FPU
	c.FPU.FCW = binary.LittleEndian.Uint16(area[fxFCW:])
	c.FPU.FSW = binary.LittleEndian.Uint16(area[fxFSW:])
}

// differential runs one program of the template by Complete and natively.
func differential(t *testing.T, tmpl *template, seed uint64) {
	nativeMu.Lock()
	defer nativeMu.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer pinThread(t)()
	m, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := native.FSBase()
	if err != nil {
		t.Fatal(err)
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), t: tmpl, stray: true}
	gs := g.Uint64() >> 20
	if err := native.SetGSBase(gs); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := native.SetGSBase(0); err != nil {
			t.Fatal(err)
		}
	}()
	g.cpu = userCPU(m.CodeAddr())
	g.cpu.Seg[FS].Base, g.cpu.Seg[GS].Base = fs, gs
	g.mem = &flat{base: m.ScratchAddr(), b: make([]byte, native.ScratchSize)}
	for i := 0; i < len(g.mem.b); i += 8 {
		binary.LittleEndian.PutUint64(g.mem.b[i:], g.value())
	}
	g.state()
	g.instruction(m.CodeAddr())
	copy(m.Scratch(), g.mem.b)
	before := g.cpu

	s := native.State{GPR: g.cpu.GPR, RFLAGS: g.cpu.RFLAGS, FX: image(&g.cpu)}
	m.Run(&s, g.code)

	mem := &gdtMemory{flat: g.mem}
	engine := Engine{MXCSR: nativeMXCSRMask(m)}
	out, err := engine.Complete(&g.cpu, mem, append(g.code, 0xcc))
	describe := func() string {
		return fmt.Sprintf("%s, seed %d: % x\nregisters before %x\nstatus %04x control %04x tags %02x st %x", tmpl.name, seed, g.code,
			before.GPR, before.FPU.FSW, before.FPU.FCW, before.FPU.FTW, before.FPU.ST)
	}
	if err != nil {
		t.Fatalf("%s\n%v", describe(), err)
	}
	if out.Op != tmpl.name || out.Inject != nil || g.cpu.RIP != m.CodeAddr()+uint64(len(g.code)) {
		t.Fatalf("%s\noutcome %+v, rip +%d of %d", describe(), out, g.cpu.RIP-m.CodeAddr(), len(g.code))
	}
	got, want := g.cpu, g.cpu
	want.GPR, want.RFLAGS = s.GPR, s.RFLAGS
	want.GPR[RSP] = got.GPR[RSP]
	fromImage(&want, s.FX[:])
	if tmpl.result != nil {
		tmpl.result(g, &want)
	}
	compare(t, describe, tmpl, &got, &want)
	compareMemory(t, describe, g, mem.b, m.Scratch())
}

// userCPU is this process's processor state as far as it matters.
func userCPU(rip uint64) CPU {
	c := CPU{RIP: rip, CPL: 3, Long: true, CR0: 0x80050033, CR4: cr4OSFXSR | cr4OSXSAVE | cr4FSGSBASE, EFER: eferLMA}
	c.XCR0, c.TSCAux = nativeXCR0(), nativeTSCAux()
	c.TSC = func() uint64 { return 0 }
	c.GDT = Table{Limit: uint32(len(linuxGDT)*8 - 1)}
	return c
}

// linuxGDT is what Linux has there for selectors up to 0x33.
var linuxGDT = [7]uint64{0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff}

// gdtMemory is a flat memory with a GDT at 0 that only the processor may read.
type gdtMemory struct{ *flat }

func (m *gdtMemory) ReadSystem(va uint64, p []byte) error {
	var b []byte
	for _, d := range linuxGDT {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	if copy(p, b[min(va, uint64(len(b))):]) != len(p) {
		return fmt.Errorf("no descriptor table at %#x", va)
	}
	return nil
}

// compare checks all registers.
func compare(t *testing.T, describe func() string, tmpl *template, got, want *CPU) {
	t.Helper()
	if got.GPR != want.GPR {
		t.Fatalf("%s\nGPR  %x\nwant %x", describe(), got.GPR, want.GPR)
	}
	if d := (got.RFLAGS ^ want.RFLAGS) &^ tmpl.undefined; d != 0 {
		t.Fatalf("%s\nRFLAGS %#x, want %#x", describe(), got.RFLAGS, want.RFLAGS)
	}
	g, w := got.FPU, want.FPU
	// Which instructions note themselves as the last one differs by vendor.
	g.FOP, g.FIP, g.FDP = w.FOP, w.FIP, w.FDP
	g.FSW, w.FSW = g.FSW&^tmpl.x87Maybe, w.FSW&^tmpl.x87Maybe
	switch {
	case g.XMM != w.XMM || g.MXCSR != w.MXCSR:
		t.Fatalf("%s\nXMM, MXCSR %x, %#x\nwant %x, %#x", describe(), g.XMM, g.MXCSR, w.XMM, w.MXCSR)
	case g != w:
		t.Fatalf("%s\nstatus %04x control %04x tags %02x st %x\nwant   %04x         %04x      %02x    %x", describe(),
			g.FSW, g.FCW, g.FTW, g.ST, w.FSW, w.FCW, w.FTW, w.ST)
	}
}

// compareMemory checks all of scratch memory, the fields left open excepted.
func compareMemory(t *testing.T, describe func() string, g *generator, got, want []byte) {
	t.Helper()
	want = bytes.Clone(want)
	if g.target != 0 && strings.Contains(g.t.name, "save") {
		sameOpenFields(g, got[g.target-g.mem.base:], want[g.target-g.mem.base:])
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s\nmemory operand %#x: byte %#x is %#x, want %#x", describe(), g.target, g.mem.base+uint64(i), got[i], want[i])
		}
	}
}

// sameOpenFields makes the FOP, FIP and FDP fields equal.
func sameOpenFields(g *generator, got, want []byte) {
	copy(want[fxFOP:fxMXCSR], got[fxFOP:fxMXCSR])
}

// nativeMXCSRMask is this processor's, as FXSAVE reports it.
func nativeMXCSRMask(m *native.Machine) uint32 {
	s := native.State{FX: image(&CPU{FPU: FPU{FCW: fcwInit, MXCSR: mxcsrInit}})}
	m.Run(&s, nil)
	return binary.LittleEndian.Uint32(s.FX[fxMXCSRMask:])
}

// nativeXCR0 is this thread's XCR0, read natively.
var nativeXCR0 = sync.OnceValue(func() uint64 {
	if !hasOSXSAVE.present() {
		return 0
	}
	s := runNative([]byte{0x0f, 0x01, 0xd0})
	return s.GPR[RDX]<<32 | s.GPR[RAX]
})

// nativeTSCAux is the TSC_AUX of the CPU the locked thread runs on.
func nativeTSCAux() uint32 {
	if !hasRDTSCP.present() {
		return 0
	}
	return uint32(runNative([]byte{0x0f, 0x01, 0xf9}).GPR[RCX])
}

// runNative runs an instruction without operands; the caller holds nativeMu.
func runNative(code []byte) *native.State {
	m, err := machine()
	if err != nil {
		panic(err)
	}
	s := &native.State{FX: image(&CPU{FPU: FPU{FCW: fcwInit, MXCSR: mxcsrInit}})}
	m.Run(s, code)
	return s
}

// TestNative compares every template with the processor.
func TestNative(t *testing.T) {
	n := uint64(400)
	if testing.Short() {
		n = 40
	}
	for i := range templates {
		tmpl := &templates[i]
		t.Run(fmt.Sprintf("%s-%x-%d", tmpl.name, tmpl.opcode, i), func(t *testing.T) {
			if !tmpl.cpuid.present() {
				t.Skipf("NOT COMPARED: this processor has no %s", tmpl.name)
			}
			n := n
			if strings.HasPrefix(tmpl.name, "fst") && !testing.Short() {
				n *= 10 // rounding has rare corners
			}
			for seed := range n {
				differential(t, tmpl, seed)
			}
		})
	}
}

// FuzzNative searches further seeds.
func FuzzNative(f *testing.F) {
	for i := range templates {
		f.Add(uint16(i), uint64(i)*7919)
	}
	f.Fuzz(func(t *testing.T, index uint16, seed uint64) {
		tmpl := &templates[int(index)%len(templates)]
		if !tmpl.cpuid.present() {
			t.Skipf("NOT COMPARED: this processor has no %s", tmpl.name)
		}
		differential(t, tmpl, seed)
	})
}

// TestEveryOpcodeHasTemplate ties the oracle to the engine's table. What cannot
// run at CPL 3 is left to the tables of the other tests.
func TestEveryOpcodeHasTemplate(t *testing.T) {
	have := map[opcode]bool{0xcc: true, 0xcd: true, 0xce: true, 0xf1: true, map0F38 | 0x82: true}
	for _, tmpl := range templates {
		have[tmpl.opcode] = true
	}
	for op, e := range table {
		if !have[op] {
			t.Errorf("opcode %#x (%s) is never compared with native execution", op, e.name)
		}
	}
}

// TestDecodeAgainstX86asm compares lengths and mnemonics with a second decoder.
func TestDecodeAgainstX86asm(t *testing.T) {
	alias := map[string]string{"fxsave64": "fxsave", "fxrstor64": "fxrstor", "xsave64": "xsave", "xrstor64": "xrstor",
		"xsaveopt64": "xsaveopt", "xsavec64": "xsavec", "movsd_xmm": "movsd"}
	unknown := map[string]int{}
	known := 0
	for i := range templates {
		for seed := range uint64(50) {
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), t: &templates[i], mem: &flat{base: 0x10000, b: make([]byte, 8192)}}
			g.state()
			g.instruction(0x8000)
			inst, err := x86asm.Decode(append(g.code, make([]byte, 8)...), 64)
			if err != nil || inst.Op == 0 {
				unknown[g.t.name]++
				continue
			}
			known++
			name := strings.ToLower(inst.Op.String())
			if a, ok := alias[name]; ok {
				name = a
			}
			if name == "clflush" && g.t.name == "clflushopt" || name == "xsaveopt" && g.t.name == "clwb" {
				name = g.t.name // x86asm overlooks the 66 prefix
			}
			if name != g.t.name || inst.Len != len(g.code) {
				t.Errorf("% x: x86asm says %s of %d bytes, we %s of %d", g.code, name, inst.Len, g.t.name, len(g.code))
			}
		}
	}
	t.Logf("%d encodings agree; x86asm does not know %v", known, unknown)
	if known < 1000 {
		t.Errorf("only %d encodings compared", known)
	}
}

// TestTruncated: no beginning of an instruction is taken for a whole one.
func TestTruncated(t *testing.T) {
	for i := range templates {
		for seed := range uint64(20) {
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 2)), t: &templates[i], mem: &flat{base: 0x10000, b: make([]byte, 8192)}}
			g.cpu = kernelCPU()
			g.state()
			g.instruction(0x8000)
			for n := range g.code {
				before := g.cpu
				out, err := new(Engine).Complete(&g.cpu, g.mem, g.code[:n])
				if !errors.Is(err, ErrTruncated) || !sameCPU(&g.cpu, &before) {
					t.Fatalf("%s, % x of % x: %+v, %v", g.t.name, g.code[:n], g.code, out, err)
				}
			}
		}
	}
}

// pinThread keeps the locked thread on one CPU until unpin is called: TSC_AUX differs between CPUs.
func pinThread(t *testing.T) (unpin func()) {
	t.Helper()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.SchedSetaffinity(0, &allowed); err != nil {
			t.Fatal(err)
		}
	}
}
