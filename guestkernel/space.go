package guestkernel

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// Rights of a mapping. Reading is always allowed.
type Rights struct{ Write, Execute bool }

// ErrRange says that addresses or offsets are not page-aligned, or leave the programs' half of the address space.
var ErrRange = errors.New("bad range")

// AddressSpace is one program's view of memory. Its methods may be called from any goroutine.
type AddressSpace struct {
	m *Machine

	mu     sync.Mutex
	mem    tables                  // protected by mu
	tree   *pagetable.Tree         // protected by mu
	uses   map[uint64]int          // leaf entries by small window; protected by mu
	pages  [ring0.SlotPages]uint64 // gpa of slot pages, 0 = not there; protected by mu
	ahead  ahead                   // protected by mu
	zap    []span                  // scratch for Map and Unmap; protected by mu
	closed bool                    // protected by mu

	fault atomic.Uint64 // the address that a program of this space last faulted at
}

// span is part of guest-physical memory.
type span struct{ gpa, size uint64 }

// NewAddressSpace makes an empty address space. The caller releases it.
func (m *Machine) NewAddressSpace() (*AddressSpace, error) {
	as := &AddressSpace{m: m, mem: tables{arena: m.arena}, uses: make(map[uint64]int)}
	var err error
	if as.tree, err = pagetable.New(&as.mem); err != nil {
		return nil, err
	}
	if err := as.tree.Link(ring0.Base, 1, m.coreTable); err != nil {
		return nil, errors.Join(err, as.Release())
	}
	return as, nil
}

// Release frees the page tables. No context may run in the address space, now or later.
func (as *AddressSpace) Release() error {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.closed {
		return nil
	}
	as.closed = true
	as.m.awaitRunners(as)
	for gpa, n := range as.uses {
		as.m.windows.count(gpa, -n)
	}
	as.uses = nil
	return as.mem.arena.release(as.mem.chunks)
}

