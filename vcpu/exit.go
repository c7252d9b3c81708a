package vcpu

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
)

// ErrExit says that a kvm_run area does not hold a well-formed exit.
var ErrExit = errors.New("malformed KVM exit")

// Exit is a decoded KVM exit. Which fields are set depends on Reason; Data aliases
// the kvm_run area and is valid until the next entry.
type Exit struct {
	Reason uint32 // kvm.ExitIO and so on

	Addr  uint64 // ExitIO: the port; ExitMMIO: the gpa
	Write bool   // ExitIO, ExitMMIO: the guest writes
	Size  int    // ExitIO: bytes an element (1, 2, 4); ExitMMIO: bytes (1 to 8)
	Count int    // ExitIO: elements (REP INS/OUTS has more than one)
	Data  []byte // ExitIO: Size*Count bytes; ExitMMIO: Size bytes

	MSR       uint32 // ExitRDMSR, ExitWRMSR
	MSRValue  uint64 // ExitWRMSR
	MSRReason uint32 // kvm.MSRExitFilter and so on

	Suberror uint32   // ExitInternalError
	Insn     []byte   // ExitInternalError, emulation failure: the instruction's bytes when KVM tells them
	Info     []uint64 // ExitInternalError, ExitSystemEvent: what else KVM says

	Event uint32 // ExitSystemEvent: kvm_run.system_event.type
	Entry uint64 // ExitFailEntry: the hardware's reason

	Exception uint32 // ExitDebug: the vector, 1 (#DB) or 3 (#BP)
	PC        uint64 // ExitDebug: the linear address of the next instruction, which for #BP is the INT3
	DR6       uint64 // ExitDebug with #DB: why
}

// InternalEmulation is the Suberror of an instruction that KVM cannot emulate.
const InternalEmulation = 1

// emulationHasBytes is KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const emulationHasBytes = 1

// Decode reads the exit out of a kvm_run area. Every offset and length in it is checked:
// the area is written by the kernel, but some fields repeat what the guest chose.
func Decode(run []byte) (Exit, error) {
	if len(run) < kvm.RunMinSize {
		return Exit{}, fmt.Errorf("%w: kvm_run has %d bytes, at least %d expected", ErrExit, len(run), kvm.RunMinSize)
	}
	le := binary.LittleEndian
	u := run[kvm.RunUnion:kvm.RunMinSize]
	x := Exit{Reason: le.Uint32(run[kvm.RunExitReason:])}
	switch x.Reason {
	case kvm.ExitIO:
		x.Write = u[0] == 1
		x.Size = int(u[1])
		x.Addr = uint64(le.Uint16(u[2:]))
		x.Count = int(le.Uint32(u[4:]))
		off := le.Uint64(u[8:])
		if x.Size != 1 && x.Size != 2 && x.Size != 4 {
			return x, fmt.Errorf("%w: port I/O of %d bytes", ErrExit, x.Size)
		}
		n := uint64(x.Size) * uint64(x.Count)
		if off > uint64(len(run)) || n > uint64(len(run))-off {
			return x, fmt.Errorf("%w: port I/O data of %d bytes at offset %#x of %#x", ErrExit, n, off, len(run))
		}
		x.Data = run[off : off+n]
	case kvm.ExitMMIO:
		x.Addr = le.Uint64(u)
		x.Size = int(le.Uint32(u[16:]))
		x.Count = 1
		x.Write = u[20] != 0
		if x.Size < 1 || x.Size > 8 {
			return x, fmt.Errorf("%w: MMIO of %d bytes", ErrExit, x.Size)
		}
		x.Data = u[8 : 8+x.Size]
	case kvm.ExitRDMSR, kvm.ExitWRMSR:
		x.Write = x.Reason == kvm.ExitWRMSR
		x.MSRReason = le.Uint32(u[8:])
		x.MSR = le.Uint32(u[12:])
		x.MSRValue = le.Uint64(u[16:])
	case kvm.ExitInternalError:
		x.Suberror = le.Uint32(u)
		n := min(le.Uint32(u[4:]), 16)
		for i := range n {
			x.Info = append(x.Info, le.Uint64(u[8+8*i:]))
		}
		if x.Suberror == InternalEmulation && n >= 3 && le.Uint64(u[8:])&emulationHasBytes != 0 {
			size := min(int(u[16]), 15)
			x.Insn = u[17 : 17+size]
		}
	case kvm.ExitSystemEvent:
		x.Event = le.Uint32(u)
		for i := range min(le.Uint32(u[4:]), 16) {
			x.Info = append(x.Info, le.Uint64(u[8+8*i:]))
		}
	case kvm.ExitFailEntry:
		x.Entry = le.Uint64(u)
	case kvm.ExitDebug:
		x.Exception, x.PC, x.DR6 = le.Uint32(u), le.Uint64(u[8:]), le.Uint64(u[16:])
	}
	return x, nil
}

// answerMSR writes the answer of an MSR exit into the kvm_run area: fail makes the guest take #GP.
func answerMSR(run []byte, value uint64, fail bool) {
	u := run[kvm.RunUnion:]
	u[0] = 0
	if fail {
		u[0] = 1
	}
	binary.LittleEndian.PutUint64(u[16:], value)
}

// exitNames are what a report calls the exit reasons.
var exitNames = map[uint32]string{
	kvm.ExitUnknown:       "unknown",
	kvm.ExitException:     "exception",
	kvm.ExitIO:            "port-io",
	kvm.ExitHypercall:     "hypercall",
	kvm.ExitDebug:         "debug",
	kvm.ExitHLT:           "hlt",
	kvm.ExitMMIO:          "mmio",
	kvm.ExitIRQWindow:     "irq-window",
	kvm.ExitShutdown:      "shutdown",
	kvm.ExitFailEntry:     "fail-entry",
	kvm.ExitIntr:          "interrupted",
	kvm.ExitSetTPR:        "set-tpr",
	kvm.ExitTPRAccess:     "tpr-access",
	kvm.ExitNMI:           "nmi",
	kvm.ExitInternalError: "internal-error",
	kvm.ExitSystemEvent:   "system-event",
	kvm.ExitIOAPICEOI:     "ioapic-eoi",
	kvm.ExitRDMSR:         "rdmsr",
	kvm.ExitWRMSR:         "wrmsr",
	kvm.ExitDirtyRingFull: "dirty-ring-full",
	kvm.ExitBusLock:       "bus-lock",
	kvm.ExitNotify:        "notify",
	kvm.ExitMemoryFault:   "memory-fault",
}

// ReasonName names an exit reason for people and reports.
func ReasonName(reason uint32) string {
	if s, ok := exitNames[reason]; ok {
		return s
	}
	return fmt.Sprintf("reason-%d", reason)
}
