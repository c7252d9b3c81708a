package vmm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/tpm/crb"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/vmm/acpi"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// Machine is one virtual machine. New builds it, Start runs it, Wait says how it ended, Close
// frees it. Methods may be called from any goroutine.
type Machine struct {
	// Ports and MMIO are the buses; devices may be registered on them at any time.
	Ports, MMIO *device.Bus

	cfg     Config
	cmdline string // what the kernel gets
	host    probe.QuickResult

	sys    *kvm.System
	vm     *kvm.VM
	mem    *memmap.Memory
	vcpus  []*vcpu.VCPU
	shim   *vcpu.SyscallShim // nil when this KVM does not need it
	kernel *boot.Kernel
	entry  *boot.Entry

	serial       *device.Serial
	rtc          *device.RTC
	i8042        *device.I8042
	portA        *device.PortA
	resetControl *device.ResetControl

	tpm *crb.Device // nil without a TPM

	virtio []*attached // in the order of Config.Virtio
	pci    *pci.Bus    // nil with Transport MMIO
	routes routes
	pins   pins

	console   watcher
	panicSeen atomic.Bool // "Kernel panic" was on the console
	events    stream
	began     time.Time

	input     sync.WaitGroup // the goroutine that feeds Config.Input
	stopInput context.CancelFunc

	mu         sync.Mutex
	milestones []Milestone // protected by mu
	outcome    *Outcome    // protected by mu; nil while the machine can run

	ended chan struct{} // closed when outcome is set
}

// Milestone is a point of a machine's life and when it was reached, from the beginning of New.
type Milestone struct {
	Name  string        `json:"name"`
	After time.Duration `json:"ns"`
}

// New builds a machine: everything is allocated, loaded and checked, nothing runs. The errors it
// returns wrap ErrConfig, one of boot's, or one of kvm's.
func New(cfg Config) (m *Machine, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m = &Machine{
		Ports: device.NewPortBus(),
		MMIO:  device.NewMMIOBus(),
		cfg:   cfg,
		began: time.Now(),
		ended: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
			m = nil
		}
	}()
	m.console = watcher{out: cfg.Console, first: func() { m.milestone("first console byte") }}
	m.console.marks = append(m.console.marks, mark{[]byte("Kernel panic - not syncing"), func() { m.panicSeen.Store(true) }})
	for name, text := range cfg.Marks {
		m.console.marks = append(m.console.marks, mark{[]byte(text), func() { m.milestone(name) }})
	}
	path := cfg.KVM
	if path == "" {
		path = "/dev/kvm"
	}
	if m.sys, err = kvm.OpenPath(path); err != nil {
		return m, err
	}
	if m.host, err = probe.Quick(m.sys); err != nil {
		return m, err
	}
	if m.vm, err = m.sys.CreateVM(); err != nil {
		return m, err
	}
	if m.mem, err = memmap.New(cfg.Memory); err != nil {
		return m, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	// Memory and MSR filter come before the chips: these register I/O devices, and behind that the kernel would make
	// both wait for a grace period, 5 to 15 ms.
	if err := m.mem.Slots(m.vm, 0); err != nil {
		return m, err
	}
	if m.cfg.Heal && m.host.Syscall == probe.ArrivesAtCPL3 {
		m.shim = new(vcpu.SyscallShim)
		if err := m.shim.Watch(m.vm); err != nil {
			return m, err
		}
	}
	if err := m.addChips(); err != nil {
		return m, err
	}
	if err := m.addDevices(); err != nil {
		return m, err
	}
	if err := m.addTPM(); err != nil {
		return m, err
	}
	if err := m.addVirtio(); err != nil {
		return m, err
	}
	if err := m.load(); err != nil {
		return m, err
	}
	if err := m.addVCPUs(); err != nil {
		return m, err
	}
	m.milestone("machine built")
	m.events.publish(EventCreated, -1, "")
	return m, nil
}

// What Intel's real-mode emulation needs in the MMIO hole: one page, and three pages.
const (
	identityMapGPA = 0xFFFBC000
	tssGPA         = 0xFFFBD000
)

// addChips makes the in-kernel PICs, IOAPIC, local APICs and PIT.
func (m *Machine) addChips() error {
	if err := m.vm.SetIdentityMapAddr(identityMapGPA); err != nil {
		return err
	}
	if err := m.vm.SetTSSAddr(tssGPA); err != nil {
		return err
	}
	if err := m.vm.CreateIRQChip(); err != nil {
		return err
	}
	return m.vm.CreatePIT2(true)
}

