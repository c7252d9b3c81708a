package gdbstub

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/qenex/qenex-kernel/kvm"
)

var le = binary.LittleEndian

// state is a vCPU's registers.
type state struct {
	regs  kvm.Regs
	sregs kvm.Sregs
	xsave *kvm.XSave
}

// register is one of gdb's. get fills p, which has its size; set is nil for those that cannot be changed.
type register struct {
	name, typ string
	size      int // bytes
	feature   string
	get       func(s *state, p []byte)
	set       func(s *state, p []byte)
}

// Features of gdb's that registers belong to (GDB manual, G.5.14), and one of ours.
const (
	coreFeature     = "org.gnu.gdb.i386.core"
	sseFeature      = "org.gnu.gdb.i386.sse"
	segmentsFeature = "org.gnu.gdb.i386.segments"
	controlFeature  = "org.qenex.control"
)

// registers are in the order of gdb's numbers.
var registers = makeRegisters()

func makeRegisters() []register {
	var all []register
	word := func(feature, name, typ string, at func(*state) *uint64) {
		all = append(all, register{name, typ, 8, feature,
			func(s *state, p []byte) { le.PutUint64(p, *at(s)) }, func(s *state, p []byte) { *at(s) = le.Uint64(p) }})
	}
	for _, r := range []struct {
		name string
		at   func(*state) *uint64
	}{
		{"rax", func(s *state) *uint64 { return &s.regs.RAX }}, {"rbx", func(s *state) *uint64 { return &s.regs.RBX }},
		{"rcx", func(s *state) *uint64 { return &s.regs.RCX }}, {"rdx", func(s *state) *uint64 { return &s.regs.RDX }},
		{"rsi", func(s *state) *uint64 { return &s.regs.RSI }}, {"rdi", func(s *state) *uint64 { return &s.regs.RDI }},
		{"rbp", func(s *state) *uint64 { return &s.regs.RBP }}, {"rsp", func(s *state) *uint64 { return &s.regs.RSP }},
		{"r8", func(s *state) *uint64 { return &s.regs.R8 }}, {"r9", func(s *state) *uint64 { return &s.regs.R9 }},
		{"r10", func(s *state) *uint64 { return &s.regs.R10 }}, {"r11", func(s *state) *uint64 { return &s.regs.R11 }},
		{"r12", func(s *state) *uint64 { return &s.regs.R12 }}, {"r13", func(s *state) *uint64 { return &s.regs.R13 }},
		{"r14", func(s *state) *uint64 { return &s.regs.R14 }}, {"r15", func(s *state) *uint64 { return &s.regs.R15 }},
	} {
		typ := "int64"
		if r.name == "rbp" || r.name == "rsp" {
			typ = "data_ptr"
		}
		word(coreFeature, r.name, typ, r.at)
	}
	word(coreFeature, "rip", "code_ptr", func(s *state) *uint64 { return &s.regs.RIP })
	all = append(all, register{"eflags", "int32", 4, coreFeature,
		func(s *state, p []byte) { le.PutUint32(p, uint32(s.regs.RFLAGS)) },
		func(s *state, p []byte) { s.regs.RFLAGS = uint64(le.Uint32(p)) }})
	for _, r := range []struct {
		name string
		at   func(*state) *kvm.Segment
	}{
		{"cs", func(s *state) *kvm.Segment { return &s.sregs.CS }}, {"ss", func(s *state) *kvm.Segment { return &s.sregs.SS }},
		{"ds", func(s *state) *kvm.Segment { return &s.sregs.DS }}, {"es", func(s *state) *kvm.Segment { return &s.sregs.ES }},
		{"fs", func(s *state) *kvm.Segment { return &s.sregs.FS }}, {"gs", func(s *state) *kvm.Segment { return &s.sregs.GS }},
	} {
		// Not to be changed: a selector is nothing without the descriptor it stands for.
		all = append(all, register{r.name, "int32", 4, coreFeature, func(s *state, p []byte) { le.PutUint32(p, uint32(r.at(s).Selector)) }, nil})
	}
	area := func(feature, name, typ string, size, at, bytes int) {
		all = append(all, register{name, typ, size, feature,
			func(s *state, p []byte) { clear(p); copy(p, s.xsave.Region[at:at+bytes]) },
			func(s *state, p []byte) { copy(s.xsave.Region[at:at+bytes], p) }})
	}
	for i := range 8 {
		area(coreFeature, fmt.Sprintf("st%d", i), "i387_ext", 10, 32+16*i, 10)
	}
	// The x87 area as FXSAVE has it (SDM vol. 1, 10.5.1); gdb wants 4 bytes of each.
	area(coreFeature, "fctrl", "int", 4, 0, 2)
	area(coreFeature, "fstat", "int", 4, 2, 2)
	all = append(all, register{"ftag", "int", 4, coreFeature, getTags, nil})
	none := func(name string) {
		all = append(all, register{name, "int", 4, coreFeature, func(_ *state, p []byte) { clear(p) }, nil})
	}
	none("fiseg")
	area(coreFeature, "fioff", "int", 4, 8, 4)
	none("foseg")
	area(coreFeature, "fooff", "int", 4, 16, 4)
	area(coreFeature, "fop", "int", 4, 6, 2)
	for i := range 16 {
		area(sseFeature, fmt.Sprintf("xmm%d", i), "vec128", 16, 160+16*i, 16)
	}
	area(sseFeature, "mxcsr", "int", 4, 24, 4)
	word(segmentsFeature, "fs_base", "int64", func(s *state) *uint64 { return &s.sregs.FS.Base })
	word(segmentsFeature, "gs_base", "int64", func(s *state) *uint64 { return &s.sregs.GS.Base })
	for _, r := range []struct {
		name string
		at   func(*state) *uint64
	}{
		{"cr0", func(s *state) *uint64 { return &s.sregs.CR0 }}, {"cr2", func(s *state) *uint64 { return &s.sregs.CR2 }},
		{"cr3", func(s *state) *uint64 { return &s.sregs.CR3 }}, {"cr4", func(s *state) *uint64 { return &s.sregs.CR4 }},
		{"cr8", func(s *state) *uint64 { return &s.sregs.CR8 }}, {"efer", func(s *state) *uint64 { return &s.sregs.EFER }},
		{"gdt_base", func(s *state) *uint64 { return &s.sregs.GDT.Base }}, {"idt_base", func(s *state) *uint64 { return &s.sregs.IDT.Base }},
		{"tr_base", func(s *state) *uint64 { return &s.sregs.TR.Base }},
	} {
		word(controlFeature, r.name, "int64", r.at)
	}
	return all
}

