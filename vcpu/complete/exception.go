package complete

import (
	"errors"
	"fmt"
)

// Exception vectors (SDM vol. 3A, 6.3.1).
const (
	VectorDB uint8 = 1
	VectorBP uint8 = 3
	VectorOF uint8 = 4
	VectorUD uint8 = 6
	VectorNM uint8 = 7
	VectorDF uint8 = 8
	VectorTS uint8 = 10
	VectorSS uint8 = 12
	VectorGP uint8 = 13
	VectorPF uint8 = 14
	VectorMF uint8 = 16
	VectorAC uint8 = 17
	VectorCP uint8 = 21
)

// dr6BS is the single-step bit of DR6.
const dr6BS = 1 << 14

// Kind says how an Exception relates to the instruction.
type Kind uint8

const (
	// KindFault: RIP is that of the instruction, which has had no effect.
	KindFault Kind = iota
	// KindTrap: RIP is behind the instruction (INT3, INTO, INT1, single step).
	KindTrap
	// KindSoftInterrupt: as KindTrap, for INT n. Any vector 0..255, never an error
	// code; KVM takes it as a soft interrupt, not as an exception.
	KindSoftInterrupt
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindFault:
		return "fault"
	case KindTrap:
		return "trap"
	case KindSoftInterrupt:
		return "software interrupt"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Exception is an event to deliver to the guest.
type Exception struct {
	Vector  uint8
	Kind    Kind
	HasCode bool
	Code    uint32 // error code, if HasCode
	// Payload is CR2 for #PF and the bits to set in DR6 for #DB, as in KVM's
	// exception payload; 0 for the others.
	Payload uint64
}

// Error describes the exception; handlers return faults as errors.
func (e *Exception) Error() string {
	s := fmt.Sprintf("%s of vector %d", e.Kind, e.Vector)
	if e.HasCode {
		s += fmt.Sprintf(", error code %#x", e.Code)
	}
	return s
}

var (
	exUD = &Exception{Vector: VectorUD}
	exNM = &Exception{Vector: VectorNM}
	exMF = &Exception{Vector: VectorMF}
	exGP = &Exception{Vector: VectorGP, HasCode: true}
	exSS = &Exception{Vector: VectorSS, HasCode: true}
	exAC = &Exception{Vector: VectorAC, HasCode: true}
)

// Fault is the error by which a Memory says that the access must fault in
// the guest: a #PF with its error code and address, as the guest's page tables
// have it, or another fault.
type Fault struct {
	Vector uint8
	Code   uint32 // error code; of no meaning for vectors without one
	Addr   uint64 // linear address, for CR2
}

// Error describes the fault.
func (f *Fault) Error() string {
	return fmt.Sprintf("guest fault of vector %d, error code %#x, at linear address %#x", f.Vector, f.Code, f.Addr)
}

// asException finds the guest's fault in err: nil if err is none. The result
// is the caller's to keep.
func asException(err error) *Exception {
	if exc, ok := errors.AsType[*Exception](err); ok {
		copied := *exc
		return &copied
	}
	f, ok := errors.AsType[*Fault](err)
	if !ok {
		return nil
	}
	exc := &Exception{Vector: f.Vector, HasCode: hasErrorCode(f.Vector)}
	if exc.HasCode {
		exc.Code = f.Code
	}
	if f.Vector == VectorPF {
		exc.Payload = f.Addr
	}
	return exc
}

// hasErrorCode says whether the processor pushes an error code for a vector.
func hasErrorCode(v uint8) bool {
	return v == VectorDF || v >= VectorTS && v <= VectorPF || v == VectorAC || v == VectorCP
}