// Map shows length bytes of a file from offset on at addr, and replaces what was mapped there. With commit the host's memory is
// allocated at once.
func (as *AddressSpace) Map(addr uint64, b Backing, offset, length uint64, r Rights, commit bool) error {
	if (addr|offset|length)%pagetable.PageSize != 0 || length == 0 || addr >= pagetable.Limit || length > pagetable.Limit-addr || offset+length < offset {
		return fmt.Errorf("map %#x bytes at %#x: %w", length, addr, ErrRange)
	}
	bits := pagetable.User
	if r.Write {
		bits |= pagetable.Writable
	}
	if !r.Execute {
		bits |= pagetable.NoExec
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.closed {
		return fmt.Errorf("map %#x bytes at %#x: address space is released", length, addr)
	}
	as.zap = as.zap[:0]
	for length > 0 {
		win, err := as.m.windows.get(b, offset, r.Write)
		if err != nil {
			return errors.Join(err, as.forget())
		}
		at := offset % uint64(len(win.mem))
		n := min(length, uint64(len(win.mem))-at)
		if err := as.populate(win, at, n, addr, r.Write, commit); err != nil {
			return errors.Join(err, as.forget())
		}
		if !b.Large {
			as.use(win.gpa, int(n/pagetable.PageSize))
		}
		if err := as.tree.Map(addr, win.gpa+at, n/pagetable.PageSize, bits, as.gone); err != nil {
			return errors.Join(err, as.forget())
		}
		addr += n
		offset += n
		length -= n
	}
	return as.forget()
}

// Unmap removes what is mapped in length bytes at addr. When it returns, no context sees it any more.
func (as *AddressSpace) Unmap(addr, length uint64) error {
	if (addr|length)%pagetable.PageSize != 0 || addr > pagetable.Limit {
		return fmt.Errorf("unmap %#x bytes at %#x: %w", length, addr, ErrRange)
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.closed {
		return nil
	}
	as.zap = as.zap[:0]
	as.tree.Unmap(addr, min(length, pagetable.Limit-addr)/pagetable.PageSize, as.gone)
	return as.forget()
}

// gone notes a leaf entry that is no more. Neighbours in guest-physical memory become one span.
func (as *AddressSpace) gone(old uint64) {
	gpa := pagetable.Address(old)
	if w := gpa &^ (windowSize - 1); as.uses[w] > 0 {
		as.use(w, -1)
	}
	if n := len(as.zap); n > 0 && as.zap[n-1].gpa+as.zap[n-1].size == gpa {
		as.zap[n-1].size += pagetable.PageSize
		return
	}
	as.zap = append(as.zap, span{gpa, pagetable.PageSize})
}

func (as *AddressSpace) use(window uint64, n int) {
	as.uses[window] += n
	as.m.windows.count(window, n)
}

// forget flushes what gone has noted.
func (as *AddressSpace) forget() error {
	for _, s := range as.zap {
		if err := as.m.windows.forget(s.gpa, s.size); err != nil {
			return err
		}
		as.m.stats.flushes.Add(1)
	}
	return nil
}

// peek reads up to len(p) bytes of the program at addr, as far as they are mapped.
func (as *AddressSpace) peek(addr uint64, p []byte) int {
	as.mu.Lock()
	defer as.mu.Unlock()
	for n := range p {
		e := as.tree.Entry(addr)
		if addr >= pagetable.Limit || e&pagetable.Present == 0 {
			return n
		}
		p[n] = as.m.windows.byteAt(pagetable.Address(e) + addr%pagetable.PageSize)
		addr++
	}
	return len(p)
}

// slot returns a vCPU's slot in this address space.
func (as *AddressSpace) slot(vcpu int) (*ring0.Slot, error) {
	const perPage = ring0.PageSize / ring0.SlotSize
	page := &as.pages[vcpu/perPage]
	as.mu.Lock()
	defer as.mu.Unlock()
	if *page == 0 {
		gpa, err := as.mem.NewTable()
		if err != nil {
			return nil, err
		}
		if err := as.tree.Map(ring0.SlotBase+uint64(vcpu/perPage)*ring0.PageSize, gpa, 1, pageBits(ring0.SlotRights(as.m.entry)), nil); err != nil {
			return nil, err
		}
		*page = gpa
	}
	return slotAt(as.m.arena.mem, *page, uint64(vcpu%perPage)*ring0.SlotSize), nil
}

func pageBits(p ring0.Page) (bits uint64) {
	if p.User {
		bits |= pagetable.User
	}
	if p.Write {
		bits |= pagetable.Writable
	}
	if !p.Execute {
		bits |= pagetable.NoExec
	}
	return bits
}

// ahead decides how much memory to allocate around a fault, before it is touched: nothing at first, for a page that is not needed costs as much as
// one that is; then more while faults go on in a row.
type ahead struct {
	end   uint64 // where the last mapping ended
	bytes uint64
}

const (
	aheadMin = 64 << 10
	aheadMax = 2 << 20
)

// next returns how many bytes to allocate from a fault on, in a mapping that ends at end.
func (a *ahead) next(fault, end uint64) uint64 {
	if fault == a.end {
		a.bytes = min(max(a.bytes*4, aheadMin), aheadMax)
	} else {
		a.bytes = 0
	}
	a.end = end
	return a.bytes
}

// populate has the host allocate, or read, the part of a new mapping that the program is likely to touch next.
func (as *AddressSpace) populate(win *window, at, n, addr uint64, write, commit bool) error {
	first, last := uint64(0), n
	if !commit {
		fault := as.fault.Load() &^ (pagetable.PageSize - 1)
		if !write || fault < addr || fault >= addr+n {
			return nil
		}
		bytes := as.ahead.next(fault, addr+n)
		if bytes == 0 {
			return nil
		}
		first = fault - addr
		last = min(n, first+bytes)
	}
	advice := unix.MADV_POPULATE_READ
	if write {
		advice = unix.MADV_POPULATE_WRITE
	}
	switch err := unix.Madvise(win.mem[at+first:at+last], advice); err {
	case nil, unix.EFAULT, unix.EINVAL, unix.EHWPOISON:
		return nil // behind the file's end, or a kernel before 5.14: the program finds out, or pays later
	default:
		return fmt.Errorf("allocate %d bytes of guest memory: %w", last-first, err)
	}
}
