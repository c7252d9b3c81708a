package guestkernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
	"github.com/qenex/qenex-kernel/kvm"
)

// Kind says why Run returned.
type Kind uint8

// Kinds of traps.
const (
	Syscall     Kind = iota // the registers are those at the instruction behind SYSCALL, RCX and R11 as the CPU leaves them
	Exception               // Vector, Code and, for a page fault, Addr say which
	Interrupted             // Interrupt was called; perhaps before Run
	Broken                  // the program cannot go on; Err says why
)

func (k Kind) String() string {
	return [...]string{"system call", "exception", "interrupted", "broken"}[k]
}

// Exceptions (SDM vol. 3, table 6-1).
const (
	VectorDE = 0
	VectorDB = 1
	VectorBP = 3
	VectorOF = 4
	VectorBR = 5
	VectorUD = 6
	VectorNM = 7
	VectorTS = 10
	VectorNP = 11
	VectorSS = 12
	VectorGP = 13
	VectorPF = 14
	VectorMF = 16
	VectorAC = 17
	VectorXM = 19
)

// Bits of a page fault's error code (SDM vol. 3, 4.7).
const (
	FaultPresent = 1 << 0
	FaultWrite   = 1 << 1
	FaultUser    = 1 << 2
	FaultExecute = 1 << 4

	// FaultStep says that a debug exception is a single step (DR6.BS), not an ICEBP.
	FaultStep = 1 << 14

	faultReserved = 1 << 3
)

// Trap is why a program left the VM.
type Trap struct {
	Kind   Kind
	Vector uint8
	Code   uint32 // error code of the exception, 0 if it has none; of VectorDB, FaultStep or 0
	Addr   uint64 // CR2 of a page fault
	Err    error  // of Broken
}

// ErrHostMemory says that the host could not provide the memory that a program touched: what a file is mapped beyond its
// end, or the host is out of memory.
var ErrHostMemory = errors.New("no host memory behind the address")

// decode turns the exit of a vCPU that was running c into a trap, and the program's registers into regs. err is what
// KVM_RUN returned.
func (c *Context) decode(v *vcpu, regs *ring0.Regs, err error) Trap {
	s := &v.sync.Regs
	v.inStub = false
	switch {
	case errors.Is(err, unix.EINTR):
		return c.interrupted(v, regs)
	case errors.Is(err, unix.EFAULT):
		v.programRegs(regs)
		return Trap{Kind: Broken, Err: fmt.Errorf("%w: program at %#x", ErrHostMemory, s.RIP)}
	case err != nil:
		v.programRegs(regs)
		return Trap{Kind: Broken, Err: err}
	}
	reason := binary.LittleEndian.Uint32(v.area[kvm.RunExitReason:])
	if reason != kvm.ExitIO {
		v.programRegs(regs)
		return Trap{Kind: Broken, Err: fmt.Errorf("exit reason %d at rip %#x, CS %#x", reason, s.RIP, v.sync.Sregs.CS.Selector)}
	}
	const in = 0
	port, direction := binary.LittleEndian.Uint16(v.area[kvm.RunUnion+2:]), v.area[kvm.RunUnion]
	if kernel := v.sync.Sregs.CS.Selector&3 == 0; kernel {
		if vector, ok := ring0.FaultVector(s.RIP); ok && port == ring0.Port {
			return c.exception(v, regs, vector)
		}
	}
	at := s.RIP - ring0.LSTAR(v.n)
	if port == ring0.Port && direction != in && (at == c.m.stub.Out || at == c.m.stub.Resume) {
		v.inStub = true
		*regs = v.slot.Regs
		c.m.stats.syscalls.Add(1)
		return Trap{Kind: Syscall}
	}
	return c.portAccess(v, regs)
}

// portAccess makes the program's own IN or OUT to the one port that the TSS allows as forbidden as all others. KVM may
// report it with RIP at the instruction or behind it.
func (c *Context) portAccess(v *vcpu, regs *ring0.Regs) Trap {
	at := v.sync.Regs.RIP
	rax := v.sync.Regs.RAX
	if err := v.settle(); err != nil {
		return Trap{Kind: Broken, Err: err}
	}
	v.programRegs(regs)
	regs.RAX = rax // what IN would have changed
	if at == regs.RIP {
		var code [2]byte
		v.space.peek(at-2, code[:])
		switch {
		case code[0]&0xFC == 0xE4 && code[1] == ring0.Port: // IN, OUT with the port in the instruction
			at -= 2
		case code[1]&0xFC == 0xEC, code[1]&0xFC == 0x6C: // IN, OUT with the port in DX; INS, OUTS
			at--
		}
	}
	regs.RIP = at
	c.m.stats.faults.Add(1)
	return Trap{Kind: Exception, Vector: VectorGP}
}

