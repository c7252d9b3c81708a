package boot

import (
	"fmt"

	"github.com/qenex/qenex-kernel/memmap"
)

// Control bits of the first vCPU (AMD64 manual vol. 2, 3.1 and 5.3).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsOne = 1 << 1 // always set
)

// Segment is a segment register with its hidden part.
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32 // bytes less one, the granularity applied
	Type     uint8  // the descriptor's type field
	S        bool   // code or data, not system
	DPL      uint8
	Present  bool
	L        bool // 64-bit code
	DB       bool // 32-bit
	G        bool // the descriptor's limit counts pages
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16 // bytes less one
}

// The boot GDT. Linux's 64-bit protocol wants __BOOT_CS at 0x10 and __BOOT_DS at 0x18.
var (
	code32 = Segment{Selector: 0x08, Limit: 0xffffffff, Type: 0xb, S: true, Present: true, DB: true, G: true}
	code64 = Segment{Selector: 0x10, Limit: 0xffffffff, Type: 0xb, S: true, Present: true, L: true, G: true}
	flat   = Segment{Selector: 0x18, Limit: 0xffffffff, Type: 0x3, S: true, Present: true, DB: true, G: true}
	task   = Segment{Selector: 0x20, Limit: 0x67, Type: 0xb, Present: true} // two slots in long mode
)

const gdtSize = 6 * 8

// descriptor is the segment as the GDT has it.
func (s Segment) descriptor() uint64 {
	bit := func(b bool, n uint) uint64 {
		if b {
			return 1 << n
		}
		return 0
	}
	limit := uint64(s.Limit)
	if s.G {
		limit >>= 12
	}
	return limit&0xffff | s.Base&0xffffff<<16 | uint64(s.Type)<<40 | bit(s.S, 44) | uint64(s.DPL)<<45 | bit(s.Present, 47) |
		limit>>16&0xf<<48 | bit(s.L, 53) | bit(s.DB, 54) | bit(s.G, 55) | s.Base>>24&0xff<<56
}

func writeGDT(mem *memmap.Memory) error {
	gdt := make([]byte, gdtSize)
	for _, s := range []Segment{code32, code64, flat, task} {
		le.PutUint64(gdt[s.Selector:], s.descriptor())
	}
	if err := mem.Write(GDTBase, gdt); err != nil {
		return fmt.Errorf("%w: boot GDT: %w", ErrMemory, err)
	}
	return nil
}

// writePageTables maps the lower 4 GiB one to one with 2 MiB pages.
func writePageTables(mem *memmap.Memory) error {
	const present, writable, large = 1, 2, 1 << 7
	t, err := mem.View(PML4Base, PageTablesEnd-PML4Base)
	if err != nil {
		return fmt.Errorf("%w: boot page tables: %w", ErrMemory, err)
	}
	pdpt, pd := t[pdptBase-PML4Base:], t[pdBase-PML4Base:]
	clear(t[:pdBase-PML4Base])
	le.PutUint64(t, pdptBase|present|writable)
	for i := range uint64(4) {
		le.PutUint64(pdpt[i*8:], pdBase+i*pageSize|present|writable)
	}
	for i := range uint64(4 * 512) {
		le.PutUint64(pd[i*8:], i<<21|present|writable|large)
	}
	return nil
}

// longMode sets e to the state of the 64-bit boot protocol (boot.rst, "64-bit Boot Protocol").
func (e *Entry) longMode() {
	e.CR0, e.CR3, e.CR4, e.EFER = cr0PE|cr0ET|cr0PG, PML4Base, cr4PAE, eferLME|eferLMA
	e.Code = code64
}

// protectedMode sets e to the state PVH asks for: 32-bit, flat, no paging.
func (e *Entry) protectedMode() {
	e.CR0 = cr0PE | cr0ET
	e.Code = code32
}
