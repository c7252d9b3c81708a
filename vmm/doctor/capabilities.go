package doctor

import (
	"cmp"

	"github.com/qenex/qenex-kernel/kvm"
)

// capability is a KVM capability that QENEX looks at.
type capability struct {
	name   string
	number kvm.Capability
	needed Needed
	cost   string
	fix    string // empty: fixKernel
}

// known lists the capabilities, the most needed first. Numbers are those of <linux/kvm.h>.
var known = []capability{
	{"KVM_CAP_USER_MEMORY", 3, Required, "no guest memory", ""},
	{"KVM_CAP_IRQCHIP", 0, Required, "no interrupts", ""},
	{"KVM_CAP_PIT2", 33, Required, "no timer at boot", ""},
	{"KVM_CAP_EXT_CPUID", 7, Required, "the guest cannot be told its CPU", ""},
	{"KVM_CAP_SET_TSS_ADDR", 4, Required, "no real mode on Intel", ""},
	{"KVM_CAP_SYNC_MMU", 16, Required, "guest memory cannot be paged or shared", ""},
	{"KVM_CAP_MP_STATE", 14, Required, "no second CPU", ""},
	{"KVM_CAP_VCPU_EVENTS", 41, Required, "exceptions cannot be injected", ""},
	{"KVM_CAP_IMMEDIATE_EXIT", 136, Required, "a running guest cannot be stopped safely", ""},
	{"KVM_CAP_MAX_VCPUS", 66, Required, "no CPUs", ""},
	{"KVM_CAP_NR_MEMSLOTS", 10, Required, "no guest memory", ""},

	{"KVM_CAP_IRQFD", 32, Performance, "each device interrupt costs a system call", ""},
	{"KVM_CAP_IOEVENTFD", 36, Performance, "each device doorbell costs an exit to user space", ""},
	{"KVM_CAP_SYNC_REGS", 74, Performance, "each look at registers costs a system call", ""},
	{"KVM_CAP_TSC_DEADLINE_TIMER", 72, Performance, "guest timers cost more exits", ""},
	{"KVM_CAP_CLOCKSOURCE", 8, Performance, "no kvmclock: guest time reads may exit", ""},
	{"KVM_CAP_DIRTY_LOG_RING", 192, Performance, "dirty pages are found by scanning bitmaps", ""},
	{"KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", 168, Performance, "reading the dirty bitmap stalls the guest longer", ""},
	{"KVM_CAP_HALT_POLL", 182, Performance, "wake-up latency cannot be tuned for each VM", ""},
	{"KVM_CAP_X86_DISABLE_EXITS", 143, Performance, "HLT and PAUSE always exit", ""},

	{"KVM_CAP_X86_USER_SPACE_MSR", 188, Optional, "MSR accesses cannot be watched", ""},
	{"KVM_CAP_X86_MSR_FILTER", 189, Optional, "MSR accesses cannot be watched", ""},
	{"KVM_CAP_XSAVE", 55, Optional, "AVX state cannot be saved", ""},
	{"KVM_CAP_XCRS", 56, Optional, "AVX state cannot be saved", ""},
	{"KVM_CAP_DEBUGREGS", 50, Optional, "debug registers cannot be saved", ""},
	{"KVM_CAP_ADJUST_CLOCK", 39, Optional, "guest time cannot be saved", ""},
	{"KVM_CAP_KVMCLOCK_CTRL", 76, Optional, "guest watchdogs may bark after a pause", ""},
	{"KVM_CAP_GET_TSC_KHZ", 61, Optional, "the guest's TSC frequency is unknown", ""},
	{"KVM_CAP_TSC_CONTROL", 60, Optional, "a saved guest cannot move to a host of another TSC frequency", fixCPU},
	{"KVM_CAP_SIGNAL_MSI", 77, Optional, "no message-signalled interrupts from user space", ""},
	{"KVM_CAP_IRQ_ROUTING", 25, Optional, "interrupt lines cannot be rerouted", ""},
	{"KVM_CAP_READONLY_MEM", 81, Optional, "no read-only guest memory", ""},
	{"KVM_CAP_SET_GUEST_DEBUG", 23, Optional, "guests cannot be single-stepped", ""},
	{"KVM_CAP_EXIT_ON_EMULATION_FAILURE", 204, Optional, "some emulation failures reach the guest as an exception instead", ""},
	{"KVM_CAP_X86_TRIPLE_FAULT_EVENT", 218, Optional, "a pending triple fault is lost when state is saved", ""},
	{"KVM_CAP_EXCEPTION_PAYLOAD", 164, Optional, "a pending exception's CR2 or DR6 may be lost when state is saved", ""},
	{"KVM_CAP_X86_NOTIFY_VMEXIT", 219, Optional, "a guest that blocks events inside the CPU is not noticed", fixCPU},
	{"KVM_CAP_X86_BUS_LOCK_EXIT", 193, Optional, "guest bus locks are not noticed", fixCPU},
	{"KVM_CAP_NESTED_STATE", 157, Optional, "guests that run guests cannot be saved", fixCPU},
	{"KVM_CAP_BINARY_STATS_FD", 203, Optional, "no kernel statistics of a VM", ""},
	{"KVM_CAP_MEMORY_FAULT_INFO", 232, Optional, "memory faults carry no address", ""},
	{"KVM_CAP_GUEST_MEMFD", 234, Optional, "no guest-private memory", ""},
}

// What to do about a missing capability.
const (
	fixKernel = "use a newer host kernel; inside a VM, a newer kernel on its host too"
	fixCPU    = "it takes a CPU that has it, and inside a VM a host that passes it on"
)

// capabilities asks for all of them. A nil System has none. Where guest kernel code is emulated,
// watching MSRs is what makes 64-bit kernels run at all.
func capabilities(sys *kvm.System, emulated bool) []Check {
	checks := make([]Check, 0, len(known))
	for _, k := range known {
		c := Check{Name: k.name, Needed: k.needed}
		if emulated && (k.number == 188 || k.number == 189) {
			c.Needed = Required
		}
		if sys != nil {
			if n, err := sys.Check(k.number); err == nil {
				c.Found, c.Value = n > 0, n
			}
		}
		if !c.Found {
			c.Cost, c.Fix = k.cost, cmp.Or(k.fix, fixKernel)
		}
		checks = append(checks, c)
	}
	return checks
}
