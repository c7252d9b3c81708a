package probe

// SyscallEntry says at which privilege level SYSCALL executed at CPL 3 arrives at the address in LSTAR.
type SyscallEntry string

// What SYSCALL does.
const (
	// Architectural: it arrives at CPL 0 (SDM vol. 2, SYSCALL).
	Architectural SyscallEntry = "architectural"
	// ArrivesAtCPL3: RIP, RCX, R11 and RFLAGS are right, but CS and SS are still the user's. A
	// guest kernel dies of a page fault at its entry.
	ArrivesAtCPL3 SyscallEntry = "arrives-at-cpl3"
	// Undecided: the probe could not tell; the error beside it says why.
	Undecided SyscallEntry = "undecided"
)

// QuickResult is what every VM start needs to know of its KVM.
type QuickResult struct {
	Syscall SyscallEntry `json:"syscall"`
	// SoftwareKVM says that guest code at CPL 0 is emulated, not run: instructions are missing,
	// and hypercalls must not be offered to the guest.
	SoftwareKVM bool `json:"software_kvm"`
	// MSRFilter says that guest accesses to chosen MSRs can be made to exit to user space.
	MSRFilter bool `json:"msr_filter"`
}

// Outcome says how an instruction fared at CPL 0.
type Outcome string

// Outcomes.
const (
	Works   Outcome = "works"
	Fails   Outcome = "fails"   // KVM_EXIT_INTERNAL_ERROR: the emulator does not know it
	Wrong   Outcome = "wrong"   // it ended with a wrong result
	Refused Outcome = "refused" // it raised an exception that it should not raise
	Loops   Outcome = "loops"   // it never ended, and had to be kicked
	Absent  Outcome = "absent"  // this CPU has no such instruction
)

// Instruction is one instruction's outcome.
type Instruction struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail,omitempty"`
}

// CPUIDMasking says which CPUID bits the guest saw set although its CPUID table has them clear. All zero
// when masking is honoured.
type CPUIDMasking struct {
	CPL0Leaf1ECX uint32 `json:"cpl0_leaf_1_ecx"`
	CPL0Leaf7EBX uint32 `json:"cpl0_leaf_7_ebx"`
	CPL3Leaf1ECX uint32 `json:"cpl3_leaf_1_ecx"`
	CPL3Leaf7EBX uint32 `json:"cpl3_leaf_7_ebx"`
}

// Honoured says that the guest sees no bit that it was not given.
func (m CPUIDMasking) Honoured() bool { return m == CPUIDMasking{} }

// Result is everything that Measure finds out. Times are in nanoseconds, the best of the
// samples taken.
type Result struct {
	QuickResult
	CreateNS       float64       `json:"create_vm_and_vcpu_ns"` // and closing both
	CPL0LoopNS     float64       `json:"cpl0_loop_ns"`          // one iteration of dec; jnz
	CPL3LoopNS     float64       `json:"cpl3_loop_ns"`
	PortExitCPL0NS float64       `json:"port_exit_cpl0_ns"` // guest OUT to user space and back
	PortExitCPL3NS float64       `json:"port_exit_cpl3_ns"`
	MMIOExitNS     float64       `json:"mmio_exit_ns"` // guest store to user space and back, CPL 0
	SyscallNS      float64       `json:"syscall_ns"`   // SYSCALL at CPL 3, stub, back at CPL 3; no exit; 0 if it cannot be
	Hypercall      Instruction   `json:"hypercall"`    // VMCALL, or VMMCALL on AMD
	Instructions   []Instruction `json:"instructions"`
	CPUIDLeaks     CPUIDMasking  `json:"cpuid_leaks"`
}

// Missing returns the instructions that this KVM does not run as the CPU does.
func (r *Result) Missing() []Instruction {
	var gaps []Instruction
	for _, i := range r.Instructions {
		if i.Outcome != Works && i.Outcome != Absent {
			gaps = append(gaps, i)
		}
	}
	return gaps
}
