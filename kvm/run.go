package kvm

// RunArea returns the vCPU's kvm_run structure and what the kernel maps behind it (port I/O data). The
// kernel writes it during Run only; the slice is valid until Close.
func (c *VCPU) RunArea() []byte { return c.run }

// Exit reasons (kvm_run.exit_reason).
const (
	ExitUnknown       = 0
	ExitException     = 1
	ExitIO            = 2
	ExitHypercall     = 3
	ExitDebug         = 4
	ExitHLT           = 5
	ExitMMIO          = 6
	ExitIRQWindow     = 7
	ExitShutdown      = 8
	ExitFailEntry     = 9
	ExitIntr          = 10
	ExitSetTPR        = 11
	ExitTPRAccess     = 12
	ExitNMI           = 16
	ExitInternalError = 17
	ExitSystemEvent   = 24
	ExitIOAPICEOI     = 26
	ExitRDMSR         = 29
	ExitWRMSR         = 30
	ExitDirtyRingFull = 31
	ExitBusLock       = 33
	ExitNotify        = 37
	ExitMemoryFault   = 39
)

// Offsets in struct kvm_run.
const (
	RunExitReason = 8  // u32
	RunIfFlag     = 13 // u8
	RunCR8        = 16 // u64
	RunAPICBase   = 24 // u64
	RunUnion      = 32 // the exit's own data
	RunMinSize    = 32 + 256
)
