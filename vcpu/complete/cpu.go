package complete

// Numbers of the general registers in CPU.GPR: the order of instruction encodings.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Numbers of the segment registers in CPU.Seg: the order of instruction encodings.
const (
	ES = iota
	CS
	SS
	DS
	FS
	GS
)

// Bits of RFLAGS (SDM vol. 1, 3.4.3).
const (
	FlagCF uint64 = 1 << 0
	FlagPF uint64 = 1 << 2
	FlagAF uint64 = 1 << 4
	FlagZF uint64 = 1 << 6
	FlagSF uint64 = 1 << 7
	FlagTF uint64 = 1 << 8
	FlagDF uint64 = 1 << 10
	FlagOF uint64 = 1 << 11
	FlagRF uint64 = 1 << 16
	FlagVM uint64 = 1 << 17
	FlagAC uint64 = 1 << 18

	iopl       = 3 << 12
	arithFlags = FlagCF | FlagPF | FlagAF | FlagZF | FlagSF | FlagOF
)

// Bits of control registers and EFER that completion depends on.
const (
	cr0PE uint64 = 1 << 0
	cr0MP uint64 = 1 << 1
	cr0EM uint64 = 1 << 2
	cr0TS uint64 = 1 << 3
	cr0NE uint64 = 1 << 5
	cr0AM uint64 = 1 << 18

	cr4TSD      uint64 = 1 << 2
	cr4OSFXSR   uint64 = 1 << 9
	cr4LA57     uint64 = 1 << 12
	cr4FSGSBASE uint64 = 1 << 16
	cr4PCIDE    uint64 = 1 << 17
	cr4OSXSAVE  uint64 = 1 << 18

	eferLMA   uint64 = 1 << 10
	eferFFXSR uint64 = 1 << 14
)

// CPU is the architectural state that an instruction can see or change. The
// caller fills it from the vCPU and writes it back after Complete.
type CPU struct {
	GPR    [16]uint64 // indexed by RAX..R15
	RIP    uint64     // of the instruction, relative to CS
	RFLAGS uint64
	CPL    uint8 // 0..3

	Long bool // 64-bit code segment: CS.L with EFER.LMA
	Big  bool // CS.D: 32-bit code if not Long

	Seg [6]Segment // indexed by ES..GS; in 64-bit code only the bases of FS and GS count
	GDT Table
	LDT Table // the segment LDTR holds; Limit 0 if it is null
	IDT Table

	CR0, CR4, EFER uint64
	XCR0, XSS      uint64

	// TSC reads the guest's time-stamp counter; RDTSCP is refused without it.
	TSC    func() uint64
	TSCAux uint32 // IA32_TSC_AUX

	FPU FPU
}

// Segment is the hidden part of a segment register.
type Segment struct {
	Base     uint64
	Limit    uint32 // in bytes, granularity applied, inclusive
	Type     uint8  // descriptor type field, 0..15, of a code or data segment
	Unusable bool   // holds a null selector
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64 // linear address
	Limit uint32 // in bytes, inclusive
}

// FPU is the x87 and SSE state in the shape of the FXSAVE area (SDM vol. 1, 10.5.1).
type FPU struct {
	FCW   uint16
	FSW   uint16
	FTW   uint8 // abridged: bit i is set if physical register i is in use
	FOP   uint16
	FIP   uint64
	FDP   uint64
	ST    [8][16]byte // ST(0) first; bytes 10..15 are padding
	XMM   [16][16]byte
	MXCSR uint32
}

// protected says whether segments have the meaning that descriptors give them.
func (c *CPU) protected() bool { return c.CR0&cr0PE != 0 && c.RFLAGS&FlagVM == 0 }

// canonical says whether va can be a linear address in 64-bit mode.
func (c *CPU) canonical(va uint64) bool {
	shift := 64 - 48
	if c.CR4&cr4LA57 != 0 {
		shift = 64 - 57
	}
	return uint64(int64(va<<shift)>>shift) == va
}
