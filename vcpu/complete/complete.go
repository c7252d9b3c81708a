// Package complete finishes, in user space, instructions that a KVM cannot.
//
// A KVM whose emulator lacks an instruction leaves KVM_RUN with
// KVM_EXIT_INTERNAL_ERROR, suberror 1, and the instruction's bytes. The vCPU's
// thread copies the registers into a CPU, calls Engine.Complete, copies them
// back, injects what the Outcome asks for and enters the guest again.
//
// The package is pure: it knows the architecture (Intel SDM, AMD APM) and
// nothing of KVM, of paging or of devices. It reaches guest memory by linear
// address through the Memory it is handed, changes nothing but the CPU it is
// handed, and keeps no state between calls. No ioctl, no knowledge of the host
// and no CPUID policy may enter: whether the guest was told that it may use an
// instruction is not asked here, for the KVMs that need this package execute
// natively at CPL 3 what they cannot emulate at CPL 0.
//
// Its own decoder knows exactly the encodings that the handlers serve, because
// golang.org/x/arch/x86/x86asm lacks many of them (clac, adcx, rdpid, all of
// BMI). x86asm names what is refused and is the tests' second opinion on
// lengths and mnemonics.
//
// Instruction bytes and register values are chosen by the guest and are taken
// for hostile throughout.
package complete

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

// MaxLen is the longest instruction the architecture allows, in bytes
// (SDM vol. 2A, 2.3.11). A longer one raises #GP(0) on a processor.
const MaxLen = 15

var (
	// ErrUnknown says that the engine does not finish this instruction, or not
	// in this processor state. The guest's state is unchanged.
	ErrUnknown = errors.New("instruction cannot be completed in user space")
	// ErrTruncated says that the bytes end within the instruction. With more
	// bytes from CS:RIP the call may be repeated.
	ErrTruncated = errors.New("instruction bytes end within the instruction")
	// ErrTooLong says that the instruction is longer than MaxLen.
	ErrTooLong = errors.New("instruction is longer than 15 bytes")
)

// Engine completes instructions. Its fields describe the virtual processor and
// must not change while Complete runs; the zero value is a processor whose XCR0
// allows x87 and SSE. One Engine may serve any number of vCPUs at once.
type Engine struct {
	// XCR0 is the set of bits that XSETBV may set, as CPUID leaf 0xD lists
	// them. 0 stands for x87 and SSE.
	XCR0 uint64
	// MXCSR is the MXCSR_MASK of the processor: the bits of MXCSR that are not
	// reserved. 0 stands for 0xFFFF; AMD processors have 0x2FFFF.
	MXCSR uint32
}

// Outcome says what became of one instruction.
type Outcome struct {
	// Op is the mnemonic in lower case, fit as a counter's name. It is also
	// set when Complete refuses an instruction that it can name.
	Op string
	// Inject is the event to deliver to the guest before its next instruction,
	// nil for none. By Kind the CPU's RIP is already the one to be pushed.
	Inject *Exception
	// FlushTLB says that the guest asked for translations to be dropped
	// (INVPCID). Dropping all of them is a correct answer.
	FlushTLB bool
}

// Complete executes the one instruction that code begins with, at c.RIP.
//
// On success c is the state behind the instruction: RIP advanced, RF clear. If
// the instruction faults, the error is nil, Outcome.Inject holds the fault and
// neither c nor memory is changed. Single stepping (TF) asks for #DB. With an
// error (ErrUnknown, ErrTruncated, ErrTooLong, or what the Memory returned if it
// was no *Fault) c and memory are unchanged too.
//
// Only the first MaxLen bytes of code are looked at.
func (e *Engine) Complete(c *CPU, m Memory, code []byte) (Outcome, error) {
	x := exec{eng: e, mem: m, cpu: *c, insn: newInsn(code, c)}
	err := x.run()
	if err == nil {
		x.advance(c.RFLAGS&FlagTF != 0)
		*c = x.cpu
		x.out.Op = x.name
		return x.out, nil
	}
	if x.name == "" {
		x.name = foreignName(x.code, c)
	}
	if exc := asException(err); exc != nil {
		return Outcome{Op: x.name, Inject: exc}, nil
	}
	return Outcome{Op: x.name}, fmt.Errorf("complete %s at rip %#x (bytes % x): %w", orUnnamed(x.name), c.RIP, x.code, err)
}

// exec is one instruction under execution. Handlers change cpu and out freely:
// both are dropped if the handler returns an error. A handler writes guest
// memory at most once, as the last thing that can fail.
type exec struct {
	insn
	eng  *Engine
	mem  Memory
	cpu  CPU
	name string
	out  Outcome
}

// run decodes and executes. An *Exception as error is a fault of the guest's.
func (x *exec) run() error {
	if err := x.decodeOpcode(); err != nil {
		return err
	}
	e, ok := table[x.opcode]
	if !ok {
		return ErrUnknown
	}
	if err := x.decodeOperands(e); err != nil {
		return err
	}
	if x.lock && !e.lock {
		x.name = e.name
		return exUD
	}
	x.name = e.name
	return e.run(x)
}

// unserved refuses an instruction that shares its opcode with one of ours.
func (x *exec) unserved() error {
	x.name = ""
	return ErrUnknown
}

// advance ends a completed instruction: RIP, RF and the single-step trap. An
// instruction that itself raises a trap clears TF by delivering it.
func (x *exec) advance(step bool) {
	x.cpu.RIP += uint64(x.pos)
	if !x.cpu.Long {
		x.cpu.RIP &= 0xffff_ffff
	}
	x.cpu.RFLAGS &^= FlagRF
	if step && x.out.Inject == nil {
		x.out.Inject = &Exception{Vector: VectorDB, Kind: KindTrap, Payload: dr6BS}
	}
}

// foreignName asks x86asm for the mnemonic of bytes that are not ours.
func foreignName(code []byte, c *CPU) string {
	mode := 16
	switch {
	case c.Long:
		mode = 64
	case c.Big:
		mode = 32
	}
	inst, err := x86asm.Decode(code, mode)
	if err != nil || inst.Op == 0 {
		return ""
	}
	return strings.ToLower(inst.Op.String())
}

func orUnnamed(name string) string {
	if name == "" {
		return "unnamed instruction"
	}
	return name
}
