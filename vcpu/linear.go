package vcpu

import (
	"errors"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu/complete"
)

// Control register and page-table bits (SDM vol. 3, 2.5 and 4.5).
const (
	cr0WP   = 1 << 16
	cr0PG   = 1 << 31
	cr4SMEP = 1 << 20
	cr4SMAP = 1 << 21
	cr4LA57 = 1 << 12
	eferLMA = 1 << 10
	eferNXE = 1 << 11

	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteNX = 1 << 63

	pteAddr = 0x000ffffffffff000

	flagAC = 1 << 18
)

// Error code bits of #PF (SDM vol. 3, 4.7).
const (
	pfPresent = 1 << 0
	pfWrite   = 1 << 1
	pfUser    = 1 << 2
	pfFetch   = 1 << 4
)

var errUnmapped = errors.New("linear address is not mapped")

// linear reaches guest memory by linear address as the vCPU would at its privilege level,
// setting accessed and dirty bits. The vCPU must be outside the guest.
type linear struct {
	mem    *memmap.Memory
	vcpu   *kvm.VCPU
	sregs  *kvm.Sregs
	rflags uint64
	cpl    uint8
}

// Read copies len(p) bytes at the linear address into p.
func (l *linear) Read(va uint64, p []byte) error { return l.each(va, p, 0, l.mem.Read) }

// ReadSystem is Read with supervisor rights, as the processor reads descriptor tables.
func (l *linear) ReadSystem(va uint64, p []byte) error {
	system := *l
	system.cpl = 0
	system.rflags |= flagAC
	return system.Read(va, p)
}

// CompareAndSwap replaces the 8 or 16 bytes at va by repl if they equal old, atomically. The operand must
// not cross a page, which its alignment ensures for 16 bytes.
func (l *linear) CompareAndSwap(va uint64, old, repl []byte) (bool, error) {
	gpa, err := l.translate(va, pfWrite)
	if err != nil {
		return false, err
	}
	return l.mem.CompareAndSwap(gpa, old, repl)
}

// Write copies p to the linear address. Both pages of a crossing access are checked before either is written.
func (l *linear) Write(va uint64, p []byte) error {
	if err := l.each(va, p, pfWrite, func(uint64, []byte) error { return nil }); err != nil {
		return err
	}
	return l.each(va, p, pfWrite, l.mem.Write)
}

// fetch is Read for instruction bytes.
func (l *linear) fetch(va uint64, p []byte) error { return l.each(va, p, pfFetch, l.mem.Read) }

// each splits an access at page boundaries and gives do the gpa of each piece.
func (l *linear) each(va uint64, p []byte, access uint32, do func(gpa uint64, p []byte) error) error {
	for len(p) > 0 {
		n := min(uint64(len(p)), memmap.PageSize-va%memmap.PageSize)
		gpa, err := l.translate(va, access)
		if err != nil {
			return err
		}
		if err := do(gpa, p[:n]); err != nil {
			return err
		}
		p = p[n:]
		va += n
	}
	return nil
}

// translate walks the guest's page tables (SDM vol. 3, 4.5). access is 0, pfWrite or pfFetch.
func (l *linear) translate(va uint64, access uint32) (uint64, error) {
	s := l.sregs
	if s.CR0&cr0PG == 0 {
		return va, nil
	}
	if s.EFER&eferLMA == 0 {
		return l.translateLegacy(va)
	}
	code := access
	if l.cpl == 3 {
		code |= pfUser
	}
	levels := 4
	if s.CR4&cr4LA57 != 0 {
		levels = 5
	}
	if shift := 64 - (levels*9 + 12); uint64(int64(va<<shift)>>shift) != va {
		return 0, fmt.Errorf("linear address %#x is not canonical: %w", va, errUnmapped)
	}
	table := s.CR3 & pteAddr
	user, write, exec := true, true, true
	for level := levels; ; level-- {
		shift := uint(12 + 9*(level-1))
		at := table + (va>>shift&511)*8
		e, err := l.mem.Uint64(at)
		if err != nil {
			return 0, fmt.Errorf("page table entry of level %d for %#x: %w", level, va, err)
		}
		if e&pteP == 0 {
			return 0, &complete.Fault{Vector: complete.VectorPF, Code: code, Addr: va}
		}
		user = user && e&pteU != 0
		write = write && e&pteW != 0
		exec = exec && (e&pteNX == 0 || s.EFER&eferNXE == 0)
		leaf := level == 1 || (level <= 3 && e&ptePS != 0)
		if !leaf {
			if err := l.mem.OrUint64(at, pteA); err != nil {
				return 0, err
			}
			table = e & pteAddr
			continue
		}
		if !l.allowed(access, user, write, exec) {
			return 0, &complete.Fault{Vector: complete.VectorPF, Code: code | pfPresent, Addr: va}
		}
		bits := uint64(pteA)
		if access&pfWrite != 0 {
			bits |= pteD
		}
		if err := l.mem.OrUint64(at, bits); err != nil {
			return 0, err
		}
		mask := uint64(1)<<shift - 1
		return e&pteAddr&^mask | va&mask, nil
	}
}

// allowed applies the access rights of SDM vol. 3, 4.6.
func (l *linear) allowed(access uint32, user, write, exec bool) bool {
	s := l.sregs
	if access&pfFetch != 0 && !exec {
		return false
	}
	if l.cpl == 3 {
		return user && (access&pfWrite == 0 || write)
	}
	if user {
		if access&pfFetch != 0 && s.CR4&cr4SMEP != 0 {
			return false
		}
		if access&pfFetch == 0 && s.CR4&cr4SMAP != 0 && l.rflags&flagAC == 0 {
			return false
		}
	}
	return access&pfWrite == 0 || write || s.CR0&cr0WP == 0
}

// translateLegacy asks KVM about 32-bit and PAE paging, which only early boot code uses.
func (l *linear) translateLegacy(va uint64) (uint64, error) {
	t, err := l.vcpu.Translate(va)
	if err != nil {
		return 0, err
	}
	if t.Valid == 0 {
		return 0, fmt.Errorf("%#x: %w", va, errUnmapped)
	}
	return t.PhysicalAddress, nil
}

// fetchCode reads up to 15 instruction bytes at a linear address, fewer at the end of what is mapped.
func fetchCode(l *linear, va uint64) []byte {
	code := make([]byte, 15)
	if l.fetch(va, code) == nil {
		return code
	}
	n := min(memmap.PageSize-va%memmap.PageSize, uint64(len(code)))
	if l.fetch(va, code[:n]) == nil {
		return code[:n]
	}
	return nil
}
