package vmm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// Report is what a machine's run was like. Times are nanoseconds, memory is KiB.
type Report struct {
	Outcome  string `json:"outcome"`
	Detail   string `json:"detail,omitempty"`
	ExitCode int    `json:"exit_code"`
	Boots    int    `json:"boots"` // machines built in this run, more than 1 after restarts

	Host  probe.QuickResult `json:"host"`
	Guest GuestReport       `json:"guest"`

	TotalNS    time.Duration `json:"total_ns"` // from the command's start
	Milestones []Milestone   `json:"milestones"`

	Exits       map[string]uint64 `json:"exits"`       // by reason, all vCPUs
	Completions map[string]uint64 `json:"completions"` // instructions finished in user space, by mnemonic
	Shim        *vcpu.ShimStatus  `json:"syscall_shim,omitempty"`

	Virtio []VirtioReport `json:"virtio,omitempty"`

	UnclaimedPortIO UnclaimedReport `json:"unclaimed_port_io"`
	UnclaimedMMIO   UnclaimedReport `json:"unclaimed_mmio"`
	ConsoleDropped  uint64          `json:"console_bytes_dropped"`

	Memory MemoryReport `json:"memory"`
}

// GuestReport says what was booted, and how.
type GuestReport struct {
	Kernel  string `json:"kernel"`
	Format  string `json:"format"`
	Version string `json:"version,omitempty"`
	Boot    string `json:"boot"`
	Tables  string `json:"tables"`
	Cmdline string `json:"cmdline"`
	CPUs    int    `json:"cpus"`
	Memory  uint64 `json:"memory_kib"`
}

// VirtioReport is how a virtio device fared.
type VirtioReport struct {
	Name     string `json:"name"`
	Type     uint32 `json:"type"`             // virtio 1.2, 5
	Status   byte   `json:"status"`           // 0 before a driver came, and after the machine has ended
	Failures uint64 `json:"failures"`         // times it asked its driver for a reset
	Reason   string `json:"reason,omitempty"` // for the last of these
}

// UnclaimedReport counts accesses to addresses without a device.
type UnclaimedReport struct {
	Reads  uint64 `json:"reads"`
	Writes uint64 `json:"writes"`
}

// MemoryReport is host memory in use. Guest memory is counted once, where it is.
type MemoryReport struct {
	VMM   uint64 `json:"vmm_kib"`   // resident in the process beside guest RAM
	Guest uint64 `json:"guest_kib"` // of guest RAM, what has been touched
}

// Report returns what the run has been like so far. The machine must not be closed.
func (m *Machine) Report() (*Report, error) {
	r := &Report{
		Host: m.host,
		Guest: GuestReport{
			Kernel: m.cfg.Kernel, Format: m.kernel.Format(), Version: m.kernel.Version(),
			Boot: m.entry.Mode.String(), Tables: m.cfg.Tables.String(), Cmdline: m.cmdline,
			CPUs: m.cfg.CPUs, Memory: m.cfg.Memory / memmap.KiB,
		},
		Exits:          map[string]uint64{},
		Completions:    map[string]uint64{},
		ConsoleDropped: m.serial.Dropped(),
	}
	m.mu.Lock()
	r.Milestones = slices.Clone(m.milestones)
	if m.outcome != nil {
		r.Outcome, r.Detail = m.outcome.Cause.String(), m.outcome.Detail
	}
	m.mu.Unlock()
	for _, v := range m.vcpus {
		s := v.Stats()
		for name, n := range s.Exits {
			r.Exits[name] += n
		}
		for op, n := range s.Completions {
			r.Completions[op] += n
		}
	}
	if m.shim != nil {
		s := m.shim.Status()
		r.Shim = &s
	}
	for _, a := range m.virtio {
		r.Virtio = append(r.Virtio, a.report())
	}
	r.UnclaimedPortIO.Reads, r.UnclaimedPortIO.Writes = m.Ports.Unclaimed()
	r.UnclaimedMMIO.Reads, r.UnclaimedMMIO.Writes = m.MMIO.Unclaimed()
	touched, err := m.mem.Touched()
	if err != nil {
		return nil, err
	}
	r.Memory.Guest = touched / memmap.KiB
	r.Memory.VMM, err = residentKiB()
	return r, err
}

// residentKiB reads this process's resident memory but for shared mappings, of which guest RAM is the only
// one of any size.
func residentKiB() (uint64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total uint64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var n uint64
		for _, field := range []string{"RssAnon:", "RssFile:"} {
			if rest, ok := strings.CutPrefix(lines.Text(), field); ok {
				if _, err := fmt.Sscan(rest, &n); err != nil {
					return 0, fmt.Errorf("/proc/self/status: %q: %w", lines.Text(), err)
				}
				total += n
			}
		}
	}
	return total, lines.Err()
}

// Text prints the report for people.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "outcome     %s", r.Outcome)
	if r.Detail != "" {
		fmt.Fprintf(w, " (%s)", r.Detail)
	}
	fmt.Fprintf(w, ", exit code %d\n", r.ExitCode)
	fmt.Fprintf(w, "guest       %s (%s), entered as %s, %d CPUs, %d MiB, tables %s\n", r.Guest.Kernel, r.Guest.Format, r.Guest.Boot, r.Guest.CPUs, r.Guest.Memory/1024, r.Guest.Tables)
	fmt.Fprintf(w, "cmdline     %s\n", r.Guest.Cmdline)
	for _, m := range r.Milestones {
		fmt.Fprintf(w, "milestone   %10.3f ms  %s\n", float64(m.After)/1e6, m.Name)
	}
	counts(w, "exits", r.Exits)
	counts(w, "completed", r.Completions)
	if r.Shim != nil {
		fmt.Fprintf(w, "shim        installed %v at %#x for LSTAR %#x %s\n", r.Shim.Installed, r.Shim.Stub, r.Shim.LSTAR, r.Shim.Error)
	}
	for _, v := range r.Virtio {
		fmt.Fprintf(w, "%-11s type %d, %d failures %s\n", v.Name, v.Type, v.Failures, v.Reason)
	}
	fmt.Fprintf(w, "unclaimed   port reads %d, writes %d; MMIO reads %d, writes %d\n", r.UnclaimedPortIO.Reads, r.UnclaimedPortIO.Writes, r.UnclaimedMMIO.Reads, r.UnclaimedMMIO.Writes)
	fmt.Fprintf(w, "memory      %d KiB of the VMM, %d KiB of the guest touched\n", r.Memory.VMM, r.Memory.Guest)
}

func counts(w io.Writer, what string, m map[string]uint64) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if m[a] != m[b] {
			return int(int64(m[b]) - int64(m[a]))
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		fmt.Fprintf(w, "%-11s %10d     %s\n", what, m[name], name)
	}
}
