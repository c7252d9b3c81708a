package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/tpm/crb"
	"github.com/qenex/qenex-kernel/vcpu/cpuid"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// Limits of a machine.
const (
	MinMemory = 32 * memmap.MiB
	MaxCPUs   = 64
)

// ErrConfig says that a machine cannot be built as configured; the text says which setting and what to do.
var ErrConfig = errors.New("bad machine configuration")

// Tables says how the machine describes itself to the kernel.
type Tables int

// Kinds of firmware tables.
const (
	ACPI    Tables = iota // hardware-reduced ACPI
	MPTable               // an MP table only, for kernels without ACPI
	NoTable               // nothing
)

var tableNames = [...]string{"acpi", "mp", "none"}

func (t Tables) String() string { return tableNames[t] }

// ParseTables reads "acpi", "mp" or "none".
func ParseTables(s string) (Tables, error) {
	for i, name := range tableNames {
		if s == name {
			return Tables(i), nil
		}
	}
	return 0, fmt.Errorf("%w: firmware tables %q; they are acpi, mp or none", ErrConfig, s)
}

// Config describes a machine.
type Config struct {
	Kernel  string    // path of a bzImage or vmlinux
	Initrds []string  // paths, joined in order
	Cmdline string    // kernel command line, complete but for Hints
	Hints   bool      // on a software KVM, put SoftwareHints before Cmdline
	Boot    boot.Mode // way into the kernel
	Memory  uint64    // RAM in bytes, MinMemory to what the host has, a multiple of the page size
	CPUs    int       // 1 to MaxCPUs
	CPU     cpuid.Model
	Tables  Tables

	Virtio    []virtio.Device // at most 15 with MMIO, 31 with PCI; started by their drivers, stopped with the machine, in one machine at a time
	Transport Transport       // how the guest reaches them

	// TPM executes the commands of the guest's TPM; nil: it has none. The guest finds it with ACPI only. It is started already and
	// stays the caller's; no command is under way once Wait has returned, or Close.
	TPM crb.TPM

	Heal bool // complete instructions and arm the SYSCALL shim where KVM needs it

	Console io.Writer // gets what the guest writes to COM1; nil drops it
	Input   io.Reader // is fed to COM1; nil is no input. The caller ends its Read when the machine stops.
	KVM     string    // device path; "" is /dev/kvm

	// Marks are names and texts: when the text first appears on the console, the name becomes a milestone.
	Marks map[string]string
}

// SoftwareHints are kernel parameters that keep Linux away from instructions which a software KVM emulates
// wrongly or not at all, and from what is needlessly slow there: pci=off because the machine has no PCI bus to be searched; with
// Transport PCI it is left out.
const SoftwareHints = noPCI + "noxsave clearcpuid=smap,popcnt,erms,fsrm no_timer_check tsc=reliable" +
	" GODEBUG=cpu.avx=off,cpu.avx2=off,cpu.avx512f=off" // into init's environment: without XSAVE no process may rely on AVX registers

// noPCI keeps Linux from looking for PCI. It is the first of SoftwareHints.
const noPCI = "pci=off "

// hints returns SoftwareHints for this machine.
func (m *Machine) hints() string {
	if m.cfg.Transport == PCI {
		return strings.TrimPrefix(SoftwareHints, noPCI)
	}
	return SoftwareHints
}

// check validates what can be without opening anything.
func (c *Config) check() error {
	switch {
	case c.Kernel == "":
		return fmt.Errorf("%w: no kernel; name a bzImage or vmlinux", ErrConfig)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("%w: %d CPUs; a machine has 1 to %d", ErrConfig, c.CPUs, MaxCPUs)
	case c.Memory < MinMemory:
		return fmt.Errorf("%w: %d MiB of memory; a machine has at least %d", ErrConfig, c.Memory/memmap.MiB, MinMemory/memmap.MiB)
	case c.Memory%memmap.PageSize != 0:
		return fmt.Errorf("%w: %d bytes of memory; it must be a multiple of %d", ErrConfig, c.Memory, memmap.PageSize)
	case c.TPM != nil && c.Tables != ACPI:
		return fmt.Errorf("%w: a TPM without ACPI tables; a guest finds it there only", ErrConfig)
	case strings.ContainsAny(c.Cmdline, "\x00\n"):
		return fmt.Errorf("%w: the kernel command line holds a NUL or a newline", ErrConfig)
	}
	host, err := hostMemory()
	if err != nil {
		return err
	}
	if c.Memory > host {
		return fmt.Errorf("%w: %d MiB of memory; this host has %d", ErrConfig, c.Memory/memmap.MiB, host/memmap.MiB)
	}
	return nil
}

// hostMemory returns the host's RAM in bytes.
func hostMemory() (uint64, error) {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return uint64(s.Totalram) * uint64(s.Unit), nil
}

// openFile opens a regular file for reading and returns its size in bytes.
func openFile(what, path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %s: %w", ErrConfig, what, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%w: %s: %w", ErrConfig, what, err)
	}
	return f, st.Size(), nil
}
