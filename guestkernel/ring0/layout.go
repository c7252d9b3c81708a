package ring0

// Entry says at which privilege level SYSCALL arrives, and so which stub is right. The wrong one would leave the
// program at CPL 0.
type Entry int

// The two syscall stubs.
const (
	EntryCPL0 Entry = iota // as the architecture has it (SDM vol. 2, SYSCALL)
	EntryCPL3              // a software KVM that leaves CPL at 3
)

func (e Entry) String() string {
	if e == EntryCPL3 {
		return "CPL3"
	}
	return "CPL0"
}

// Virtual addresses, all in the last 2 GiB so that the stubs can use sign-extended 32-bit addresses.
const (
	Base     uint64 = 0xFFFFFFFF80000000 // core: the same pages in every address space
	SlotBase uint64 = Base + 2<<20       // slots: other pages in each address space

	PageSize   = 4096
	CorePages  = switchPage + 1
	MaxVCPUs   = 512
	SlotSize   = 256
	SlotPages  = MaxVCPUs * SlotSize / PageSize
	blockSize  = 512 // of a vCPU's code, and of its TSS and stack
	tssPages   = MaxVCPUs * blockSize / PageSize
	codePages  = MaxVCPUs * blockSize / PageSize
	gdtPage    = 0
	idtPage    = 1
	faultPage  = 2
	tssPage    = 3
	codePage   = tssPage + tssPages
	switchPage = codePage + codePages
	faultSize  = 4 // bytes of one fault stub
	vectors    = 32
	tssLimit   = tssBitmap + 1 // the bitmap's first byte and the one that must follow it
	tssBitmap  = 104
	gdtEntries = 8
)

// Port is the port whose OUT leaves the VM. The TSS allows programs' privilege level that port alone.
const Port = 2

// Selectors, those of Linux.
const (
	KernelCS = 0x10
	KernelSS = 0x18
	UserCS   = 0x33
	UserSS   = 0x2B
	tssSel   = 0x38
)

// SyscallMask is the FMASK MSR: flags that SYSCALL clears, as Linux has it: CF to AC and ID but for what is fixed.
const SyscallMask = 0x257FD5

// STAR is the STAR MSR: SYSCALL loads KernelCS, SYSRET UserCS.
const STAR = uint64(KernelCS)<<32 | uint64(UserCS-16)<<48

// Slot states. The stub sets SlotRequest and SlotParked, the host SlotResume.
const (
	SlotIdle    = 0
	SlotRequest = 1 // a system call waits in the slot; the stub looks for SlotResume
	SlotResume  = 2
	SlotParked  = 3 // as SlotRequest, but the stub has left the VM
)

// Slot is how one vCPU and the host exchange a program's registers. Where the entry is CPL 3, the program can write it: the host trusts
// nothing in it.
type Slot struct {
	State uint32
	Spin  uint32 // how often the stub looks for an answer before it leaves the VM
	Regs  Regs
}

// Regs are a program's registers in the order of the slot.
type Regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS, FSBase, GSBase            uint64
}

// LSTAR returns the address of a vCPU's syscall stub.
func LSTAR(vcpu int) uint64 { return Base + codePage*PageSize + uint64(vcpu)*blockSize }

// ProbeEntry is an address for the LSTAR MSR that leaves the VM at CPL 0 and, being supervisor memory, faults at CPL 3.
const ProbeEntry = Base + faultPage*PageSize + vectors*faultSize

// SwitchEntry is the address of the context switch, a function that programs call: RDI and RSI point to the Areas to leave and to
// enter.
const SwitchEntry = Base + switchPage*PageSize

// Area is what the context switch keeps of a context: what a call preserves (System V ABI), the FS base, MXCSR and the x87
// control word. The address to return to is on the context's stack.
type Area struct {
	RBX, RBP, R12, R13, R14, R15, RSP uint64
	FSBase                            uint64
	MXCSR                             uint32
	FCW                               uint16
	_                                 uint16
}

// FaultVector returns the exception whose stub has left the VM at rip. KVM may report the OUT itself or what follows it.
func FaultVector(rip uint64) (vector int, ok bool) {
	n := rip - (Base + faultPage*PageSize)
	if n >= vectors*faultSize || n%2 != 0 {
		return 0, false
	}
	return int(n / faultSize), true
}

// AtProbe says whether the VM was left at ProbeEntry.
func AtProbe(rip uint64) bool { return rip-ProbeEntry <= 2 }

// tssOf returns the address of a vCPU's block: the TSS, and the stack that grows down from the block's end.
func tssOf(vcpu int) uint64 { return Base + tssPage*PageSize + uint64(vcpu)*blockSize }

// FrameOffset returns where in the core image the frame of the exception with this vector begins, for the error code if
// the vector has one, else for RIP.
func FrameOffset(vcpu, vector int) uint64 {
	words := uint64(5)
	if HasErrorCode(vector) {
		words++
	}
	return tssOf(vcpu) - Base + blockSize - words*8
}

// HasErrorCode says whether the CPU pushes an error code for the vector (SDM vol. 3, table 6-1).
func HasErrorCode(vector int) bool {
	const with = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21
	return vector >= 0 && vector < vectors && with>>vector&1 == 1
}