// getTags makes gdb's two bits a register of the one that FXSAVE keeps: valid or empty.
func getTags(s *state, p []byte) {
	tags := uint32(0)
	for i := range 8 {
		if s.xsave.Region[4]&(1<<i) == 0 {
			tags |= 3 << (2 * i)
		}
	}
	le.PutUint32(p, tags)
}

// vectorTypes are the views that gdb has of an XMM register.
const vectorTypes = `<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>` +
	`<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/><vector id="v4i32" type="int32" count="4"/>` +
	`<vector id="v2i64" type="int64" count="2"/><union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>` +
	`<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>` +
	`<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>`

// description is what gdb asks for as target.xml.
var description = describe()

func describe() string {
	var x strings.Builder
	x.WriteString(`<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0"><architecture>i386:x86-64</architecture>`)
	feature := ""
	for i, r := range registers {
		if r.feature != feature {
			if feature != "" {
				x.WriteString("</feature>")
			}
			feature = r.feature
			fmt.Fprintf(&x, `<feature name="%s">`, feature)
			if feature == sseFeature {
				x.WriteString(vectorTypes)
			}
		}
		fmt.Fprintf(&x, `<reg name="%s" bitsize="%d" type="%s" regnum="%d"/>`, r.name, r.size*8, r.typ, i)
	}
	x.WriteString("</feature></target>")
	return x.String()
}
