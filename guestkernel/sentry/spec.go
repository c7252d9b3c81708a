package sentry

import (
	"os"
	"syscall"

	"github.com/qenex/qenex-kernel/guestkernel"
)

// Net says which network the guest has.
type Net int

// The networks a guest can have.
const (
	NetNone         Net = iota // loopback inside the sandbox only
	NetUser                    // NAT to the host's network without privileges; the host's own loopback is not reachable
	NetHostLoopback            // NetUser, and 10.0.2.2 reaches the host's 127.0.0.1
)

// MountType names the kind of a Mount.
type MountType string

// The kinds of Mount.
const (
	MountBind   MountType = "bind"     // a host file or directory
	MountTmpfs  MountType = "tmpfs"    // memory; options size=, mode=
	MountProc   MountType = "proc"     // the sandbox's processes
	MountSysfs  MountType = "sysfs"    // a small /sys
	MountDev    MountType = "devtmpfs" // null, zero, full, random, urandom, tty, ptmx
	MountDevPts MountType = "devpts"   // pseudo-terminals
	MountMqueue MountType = "mqueue"   // POSIX message queues
	MountCgroup MountType = "cgroup2"  // an empty cgroup tree
)

// Mount is one mount of the sandbox beside its root.
type Mount struct {
	Type     MountType
	Source   string   // MountBind: host path, file or directory; otherwise ignored
	Target   string   // absolute path inside; made if missing
	ReadOnly bool     // no write, whatever the file modes say
	Options  []string // tmpfs: "size=N", "mode=OCTAL"; all: "noexec", "nosuid", "nodev"
}

// Capabilities are Linux capability sets as bit masks (bit n is capability n of linux/capability.h).
type Capabilities struct {
	Bounding, Effective, Permitted, Inheritable uint64
}

// Rlimit is one resource limit; Type is a RLIMIT_ number of Linux.
type Rlimit struct {
	Type       int
	Soft, Hard uint64
}

// Spec says what a sandbox is made of. The zero value of each field is a sound default except Args.
type Spec struct {
	Args []string // program and arguments; Args[0] without a slash is searched in PATH of Env inside the sandbox
	Env  []string // NAME=value; nothing is added
	Dir  string   // working directory inside; "" means "/"

	UID, GID     uint32
	Groups       []uint32
	Capabilities *Capabilities // nil: for UID 0 those of a container, otherwise none
	NoNewPrivs   bool
	Umask        *uint32 // nil: 022
	OOMScoreAdj  int32

	Hostname   string            // "" means "qenex"
	Domainname string            // "" means "(none)"
	Sysctl     map[string]string // settings below /proc/sys, by their names with dots; those that the Sentry does not have are an error

	Root         string // host directory, "" means "/"
	RootWritable bool   // writes go to the host directory
	RootReadonly bool   // no write at all; else: a throw-away layer in memory above the directory
	// Mounts are made in order, after the root. A Spec without a mount at /proc, /sys, /dev or /tmp gets the
	// usual one (proc, sysfs, devtmpfs with pts and shm, tmpfs), unless NoDefaultMounts is set.
	Mounts          []Mount
	NoDefaultMounts bool
	MaskedPaths     []string // hidden: an empty directory or file is mounted above, read-only
	ReadonlyPaths   []string // remounted read-only

	Net Net

	// Memory is what the guest is told it has, in bytes; it is killed soon after it takes more (see OutOfMemory). 0: what the host has.
	Memory uint64
	CPUs   int // CPUs the guest sees; 0: the host's

	TTY     bool // Files[0] is a terminal and becomes the controlling one of the first program
	Rlimits []Rlimit
	Files   [3]*os.File // stdin, stdout, stderr; nil: the host process's own. They stay open, and the caller's

	Device string           // KVM device; "" means /dev/kvm
	Mode   guestkernel.Mode // how programs run; what pays is found out unless a test wants one mode
	VM     *VM              `json:"-"` // from StartVM; nil: New makes one of Device and Mode
	Debug  string           // file that gets the Sentry's log; "" means no log
	Strace bool             // log every system call (to Debug)
	Audit  *Audit           `json:"-"` // nil: system calls are told to nobody

	// Restore, if not nil, is a file that Save wrote; New then builds the kernel from it, and Start resumes it.
	// Args, Env, UID and the like are ignored, Root, Mounts and Files must be what they were.
	Restore *os.File
}

// Status is how a process ended.
type Status struct {
	Code   int            // exit code 0-255; 0 if Signal is set
	Signal syscall.Signal // the signal that killed it, or 0
}

// Shell gives the status as a shell's $?: the code, or 128 + signal.
func (s Status) Shell() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code & 0xff
}

// ExecSpec is a further program in a running sandbox.
type ExecSpec struct {
	Args         []string
	Env          []string
	Dir          string
	UID, GID     uint32
	Groups       []uint32
	Capabilities *Capabilities // as in Spec
	NoNewPrivs   bool
	TTY          bool
	Rlimits      []Rlimit
	Files        [3]*os.File // nil: an empty file to read, nowhere to write
}

// Process is one process of the sandbox.
type Process struct {
	PID, PPID int // as seen inside
	Threads   int
	State     string // as in /proc/PID/stat: R, S, D, T, Z
	Args      []string
	UID       uint32
}

// Stats are counters since Start.
type Stats struct {
	Processes    int    // now
	Threads      int    // now
	MemoryBytes  uint64 // guest memory in use now; after the end, the most that there was when a program ended
	Syscalls     uint64 // system calls of guest programs
	Exitless     uint64 // those of them that needed no exit
	Exits        uint64 // exits of vCPUs to the host
	Faults       uint64 // exceptions of guest programs, page faults first of all
	Kicks        uint64 // interruptions of running programs
	ModeChanges  uint64 // changes between exit-per-call and exit-less calls
	VCPUs        int    // made so far
	Spaces       int    // address spaces made so far
	RxBytes      uint64 // network, to the guest
	TxBytes      uint64 // network, from the guest
	CPUTimeNanos uint64 // of this host process, user and system
}
