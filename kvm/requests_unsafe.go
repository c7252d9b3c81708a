package kvm

import "unsafe"

// Ioctl requests of a running VM, for the system-call filters of processes that own one.
const (
	RequestRun           = kvmio<<8 | 0x80
	RequestCreateVCPU    = kvmio<<8 | 0x41
	RequestSetMemory     = dirWrite<<30 | uint32(unsafe.Sizeof(MemoryRegion{}))<<16 | kvmio<<8 | 0x46
	RequestGetSregs      = dirRead<<30 | uint32(unsafe.Sizeof(Sregs{}))<<16 | kvmio<<8 | 0x83
	RequestSetSregs      = dirWrite<<30 | uint32(unsafe.Sizeof(Sregs{}))<<16 | kvmio<<8 | 0x84
	RequestSetMSRs       = dirWrite<<30 | 8<<16 | kvmio<<8 | 0x89
	RequestSetCPUID      = dirWrite<<30 | 8<<16 | kvmio<<8 | 0x90
	RequestGetXSave      = dirRead<<30 | uint32(unsafe.Sizeof(XSave{}))<<16 | kvmio<<8 | 0xA4
	RequestSetXSave      = dirWrite<<30 | uint32(unsafe.Sizeof(XSave{}))<<16 | kvmio<<8 | 0xA5
	RequestSetXCRs       = dirWrite<<30 | uint32(unsafe.Sizeof(XCRs{}))<<16 | kvmio<<8 | 0xA7
	RequestSetDeviceAttr = dirWrite<<30 | 24<<16 | kvmio<<8 | 0xE1
)