// exception reads the frame that the CPU pushed on the vCPU's stack.
func (c *Context) exception(v *vcpu, regs *ring0.Regs, vector int) Trap {
	c.m.stats.faults.Add(1)
	v.programRegs(regs)
	frame := c.m.core[ring0.FrameOffset(v.n, vector):]
	t := Trap{Kind: Exception, Vector: uint8(vector)}
	if ring0.HasErrorCode(vector) {
		t.Code = binary.LittleEndian.Uint32(frame)
		frame = frame[8:]
	}
	regs.RIP = binary.LittleEndian.Uint64(frame)
	cs := binary.LittleEndian.Uint64(frame[8:])
	regs.RFLAGS = binary.LittleEndian.Uint64(frame[16:])
	regs.RSP = binary.LittleEndian.Uint64(frame[24:])
	if cs&3 == 0 {
		return Trap{Kind: Broken, Err: fmt.Errorf("exception %d in the core at rip %#x, error code %#x, address %#x", vector, regs.RIP, t.Code, v.sync.Sregs.CR2)}
	}
	switch vector {
	case VectorPF:
		t.Addr = v.sync.Sregs.CR2
		v.space.fault.Store(t.Addr)
		if t.Addr >= pagetable.Limit { // whatever is there, to programs it is nothing
			t.Code &^= FaultPresent | faultReserved
		}
	case VectorDB:
		var at, before [1]byte // a software KVM reports ICEBP at the instruction
		v.space.peek(regs.RIP, at[:])
		v.space.peek(regs.RIP-1, before[:])
		switch step := regs.RFLAGS&flagTF != 0; {
		case !step && at[0] == 0xF1:
			regs.RIP++
		case step || before[0] != 0xF1:
			t.Code = FaultStep
		}
	case VectorUD:
		return softwareInterrupt(v.space, regs, t)
	case VectorGP:
		if c.m.entry == ring0.EntryCPL3 && t.Code == 0 {
			return mendGP(v.space, regs, t)
		}
	}
	return t
}

// softwareInterrupt turns the #UD that a software KVM makes of INT n into what it should be (SDM vol. 2, INT n): the
// IDT lets programs reach the gates 3 and 4 only.
func softwareInterrupt(as *AddressSpace, regs *ring0.Regs, t Trap) Trap {
	var code [2]byte
	if as.peek(regs.RIP, code[:]) < 2 || code[0] != 0xCD {
		return t
	}
	switch n := code[1]; n {
	case VectorBP, VectorOF:
		regs.RIP += 2
		t.Vector = n
	default:
		t.Vector, t.Code = VectorGP, uint32(n)<<3|2
	}
	return t
}

// interrupted sorts out where a vCPU was stopped between two exits: in the program, or somewhere in the syscall stub.
func (c *Context) interrupted(v *vcpu, regs *ring0.Regs) Trap {
	s := &v.sync.Regs
	stub := c.m.stub
	at := s.RIP - ring0.LSTAR(v.n)
	state := loadState(v.slot)
	if v.sync.Sregs.CS.Selector&3 == 0 {
		if vector, ok := ring0.FaultVector(s.RIP); ok { // an exception has come, and its stub has not left the VM yet
			return c.exception(v, regs, vector)
		}
	}
	switch {
	case at >= stub.End: // in the program
		v.programRegs(regs)
		return Trap{Kind: Interrupted}
	case at < stub.Saved: // the registers are the program's but for what SYSCALL changed
		v.programRegs(regs)
		regs.RIP, regs.RFLAGS = s.RCX, s.R11
	case at < stub.Posted, state == ring0.SlotRequest, state == ring0.SlotParked:
		*regs = v.slot.Regs
		regs.FSBase, regs.GSBase = v.sync.Sregs.FS.Base, v.sync.Sregs.GS.Base
	default: // answered, on the way back to the program
		*regs = v.slot.Regs
		return Trap{Kind: Interrupted}
	}
	c.m.stats.syscalls.Add(1)
	return Trap{Kind: Syscall}
}

// mendGP turns what a software KVM makes a #GP without an error code of into what it should be: INT 23 and INT 25, which it reports behind the
// instruction (INT 26 it executes as if it were nothing), and MONITOR and MWAIT, which do not exist at CPL 3.
func mendGP(as *AddressSpace, regs *ring0.Regs, t Trap) Trap {
	var code [3]byte
	if as.peek(regs.RIP, code[:]) == 3 && code[0] == 0x0F && code[1] == 0x01 && (code[2] == 0xC8 || code[2] == 0xC9) {
		t.Vector = VectorUD
		return t
	}
	if as.peek(regs.RIP-2, code[:2]) == 2 && code[0] == 0xCD && (code[1] == 23 || code[1] == 25) {
		regs.RIP -= 2
		t.Code = uint32(code[1])<<3 | 2
	}
	return t
}

// programRegs reads the registers of a vCPU that left the VM outside the syscall stub.
func (v *vcpu) programRegs(r *ring0.Regs) {
	s := &v.sync.Regs
	*r = ring0.Regs{
		RAX: s.RAX, RBX: s.RBX, RCX: s.RCX, RDX: s.RDX, RSI: s.RSI, RDI: s.RDI, RBP: s.RBP, RSP: s.RSP,
		R8: s.R8, R9: s.R9, R10: s.R10, R11: s.R11, R12: s.R12, R13: s.R13, R14: s.R14, R15: s.R15,
		RIP: s.RIP, RFLAGS: s.RFLAGS, FSBase: v.sync.Sregs.FS.Base, GSBase: v.sync.Sregs.GS.Base,
	}
}
