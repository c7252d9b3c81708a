package kvm

import gokvm "github.com/bobuhiro11/gokvm/kvm"

// Structures whose layout gokvm has right (asserted by TestABISizes).
type (
	Capability = gokvm.Capability
	Regs       = gokvm.Regs
	Sregs      = gokvm.Sregs
	Segment    = gokvm.Segment
	Descriptor = gokvm.Descriptor
	DebugRegs  = gokvm.DebugRegs
	XCRs       = gokvm.XCRS
	VCPUEvents = gokvm.VCPUEvents
	LAPICState = gokvm.LAPICState
	PITState2  = gokvm.PITState2
	IRQChip    = gokvm.IRQChip
	ClockData  = gokvm.ClockData
	CPUIDEntry = gokvm.CPUIDEntry2
	MSREntry   = gokvm.MSREntry
)

// Capabilities that more than one room asks for; gokvm names the others.
const (
	CapTSCDeadlineTimer = gokvm.CapTSCDeadlineTimer
	CapX86UserSpaceMSR  = gokvm.CapX86UserSpaceMSR
	CapX86MSRFilter     = gokvm.CapX86MSRFilter
)

// Multiprocessing states of a vCPU (KVM_GET_MP_STATE).
const (
	MPStateRunnable      = gokvm.MPStateRunnable
	MPStateUninitialized = gokvm.MPStateUninitialized
	MPStateInitReceived  = gokvm.MPStateInitReceived
	MPStateHalted        = gokvm.MPStateHalted
	MPStateSIPIReceived  = gokvm.MPStateSipiReceived
)

// Flags of VCPUEvents.Flags: which optional parts are valid.
const (
	EventNMIPending  = 0x01
	EventSIPIVector  = 0x02
	EventShadow      = 0x04
	EventSMM         = 0x08
	EventPayload     = 0x10
	EventTripleFault = 0x20
)

// CPUIDFlagSignificantIndex says that a CPUID entry is selected by its index (ECX) too.
const CPUIDFlagSignificantIndex = 1

// FPU is struct kvm_fpu: x87 and SSE state. XMM holds 16 registers, FTWX the
// abridged tag word as FXSAVE writes it. The kernel neither reads nor writes MXCSR
// here: it is in XSave, bytes 24 to 27.
type FPU struct {
	FPR        [8][16]byte
	FCW        uint16
	FSW        uint16
	FTWX       uint8
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// XSave is struct kvm_xsave: the standard-format XSAVE area (SDM vol. 1, 13.4).
type XSave struct{ Region [4096]byte }

// MemoryRegion is struct kvm_userspace_memory_region.
type MemoryRegion struct {
	Slot          uint32
	Flags         uint32 // MemLogDirtyPages, MemReadOnly
	GuestPhysAddr uint64
	Size          uint64
	UserspaceAddr uint64
}

// Memory region flags.
const (
	MemLogDirtyPages = 1 << 0
	MemReadOnly      = 1 << 1
)

// Guest debug controls (KVM_SET_GUEST_DEBUG).
const (
	DebugEnable     = 1 << 0
	DebugSingleStep = 1 << 1
	DebugUseSWBP    = 1 << 16
	DebugUseHWBP    = 1 << 17
)

// GuestDebug is struct kvm_guest_debug.
type GuestDebug struct {
	Control uint32
	_       uint32
	Regs    [8]uint64
}

// Translation is struct kvm_translation.
type Translation struct {
	LinearAddress   uint64
	PhysicalAddress uint64
	Valid           uint8
	Writeable       uint8
	Usermode        uint8
	_               [5]uint8
}

// RoutingEntry is one struct kvm_irq_routing_entry: GSI to an irqchip pin or an MSI.
type RoutingEntry struct {
	GSI   uint32
	Type  uint32 // RouteIRQChip or RouteMSI
	Flags uint32
	_     uint32
	// For RouteIRQChip: U[0] = chip, U[1] = pin.
	// For RouteMSI: U[0] = address low, U[1] = address high, U[2] = data, U[3] = device id.
	U [8]uint32
}

// Routing entry types and in-kernel interrupt chips.
const (
	RouteIRQChip = 1
	RouteMSI     = 2

	ChipPICMaster = 0
	ChipPICSlave  = 1
	ChipIOAPIC    = 2
)

// MSI is struct kvm_msi.
type MSI struct {
	AddressLo, AddressHi uint32
	Data                 uint32
	Flags                uint32
	DevID                uint32
	_                    [12]uint8
}

// MSRRange is one range of a KVM_X86_SET_MSR_FILTER.
type MSRRange struct {
	Flags  uint32 // MSRFilterRead | MSRFilterWrite
	Base   uint32
	Bitmap []byte // one bit an MSR, 1 = allow; the range has len*8 MSRs
}

// MSR filter flags and the user-space MSR exit reasons that go with them.
const (
	MSRFilterRead  = 1 << 0
	MSRFilterWrite = 1 << 1

	MSRExitInvalid = 1 << 0
	MSRExitUnknown = 1 << 1
	MSRExitFilter  = 1 << 2
)

// MSRs that more than one room names.
const (
	MSRTSC           = 0x10
	MSRAPICBase      = 0x1B
	MSRMiscEnable    = 0x1A0
	MSRTSCDeadline   = 0x6E0
	MSREFER          = 0xC0000080
	MSRSTAR          = 0xC0000081
	MSRLSTAR         = 0xC0000082
	MSRCSTAR         = 0xC0000083
	MSRSFMASK        = 0xC0000084
	MSRFSBase        = 0xC0000100
	MSRGSBase        = 0xC0000101
	MSRKernelGSBase  = 0xC0000102
	MSRTSCAux        = 0xC0000103
	MSRKVMWallClock  = 0x4B564D00
	MSRKVMSystemTime = 0x4B564D01
)
