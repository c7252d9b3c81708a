package guestkernel

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
	"github.com/qenex/qenex-kernel/kvm"
)

// Memory slot numbers.
const (
	arenaSlot = 0 // and the following, one a step
	flushSlot = arenaSlot + arenaSize/arenaStep
	firstSlot = flushSlot + 1
)

// syncAll are the sets of registers that a vCPU is loaded with.
const syncAll = kvm.SyncRegs | kvm.SyncSregs | kvm.SyncEvents

// flushGPA is where a page comes and goes to make KVM forget everything: between the arena and the slots.
const flushGPA = 2 * arenaSize

// Mode says how contexts may run.
type Mode int

// Run modes.
const (
	ModeAuto     Mode = iota // exit-less where it is measured to pay
	ModeDirect               // an exit for each trap
	ModeExitless             // exit-less whenever a permit is free, whatever an exit costs and the program does
)

// Options of a Machine.
type Options struct {
	KVM  string // device, "" = /dev/kvm
	Mode Mode
}

// ErrUnsupported says that this KVM cannot carry native guests.
var ErrUnsupported = errors.New("this KVM cannot run native guests")

// Machine is the VM of one native guest.
type Machine struct {
	sys     *kvm.System
	vm      *kvm.VM
	arena   *arena
	windows *windows
	cpuid   []kvm.CPUIDEntry
	xcr0    uint64
	entry   ring0.Entry
	stub    *ring0.Stub

	core      []byte        // the core image, in the arena
	coreTable uint64        // gpa of the leaf table that maps it
	mem       tables        // the machine's own part of the arena
	probe     *AddressSpace // of the start: the core and nothing else

	exitCost  time.Duration // of one exit and re-entry, as measured at the start
	pauseCost time.Duration // of one PAUSE, likewise
	runners   chan *runner  // the free permits to run exit-less
	rest      atomic.Int64  // how many times nobody is to run exit-less, because it did not pay
	wanted    atomic.Bool   // a context would have liked a permit
	eager     bool          // ModeExitless

	mu      sync.Mutex
	cpus    []*vcpu       // all, by number; protected by mu
	byTID   map[int]*vcpu // direct vCPUs by the thread that owns them; protected by mu
	started []*runner     // with a thread; protected by mu
	closed  bool          // protected by mu

	stats counters
}

// New makes a VM with the core in it and one vCPU, finds out how SYSCALL arrives and what an exit costs. The caller closes
// it. Errors wrap ErrUnsupported, or those of kvm.OpenPath.
func New(o Options) (_ *Machine, err error) {
	if o.KVM == "" {
		o.KVM = "/dev/kvm"
	}
	m := &Machine{byTID: make(map[int]*vcpu), eager: o.Mode == ModeExitless}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.sys, err = kvm.OpenPath(o.KVM); err != nil {
		return nil, err
	}
	if n, err := m.sys.Check(kvm.CapSyncRegs); err != nil || n&syncAll != syncAll {
		return nil, fmt.Errorf("%w: it lacks KVM_CAP_SYNC_REGS (%d, %v): a newer host kernel has it", ErrUnsupported, n, err)
	}
	if m.cpuid, err = m.sys.SupportedCPUID(); err != nil {
		return nil, err
	}
	if m.xcr0, err = programCPUID(m.cpuid); err != nil {
		return nil, err
	}
	if m.vm, err = m.sys.CreateVM(); err != nil {
		return nil, err
	}
	if m.arena, err = newArena(); err != nil {
		return nil, err
	}
	m.arena.flush = m.flush
	m.arena.show = func(gpa, size uint64) error {
		return m.vm.SetMemory(arenaSlot+uint32(gpa/arenaStep), 0, gpa, m.arena.mem[gpa:gpa+size])
	}
	m.windows = newWindows(m.vm)
	if err := m.buildCore(); err != nil {
		return nil, err
	}
	if err := m.find(); err != nil {
		return nil, err
	}
	permits := 0
	if o.Mode == ModeExitless || o.Mode == ModeAuto && m.exitCost > exitlessPays {
		permits = runtime.NumCPU() / 2
	}
	m.runners = make(chan *runner, permits)
	for range permits {
		m.runners <- &runner{m: m}
	}
	return m, nil
}

// buildCore writes the core image and the leaf table that maps it in every address space.
func (m *Machine) buildCore() error {
	if err := m.arena.more(); err != nil {
		return err
	}
	m.arena.next = (ring0.CorePages*ring0.PageSize + chunkSize - 1) &^ (chunkSize - 1)
	m.core = m.arena.mem[:ring0.CorePages*ring0.PageSize]
	ring0.WriteTables(m.core)
	m.mem.arena = m.arena
	var err error
	m.coreTable, err = m.mem.NewTable()
	return err
}

// mapCore maps the core image for the given kind of syscall entry.
func (m *Machine) mapCore(e ring0.Entry) {
	leaf := m.mem.Table(m.coreTable)
	for n := range ring0.CorePages {
		leaf[n].Store(uint64(n)*ring0.PageSize | pageBits(ring0.PageRights(n, e)) | pagetable.Present | 0x60)
	}
}

// Entry returns how SYSCALL arrives on this KVM.
func (m *Machine) Entry() ring0.Entry { return m.entry }

// ExitCost returns what one exit from the VM and the re-entry cost when the machine was made.
func (m *Machine) ExitCost() time.Duration { return m.exitCost }

// flush makes KVM, and every CPU, forget all translations: that is what removing a memory slot does.
func (m *Machine) flush() error {
	m.stats.flushAll.Add(1)
	page := m.arena.mem[:ring0.PageSize] // never read there: the gpa is in no page table
	if err := m.vm.SetMemory(flushSlot, 0, flushGPA, page); err != nil {
		return err
	}
	return m.vm.SetMemory(flushSlot, 0, flushGPA, nil)
}

// Close ends all runners and frees the VM. No context may run any more.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	cpus, started := m.cpus, m.started
	m.mu.Unlock()
	for _, n := range started {
		n.stop()
	}
	var errs []error
	for _, v := range cpus {
		errs = append(errs, v.cpu.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	if m.windows != nil {
		errs = append(errs, m.windows.close())
	}
	if m.arena != nil {
		errs = append(errs, unix.Munmap(m.arena.mem))
	}
	if m.sys != nil {
		errs = append(errs, m.sys.Close())
	}
	return errors.Join(errs...)
}
