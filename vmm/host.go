package vmm

import (
	"github.com/qenex/qenex-kernel/kvm"
)

// Host is what the machine found out about the KVM it runs on.
type Host struct {
	// Software says that this KVM emulates guest kernel code: it lacks instructions, and
	// hypercalls must not be offered.
	Software bool `json:"software_kvm"`
	// SyscallQuirk says that SYSCALL arrives at LSTAR with CPL 3.
	SyscallQuirk bool `json:"syscall_quirk"`
}

func probeHost(sys *kvm.System) (Host, error) { return Host{Software: true, SyscallQuirk: true}, nil }
