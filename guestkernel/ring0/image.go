package ring0

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Stub is one vCPU's syscall stub, as assembled, with the offsets that the host must tell apart.
type Stub struct {
	code   []byte
	Saved  uint64 // up to here the program's registers are untouched, but for RCX and R11
	Posted uint64 // from here on the slot's state says whether a request stands
	Out    uint64 // the OUT that leaves the VM
	Resume uint64 // from here on the slot holds the program's whole state
	End    uint64
}

// NewStub reads the assembled stub. It fails only if the assembler produced something else than the source says.
func NewStub(e Entry) (*Stub, error) {
	code := assembled(e)
	end := bytes.Index(code, []byte{0x0F, 0x0B})
	if end < 0 {
		return nil, fmt.Errorf("syscall stub %v: no end mark in %d bytes", e, len(code))
	}
	s := &Stub{code: code[:end+2], End: uint64(end + 2)}
	for mark, at := range map[string]*uint64{
		"\xF3\x48\x0F\xAE\xC0": &s.Saved,  // RDFSBASE RAX
		"\x87\x04\x25":         &s.Posted, // XCHG [disp32], EAX
		"\xE6\x02":             &s.Out,
	} {
		if bytes.Count(s.code, []byte(mark)) != 1 {
			return nil, fmt.Errorf("syscall stub %v: %x stands there %d times, expected once", e, mark, bytes.Count(s.code, []byte(mark)))
		}
		*at = uint64(bytes.Index(s.code, []byte(mark)))
	}
	s.Posted += 7
	s.Resume = s.Out + 2
	if len(s.code) > blockSize {
		return nil, fmt.Errorf("syscall stub %v: %d bytes, %d fit", e, len(s.code), blockSize)
	}
	return s, nil
}

// For returns the stub's bytes for a vCPU: each address in slot 0 moved to the vCPU's slot.
func (s *Stub) For(vcpu int) []byte {
	code := bytes.Clone(s.code)
	for i := 0; i+4 <= len(code); i++ {
		a := binary.LittleEndian.Uint32(code[i:])
		if a-uint32(SlotBase&0xFFFFFFFF) < SlotSize {
			binary.LittleEndian.PutUint32(code[i:], a+uint32(vcpu)*SlotSize)
			i += 3
		}
	}
	return code
}

// WriteTables puts GDT, IDT and fault stubs into the core image, which is CorePages pages of zeros.
func WriteTables(core []byte) {
	put := func(off, v uint64) { binary.LittleEndian.PutUint64(core[off:], v) }
	for sel, d := range map[uint64]uint64{
		KernelCS:    0x00AF9B000000FFFF, // present, code, long mode, accessed
		KernelSS:    0x00CF93000000FFFF,
		UserSS &^ 3: 0x00CFF3000000FFFF, // DPL 3
		UserCS &^ 3: 0x00AFFB000000FFFF,
	} {
		put(gdtPage*PageSize+sel, d)
	}
	for v := range uint64(vectors) {
		stub := uint64(faultPage*PageSize) + v*faultSize
		copy(core[stub:], []byte{0xE6, Port, 0x90, 0x90}) // OUT Port, AL
		handler := Base + stub
		gate := handler&0xFFFF | KernelCS<<16 | 0x8E00<<32 | handler>>16&0xFFFF<<48
		if v == 3 || v == 4 { // INT3 and INTO belong to programs
			gate |= 3 << 45
		}
		put(idtPage*PageSize+16*v, gate)
		put(idtPage*PageSize+16*v+8, handler>>32)
	}
	copy(core[ProbeEntry-Base:], []byte{0xE6, Port, 0x90, 0x90})
	code := assembledSwitch()
	copy(core[SwitchEntry-Base:], code[:bytes.Index(code, []byte{0x0F, 0x0B})])
}

// WriteVCPU puts a vCPU's TSS and syscall stub into the core image.
func WriteVCPU(core []byte, vcpu int, s *Stub) {
	tss := core[tssOf(vcpu)-Base:][:blockSize]
	clear(tss)
	binary.LittleEndian.PutUint64(tss[4:], tssOf(vcpu)+blockSize) // RSP0
	binary.LittleEndian.PutUint16(tss[102:], tssBitmap)
	tss[tssBitmap] = ^byte(1 << Port)
	tss[tssBitmap+1] = 0xFF
	copy(core[LSTAR(vcpu)-Base:][:blockSize], s.For(vcpu))
}

// Page says how a page of the core image is mapped.
type Page struct{ User, Write, Execute bool }

// PageRights returns the rights for page n of the core image. Open to the program are the context switch, which has no more rights than its caller,
// and where SYSCALL arrives at CPL 3 the syscall stubs.
func PageRights(n int, e Entry) Page {
	switch {
	case n == faultPage:
		return Page{Execute: true}
	case n == switchPage:
		return Page{User: true, Execute: true}
	case n >= codePage:
		return Page{User: e == EntryCPL3, Execute: true}
	}
	return Page{Write: true}
}

// SlotRights returns the rights of slot pages.
func SlotRights(e Entry) Page { return Page{User: e == EntryCPL3, Write: true} }

// Descriptor-table registers and TR of a vCPU: base and limit.
const (
	GDTBase  = Base + gdtPage*PageSize
	GDTLimit = gdtEntries*8 - 1
	IDTBase  = Base + idtPage*PageSize
	IDTLimit = vectors*16 - 1
	TSSLimit = tssLimit
	TSSSel   = tssSel
)

// TSSBase returns the address of a vCPU's TSS.
func TSSBase(vcpu int) uint64 { return tssOf(vcpu) }
