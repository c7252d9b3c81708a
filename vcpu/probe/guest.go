package probe

import (
	"encoding/binary"

	"github.com/qenex/qenex-kernel/kvm"
)

// The guest's memory map, guest-physical = linear: one 2 MiB page maps it all, for both privilege
// levels. Behind memSize nothing is there, so accesses are MMIO.
const (
	gdtGPA   = 0x0000
	tssGPA   = 0x0100
	idtGPA   = 0x0400
	stubGPA  = 0x0800 // one exception stub of stubSize bytes a vector
	pml4GPA  = 0x1000
	pdptGPA  = 0x2000
	pdGPA    = 0x3000
	codeGPA  = 0x4000
	entryGPA = 0x4800 // LSTAR
	dataGPA  = 0x5000 // 2 KiB for the guest's data, then the stack
	stackTop = 0x6000
	memSize  = 0x6000
	mmioGPA  = 0x100000

	vectors  = 0x21 // exceptions, and vector 0x20 for INT n
	stubSize = 8

	reportPort    = 0xE0 // OUT here says that the guest is done; AL carries a result
	exceptionPort = 0xE1 // OUT here says that the vector in AL was delivered
)

// Selectors. SYSCALL and SYSRET want kernel code, kernel data, user data and user code in this order.
const (
	kernelCS = 0x08
	kernelSS = 0x10
	userBase = 0x18 // STAR[63:48]; SYSRET loads SS from +8 and CS from +16
	userSS   = 0x20 | 3
	userCS   = 0x28 | 3
	taskTR   = 0x30
)

// OUT at CPL 3 is allowed twice over, by IOPL 3 and by the TSS's I/O permission bitmap for ports 0 to 0xFF: a
// software KVM was seen that does not honour the first, and an emulated CPU that does not honour the second.
const (
	tssBitmap = 0x68
	tssLimit  = tssBitmap + 0x100/8
)

// Control bits.
const (
	cr0PE, cr0MP, cr0ET, cr0NE, cr0PG = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 31
	cr4PAE, cr4OSFXSR, cr4OSXMMEXCPT  = 1 << 5, 1 << 9, 1 << 10
	cr4OSXSAVE                        = 1 << 18
	eferSCE, eferLME, eferLMA         = 1 << 0, 1 << 8, 1 << 10
	flagsFixed, flagsIOPL3            = 1 << 1, 3 << 12
	ptePresent, pteWrite, pteUser     = 1, 2, 4
	pteLarge                          = 1 << 7
)

// buildGuest writes page tables, descriptor tables and exception stubs into mem.
func buildGuest(mem []byte) {
	put := func(gpa, v uint64) { binary.LittleEndian.PutUint64(mem[gpa:], v) }
	const table = ptePresent | pteWrite | pteUser
	put(pml4GPA, pdptGPA|table)
	put(pdptGPA, pdGPA|table)
	put(pdGPA, table|pteLarge)

	put(gdtGPA+kernelCS, 0x00A09B000000FFFF) // long mode has no limits; LAR leaves bits 16 to 19 undefined
	put(gdtGPA+kernelSS, 0x00CF93000000FFFF)
	put(gdtGPA+userSS&^3, 0x00CFF3000000FFFF)
	put(gdtGPA+userCS&^3, 0x00AFFB000000FFFF)
	put(gdtGPA+taskTR, 0x0000_8B00_0000_0000|tssGPA<<16|tssLimit) // 64-bit TSS, busy; the high half is 0
	put(tssGPA+4, stackTop)                                       // RSP0
	binary.LittleEndian.PutUint16(mem[tssGPA+102:], tssBitmap)
	mem[tssGPA+tssLimit] = 0xFF // ends the I/O bitmap, SDM vol. 1, 19.5.2

	for v := range uint64(vectors) {
		stub := stubGPA + v*stubSize
		// mov al, v; out exceptionPort, al; hlt
		copy(mem[stub:], []byte{0xB0, byte(v), 0xE6, exceptionPort, 0xF4})
		// 64-bit interrupt gate, DPL 3 (SDM vol. 3, 7.14.1); stubs lie below 64 KiB.
		put(idtGPA+v*16, stub|kernelCS<<16|0xEE00<<32)
	}
}

// ring is the privilege level that a guest program starts at.
type ring uint8

const (
	ring0 ring = 0
	ring3 ring = 3
)

// sregs derives the long-mode state for a program at the given level from the vCPU's own.
func sregs(s kvm.Sregs, level ring, cr4 uint64) kvm.Sregs {
	code := kvm.Segment{Limit: 0xFFFFFFFF, Typ: 11, Present: 1, S: 1, L: 1, G: 1, Selector: kernelCS}
	data := kvm.Segment{Limit: 0xFFFFFFFF, Typ: 3, Present: 1, S: 1, DB: 1, G: 1, Selector: kernelSS}
	if level == ring3 {
		code.Selector, code.DPL = userCS, 3
		data.Selector, data.DPL = userSS, 3
	}
	s.CS, s.SS, s.DS, s.ES, s.FS, s.GS = code, data, data, data, data, data
	s.TR = kvm.Segment{Base: tssGPA, Limit: tssLimit, Selector: taskTR, Typ: 11, Present: 1}
	s.LDT = kvm.Segment{Unusable: 1}
	s.GDT.Base, s.GDT.Limit = gdtGPA, taskTR+16-1
	s.IDT.Base, s.IDT.Limit = idtGPA, vectors*16-1
	s.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0PG
	s.CR3 = pml4GPA
	s.CR4 = cr4
	s.EFER = eferSCE | eferLME | eferLMA
	return s
}

// syscallMSRs make SYSCALL go to entryGPA, with IF masked and IOPL kept.
var syscallMSRs = []kvm.MSREntry{
	{Index: kvm.MSRSTAR, Data: userBase<<48 | kernelCS<<32},
	{Index: kvm.MSRLSTAR, Data: entryGPA},
	{Index: kvm.MSRSFMASK, Data: 1 << 9},
}