// load reads kernel and initrds into guest memory and writes the firmware tables.
func (m *Machine) load() error {
	file, size, err := openFile("kernel", m.cfg.Kernel)
	if err != nil {
		return err
	}
	defer file.Close()
	if m.kernel, err = boot.Open(file, size); err != nil {
		return fmt.Errorf("kernel %s: %w", m.cfg.Kernel, err)
	}
	m.cmdline = m.cfg.Cmdline
	if m.cfg.Hints && m.host.SoftwareKVM {
		m.cmdline = strings.TrimSpace(m.hints() + " " + m.cmdline)
	}
	if m.cfg.Tables != ACPI && m.cfg.Transport == MMIO {
		m.cmdline = strings.TrimSpace(m.mmioWords() + m.cmdline)
	}
	mode := m.cfg.Boot
	if mode == boot.Auto && m.host.SoftwareKVM && m.kernel.UnpacksItself() {
		mode = boot.Direct // unpacking is slow where kernel code is emulated: do it on the host
	}
	bc := boot.Config{Kernel: m.kernel, Mode: mode, Cmdline: m.cmdline, Fresh: true}
	for _, path := range m.cfg.Initrds {
		f, size, err := openFile("initrd", path)
		if err != nil {
			return err
		}
		defer f.Close()
		bc.Initrds = append(bc.Initrds, boot.Initrd{Name: path, R: f, Size: size})
	}
	if bc.RSDP, err = m.writeTables(); err != nil {
		return err
	}
	if m.entry, err = boot.Load(m.mem, bc); err != nil {
		return fmt.Errorf("kernel %s: %w", m.cfg.Kernel, err)
	}
	if m.kernel.Packed() && m.entry.Mode != boot.Linux64 {
		runtime.GC()         // the first only empties pools
		debug.FreeOSMemory() // the decompressor's window, tens of MiB, is not needed again
	}
	return nil
}

// writeTables describes the machine to the kernel and returns where the RSDP is. The MP table is there with
// ACPI too: Linux looks for it before it knows about ACPI, and where kernel code is emulated its search through all of
// the BIOS area takes seconds if there is none to be found early.
func (m *Machine) writeTables() (rsdp uint64, err error) {
	tables := acpi.Config{CPUs: m.cfg.CPUs, PowerButtonIRQ: powerButtonIRQ}
	if m.cfg.Transport == PCI {
		tables.PCI = m.pciTables()
	} else {
		tables.Devices = m.mmioTables()
	}
	if m.tpm != nil {
		tables.TPM = &acpi.TPM{Base: crb.Base, Size: crb.Size, ControlArea: crb.ControlArea}
	}
	if m.cfg.Tables == NoTable {
		return 0, nil
	}
	if err := acpi.WriteMPTable(m.mem, tables); err != nil {
		return 0, err
	}
	if m.cfg.Tables == MPTable {
		return 0, nil
	}
	return acpi.Write(m.mem, tables)
}

// milestone records that a point was reached now.
func (m *Machine) milestone(name string) {
	after := time.Since(m.began)
	m.mu.Lock()
	m.milestones = append(m.milestones, Milestone{name, after})
	m.mu.Unlock()
	m.events.publish(EventMilestone, -1, name)
}

// Memory returns the guest's RAM, which stays the machine's.
func (m *Machine) Memory() *memmap.Memory { return m.mem }

// VCPUs returns the machine's vCPUs, which stay the machine's.
func (m *Machine) VCPUs() []*vcpu.VCPU { return append([]*vcpu.VCPU(nil), m.vcpus...) }

// Cmdline returns the command line that the kernel gets, hints and all.
func (m *Machine) Cmdline() string { return m.cmdline }

// Close stops the machine and frees everything it holds. The reader given as Config.Input
// must have ended or end by itself.
func (m *Machine) Close() error {
	var errs []error
	for _, v := range m.vcpus {
		v.RequestStop()
	}
	for _, v := range m.vcpus {
		errs = append(errs, v.Close())
	}
	if m.stopInput != nil {
		m.stopInput()
		m.input.Wait()
	}
	errs = append(errs, m.stopVirtio())
	m.stopTPM()
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	errs = append(errs, m.closeVirtio())
	if m.mem != nil {
		errs = append(errs, m.mem.Close())
	}
	if m.sys != nil {
		errs = append(errs, m.sys.Close())
	}
	m.vcpus, m.vm, m.mem, m.sys = nil, nil, nil, nil
	return errors.Join(errs...)
}

// IsConfigError says whether err comes from what the user asked for or gave, rather than from the host.
func IsConfigError(err error) bool {
	for _, target := range []error{
		ErrConfig,
		boot.ErrNotKernel, boot.ErrTruncated, boot.ErrHeader, boot.ErrPayload, boot.ErrMode,
		boot.ErrMemory, boot.ErrCmdline, boot.ErrInitrd, boot.ErrRead,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
