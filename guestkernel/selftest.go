package guestkernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/guestkernel/internal/tinyprog"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// Figures are what SelfTest measured. All times are in nanoseconds.
type Figures struct {
	Entry        string  `json:"syscall_entry"`       // privilege level at which SYSCALL arrives: CPL0 or CPL3
	MakeNS       float64 `json:"make_vm_ns"`          // New
	CallNS       float64 `json:"call_ns"`             // one system call by an exit, with all that Run does
	ExitlessNS   float64 `json:"exitless_call_ns"`    // one without; 0 if the host has one CPU only
	SwitchNS     float64 `json:"context_switch_ns"`   // median of the core's context switch, two RDTSC included
	SwitchMeanNS float64 `json:"context_switch_mean"` // of the whole run, with the program's own bookkeeping
}

// Numbers of calls and switches that SelfTest makes.
const (
	selfCalls    = 3000
	selfSwitches = 1_000_000
)

// SelfTest runs tiny programs in machines of their own: one that prints, one that makes system calls in each run mode, and one that switches
// contexts. An error says that native guests do not work here.
func SelfTest(o Options) (f Figures, err error) {
	for _, mode := range []Mode{ModeDirect, ModeExitless} {
		o.Mode = mode
		if err := selfTest(o, &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

func selfTest(o Options, f *Figures) (err error) {
	begin := time.Now()
	m, err := New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	f.Entry, f.MakeNS = m.entry.String(), float64(time.Since(begin))
	c := m.NewContext()
	defer c.Release()

	hello, err := m.NewTiny(tinyprog.Code(tinyprog.Hello))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hello.Close()) }()
	var out strings.Builder
	hello.Out = &out
	if _, err := hello.Run(c, &ring0.Regs{}); err != nil || out.String() != "hello\n" {
		return fmt.Errorf("the first program printed %q: %w", out.String(), err)
	}
	c.Leave()

	clock, err := m.NewTiny(tinyprog.Code(tinyprog.Clock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clock.Close()) }()
	begin = time.Now()
	if _, err := clock.Run(c, &ring0.Regs{RDI: selfCalls}); err != nil {
		return err
	}
	perCall := float64(time.Since(begin)) / selfCalls
	c.Leave()
	if o.Mode == ModeDirect {
		f.CallNS = perCall
		return nil
	}
	if m.Stats().Exitless > 0 {
		f.ExitlessNS = perCall
	}

	khz, err := m.cpus[0].cpu.TSCKHz()
	if err != nil {
		return err
	}
	swap, err := m.NewTiny(tinyprog.Code(tinyprog.Switch))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, swap.Close()) }()
	begin = time.Now()
	h, err := runSwitches(swap, c, selfSwitches)
	if err != nil {
		return err
	}
	f.SwitchMeanNS = float64(time.Since(begin)) / selfSwitches
	f.SwitchNS = float64(h.median()) * 1e6 / float64(khz)
	c.Leave()
	return nil
}

// histogram is what the Switch program leaves: switches by duration in units of 8 TSC ticks.
type histogram struct {
	counts [4096]uint32
	total  int
}

// median is in TSC ticks.
func (h *histogram) median() int {
	seen := 0
	for i, n := range h.counts {
		if seen += int(n); seen*2 >= h.total {
			return i * 8
		}
	}
	return 0
}

// runSwitches runs the Switch program for n switches.
func runSwitches(p *Tiny, c *Context, n uint64) (*histogram, error) {
	const (
		shared = 0x10000 // offsets in the program's memory
		areaA  = 0x11000
		areaB  = 0x12000
		counts = 0x20000
		stackB = 0x40000
	)
	put := func(off int, v uint64) { binary.LittleEndian.PutUint64(p.mem[off:], v) }
	put(shared+8, n+1)
	put(shared+16, ring0.SwitchEntry)
	fsA, fsB := uint64(0x1000), uint64(0x2000)
	put(stackB, TinyCode) // where the other context begins
	for i, v := range []uint64{TinyCode + counts, 0, TinyCode + areaB, TinyCode + areaA, fsB, TinyCode + shared, TinyCode + stackB, fsB, 0x037F<<32 | 0x1F80} {
		put(areaB+8*i, v)
	}
	wrong, err := p.Run(c, &ring0.Regs{
		RBX: TinyCode + counts, R12: TinyCode + areaA, R13: TinyCode + areaB, R14: fsA, R15: TinyCode + shared, FSBase: fsA,
	})
	if err != nil {
		return nil, err
	}
	if wrong != 0 {
		return nil, fmt.Errorf("context switch: %d times the wrong FS base", wrong)
	}
	h := new(histogram)
	if err := binary.Read(bytes.NewReader(p.mem[counts:]), binary.LittleEndian, &h.counts); err != nil {
		return nil, err
	}
	h.counts[4095]-- // the first look at the clock measures nothing
	for _, n := range h.counts {
		h.total += int(n)
	}
	return h, nil
}
