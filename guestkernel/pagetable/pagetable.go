// Package pagetable builds x86-64 page tables of four levels (SDM vol. 3, 4.5) in guest memory, from the host.
//
// It writes entries and tells what they replaced. It does not flush: what a CPU or a shadow MMU may have cached of a replaced
// entry is the caller's business, and so is locking. Tables are never freed one by one; the caller drops their memory as a whole.
package pagetable

import "sync/atomic"

// Table is one page of entries in guest memory.
type Table [512]atomic.Uint64

// Memory gives tables their pages.
type Memory interface {
	// NewTable returns a zeroed page.
	NewTable() (gpa uint64, err error)
	// Table returns the page at gpa, which NewTable returned.
	Table(gpa uint64) *Table
}

// Bits of an entry. All mappings are made accessed and dirty: a CPU need not write them, and a shadow MMU
// maps their neighbours ahead.
const (
	Present  uint64 = 1 << 0
	Writable uint64 = 1 << 1
	User     uint64 = 1 << 2
	NoExec   uint64 = 1 << 63

	accessedDirty uint64 = 1<<5 | 1<<6
	address       uint64 = 1<<52 - 1<<12

	PageSize = 4096
	// Limit is the end of the lower half of the address space, in which programs live.
	Limit uint64 = 1 << 47
)

// Address returns the physical address in an entry.
func Address(entry uint64) uint64 { return entry & address }

// Tree is one address space's tables.
type Tree struct {
	Root uint64 // gpa of the PML4
	mem  Memory

	// The last leaf table met: neighbours are looked up often.
	leafAt uint64 // its first address | 1; 0 = none
	leaf   *Table
}

// New makes an empty tree.
func New(mem Memory) (*Tree, error) {
	root, err := mem.NewTable()
	if err != nil {
		return nil, err
	}
	return &Tree{Root: root, mem: mem}, nil
}

const leafSpan = 512 * PageSize

// leafFor returns the leaf table for an address, or nil if it does not exist and is not to be made.
func (t *Tree) leafFor(addr uint64, create bool) (*Table, error) {
	first := addr &^ (leafSpan - 1)
	if t.leafAt == first|1 {
		return t.leaf, nil
	}
	table := t.mem.Table(t.Root)
	for shift := 39; shift > 12; shift -= 9 {
		slot := &table[addr>>shift&511]
		e := slot.Load()
		if e&Present == 0 {
			if !create {
				return nil, nil
			}
			gpa, err := t.mem.NewTable()
			if err != nil {
				return nil, err
			}
			e = gpa | Present | Writable | User | accessedDirty
			slot.Store(e)
		}
		table = t.mem.Table(Address(e))
	}
	t.leafAt, t.leaf = first|1, table
	return table, nil
}

// Link makes the entry at the given level (3: a page of the PDPT, 2: of the PD, 1: of the leaf table) for addr point to gpa.
// It serves to share tables between trees.
func (t *Tree) Link(addr uint64, level int, gpa uint64) error {
	table := t.mem.Table(t.Root)
	for l := 3; l > level; l-- {
		slot := &table[addr>>(12+9*l)&511]
		e := slot.Load()
		if e&Present == 0 {
			n, err := t.mem.NewTable()
			if err != nil {
				return err
			}
			e = n | Present | Writable | User | accessedDirty
			slot.Store(e)
		}
		table = t.mem.Table(Address(e))
	}
	table[addr>>(12+9*level)&511].Store(gpa | Present | Writable | User | accessedDirty)
	return nil
}

// Map lets n pages from addr on show the n pages from gpa on, with the given bits (Writable, User, NoExec). replaced hears of each
// entry that pointed elsewhere or allowed what the new one does not. addr and gpa are page-aligned.
func (t *Tree) Map(addr, gpa, n, bits uint64, replaced func(old uint64)) error {
	bits |= Present | accessedDirty
	for n > 0 {
		leaf, err := t.leafFor(addr, true)
		if err != nil {
			return err
		}
		for i := addr >> 12 & 511; i < 512 && n > 0; i++ {
			old := leaf[i].Swap(gpa | bits)
			if old&Present != 0 && !covers(gpa|bits, old) {
				replaced(old)
			}
			addr += PageSize
			gpa += PageSize
			n--
		}
	}
	return nil
}

// covers says whether nothing that an old entry allowed is missing from a new one.
func covers(entry, old uint64) bool {
	const rights = Writable | User
	return Address(entry) == Address(old) && old&rights&^entry == 0 && entry&NoExec&^old == 0
}

// Unmap removes the entries of n pages from addr on; removed hears of each that was present. It returns their number.
func (t *Tree) Unmap(addr, n uint64, removed func(old uint64)) (count uint64) {
	for end := addr + n*PageSize; addr < end; {
		leaf, next := t.nextLeaf(addr)
		if leaf == nil {
			addr = next
			continue
		}
		for ; addr < min(next, end); addr += PageSize {
			slot := &leaf[addr>>12&511]
			if slot.Load() == 0 {
				continue
			}
			if old := slot.Swap(0); old&Present != 0 {
				removed(old)
				count++
			}
		}
	}
	return count
}

// nextLeaf returns the leaf table for addr, nil if there is none, and the address from which on the answer is another.
func (t *Tree) nextLeaf(addr uint64) (leaf *Table, next uint64) {
	table := t.mem.Table(t.Root)
	for shift := 39; ; shift -= 9 {
		next = (addr>>shift + 1) << shift
		if shift == 12 {
			return table, (addr>>21 + 1) << 21
		}
		e := table[addr>>shift&511].Load()
		if e&Present == 0 {
			return nil, next
		}
		table = t.mem.Table(Address(e))
	}
}

// Entry returns the leaf entry for addr, 0 if there is none.
func (t *Tree) Entry(addr uint64) uint64 {
	leaf, err := t.leafFor(addr, false)
	if leaf == nil || err != nil {
		return 0
	}
	return leaf[addr>>12&511].Load()
}
