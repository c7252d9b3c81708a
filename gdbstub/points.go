package gdbstub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/qenex/qenex-kernel/vcpu"
)

const int3 = 0xcc

// maxPoints bounds the breakpoints in memory.
const maxPoints = 4096

// patch is a breakpoint in the guest's memory.
type patch struct {
	gpa uint64 // where the byte is, whatever the page tables say later
	was byte
}

// points are breakpoints and watchpoints. The session's goroutine changes them while no vCPU runs.
type points struct {
	memory  ram
	watches []vcpu.Watch

	mu      sync.Mutex
	patches map[uint64]patch // by linear address; protected by mu, for vCPUs look into it
}

func (p *points) init(memory ram) {
	p.memory, p.patches = memory, map[uint64]patch{}
}

// owns says whether the INT3 at a linear address is one of ours. It is called on the threads of vCPUs.
func (p *points) owns(addr uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.patches[addr]
	return ok
}

// watched returns the hardware breakpoint of a number that a vCPU gave.
func (p *points) watched(i int) (vcpu.Watch, bool) {
	if i < 0 || i >= len(p.watches) {
		return vcpu.Watch{}, false
	}
	return p.watches[i], true
}

// add puts an INT3 at a linear address.
func (p *points) add(addr uint64, c cpu) error {
	if p.owns(addr) {
		return nil
	}
	if len(p.patches) == maxPoints {
		return fmt.Errorf("more than %d breakpoints", maxPoints)
	}
	gpa, err := c.Translate(addr)
	if err != nil {
		return fmt.Errorf("breakpoint: %w; before the guest has mapped its code, use a hardware breakpoint", err)
	}
	var b [1]byte
	if err := p.memory.Read(gpa, b[:]); err != nil {
		return err
	}
	for _, other := range p.patches {
		if other.gpa == gpa { // the same byte by another address
			b[0] = other.was
		}
	}
	if err := p.memory.Write(gpa, []byte{int3}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.patches[addr] = patch{gpa, b[0]}
	return nil
}

// remove takes it away again; the byte comes back with the last address that has a breakpoint there.
func (p *points) remove(addr uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine, ok := p.patches[addr]
	if !ok {
		return nil
	}
	delete(p.patches, addr)
	for _, other := range p.patches {
		if other.gpa == mine.gpa {
			return nil
		}
	}
	return p.memory.Write(mine.gpa, []byte{mine.was})
}

// clear removes all.
func (p *points) clear() error {
	p.watches = nil
	var errs []error
	for addr := range p.patches {
		errs = append(errs, p.remove(addr))
	}
	return errors.Join(errs...)
}

// hide puts what the guest had into bytes read at addr.
func (p *points) hide(addr uint64, b []byte) {
	for at, patch := range p.patches {
		if off := at - addr; off < uint64(len(b)) {
			b[off] = patch.was
		}
	}
}

// keep takes out of bytes to be written at addr what is to come back when breakpoints go.
func (p *points) keep(addr uint64, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, patch := range p.patches {
		if off := at - addr; off < uint64(len(b)) {
			patch.was, b[off] = b[off], int3
			p.patches[at] = patch
		}
	}
}

// point is Z and z: "TYPE,ADDR,KIND". Types the protocol has and we have not are answered by nothing, which gdb understands.
func (s *stub) point(insert bool, text string) (string, bool) {
	typ, window, _ := strings.Cut(text, ",")
	if !slices.Contains([]string{"0", "1", "2", "3", "4"}, typ) {
		return "", true
	}
	window, _, _ = strings.Cut(window, ";") // conditions, which we did not ask for
	addr, size, err := twoNumbers(window)
	if err != nil {
		return problem(err), true
	}
	if typ == "0" && s.can.Breakpoint {
		if insert {
			return done(s.points.add(addr, s.cpus[s.at]))
		}
		return done(s.points.remove(addr))
	}
	w := vcpu.Watch{Addr: addr, Size: 1, Kind: vcpu.WatchExecute}
	works, what := s.can.Execute, "breakpoints"
	switch typ {
	case "2":
		w.Kind, w.Size, works, what = vcpu.WatchWrite, int(min(size, 9)), s.can.Data, "watchpoints"
	case "3", "4": // the processor knows no reads alone
		w.Kind, w.Size, works, what = vcpu.WatchAccess, int(min(size, 9)), s.can.Data, "watchpoints"
	}
	if !works {
		return problem(fmt.Errorf("the KVM of this host has no %s for guests; 'monitor' tells what it has", what)), true
	}
	return done(s.watch(insert, w))
}

// watch changes the list in the debug registers.
func (s *stub) watch(insert bool, w vcpu.Watch) error {
	i := slices.Index(s.points.watches, w)
	switch {
	case insert && i < 0:
		if len(s.points.watches) == vcpu.MaxWatches {
			return fmt.Errorf("a processor has %d hardware breakpoints, and all are in use", vcpu.MaxWatches)
		}
		if w.Size != 1 && w.Size != 2 && w.Size != 4 && w.Size != 8 || w.Addr%uint64(w.Size) != 0 {
			return fmt.Errorf("%d bytes at %#x: a debug register watches 1, 2, 4 or 8 bytes at a multiple of that", w.Size, w.Addr)
		}
		s.points.watches = append(slices.Clone(s.points.watches), w)
	case !insert && i >= 0:
		s.points.watches = slices.Delete(slices.Clone(s.points.watches), i, i+1)
	}
	return nil
}
