package doctor

import (
	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// Report is everything that an examination found.
type Report struct {
	KVM KVM `json:"kvm"`
	// Measured is nil when no guest could be run.
	Measured *probe.Result `json:"measured,omitempty"`
	// Native is nil when native guests cannot run; NativeError says why.
	Native       *guestkernel.Figures `json:"native,omitempty"`
	NativeError  string               `json:"native_error,omitempty"`
	Capabilities []Check              `json:"capabilities"`
	Host         Host                 `json:"host"`
	Verdict      Verdict              `json:"verdict"`
	// RecommendedKernel is KernelStock, KernelLean, or empty when guests cannot run.
	RecommendedKernel string `json:"recommended_kernel,omitempty"`
}

// Recommended kernels.
const (
	KernelStock = "stock" // a distribution's own
	KernelLean  = "lean"  // built for few instructions: where guest kernel code is emulated
)

// Kind says what does the virtualizing.
type Kind string

// Kinds of KVM.
const (
	KindVMX      Kind = "hardware VMX"
	KindSVM      Kind = "hardware SVM"
	KindSoftware Kind = "software (page-table VM)"
	KindUnknown  Kind = "unknown"
)

// KVM is the KVM device.
type KVM struct {
	Path       string `json:"path"`
	Present    bool   `json:"present"`    // something is at Path
	Permission bool   `json:"permission"` // it may be opened for reading and writing
	Usable     bool   `json:"usable"`     // it speaks the KVM API
	API        int    `json:"api"`        // KVM_GET_API_VERSION; 0 when not usable
	Kind       Kind   `json:"kind"`
	Module     string `json:"module,omitempty"` // the kernel module that does it, where it can be told
	Nested     bool   `json:"nested"`           // this host is itself a guest
	Error      string `json:"error,omitempty"`
	Fix        string `json:"fix,omitempty"`
}

// Needed says how much QENEX needs something.
type Needed string

// Degrees of need.
const (
	Required    Needed = "required"    // no guest runs without it
	Performance Needed = "performance" // guests run, slower
	Optional    Needed = "optional"    // one function needs it
)

// Check is one thing looked for.
type Check struct {
	Name   string `json:"name"`
	Found  bool   `json:"found"`
	Value  int    `json:"value"`            // of a capability: what KVM_CHECK_EXTENSION says
	Detail string `json:"detail,omitempty"` // what was found, in words
	Needed Needed `json:"needed"`
	Cost   string `json:"cost,omitempty"` // what its absence costs; set when it is missing
	Fix    string `json:"fix,omitempty"`  // what to do about it; set when it is missing
}

// Host is the machine around the KVM.
type Host struct {
	CPUs               int        `json:"cpus"` // that this process may use
	MemoryTotalKiB     uint64     `json:"memory_total_kib"`
	MemoryAvailableKiB uint64     `json:"memory_available_kib"`
	THP                string     `json:"transparent_huge_pages"`       // always, madvise, never
	THPShared          string     `json:"transparent_huge_pages_shmem"` // always, within_size, advise, never, deny, force
	HugePools          []HugePool `json:"huge_page_pools"`
	Features           []Check    `json:"features"`
}

// HugePool is one pool of preallocated huge pages.
type HugePool struct {
	PageKiB uint64 `json:"page_kib"`
	Total   uint64 `json:"total"`
	Free    uint64 `json:"free"`
}

// Verdict is the answer.
type Verdict struct {
	CanRun  bool     `json:"can_run"`
	Reasons []string `json:"reasons"` // why not; empty when guests can run
	Advice  []string `json:"advice"`  // what would make it better
}
