package bench

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
)

// The bytes that the test guest sends through the serial port. No monitor prints them by itself.
const (
	markFirst = 0x02 // by the first instructions of the guest
	markLast  = 0x03 // when its loop has ended
)

const (
	serialPort = 0x3F8
	// delayPort is where old kernels write to wait. Nothing answers there, and every peer bears it.
	delayPort = 0xED
	// holeGPA is a guest-physical address below 4 GiB where neither memory nor a device is.
	holeGPA = 0xF0000000
	// loadGPA is where the test guest lies: the first address of high memory.
	loadGPA = 0x100000
)

// out8 is MOV DX, port; MOV AL, value; OUT DX, AL.
func out8(port uint16, value byte) []byte {
	return []byte{0x66, 0xBA, byte(port), byte(port >> 8), 0xB0, value, 0xEE}
}

// loop is MOV ECX, n; body; DEC ECX; JNZ body.
func loop(n uint32, body ...byte) []byte {
	code := binary.LittleEndian.AppendUint32([]byte{0xB9}, n)
	return append(append(code, body...), 0x49, 0x75, byte(-len(body)-3))
}

// halt is CLI; HLT for ever.
var halt = []byte{0xFA, 0xF4, 0xEB, 0xFD}

// firstGuest says markFirst and halts.
func firstGuest() []byte { return slices.Concat(out8(serialPort, markFirst), halt) }

// portGuest writes a byte to a port without a device n times, between its marks.
func portGuest(n uint32) []byte {
	setup := []byte{0x66, 0xBA, delayPort, 0} // MOV DX, delayPort
	return slices.Concat(out8(serialPort, markFirst), setup, loop(n, 0xEE), out8(serialPort, markLast), halt)
}

// mmioGuest reads four bytes from an address without a device n times, between its marks.
func mmioGuest(n uint32) []byte {
	setup := binary.LittleEndian.AppendUint32([]byte{0xBE}, holeGPA) // MOV ESI, holeGPA
	return slices.Concat(out8(serialPort, markFirst), setup, loop(n, 0x8B, 0x06), out8(serialPort, markLast), halt)
}

// pvhImage wraps 32-bit code, which is entered at its first byte with paging off, in an ELF file with the note
// that names a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY; Xen's docs/misc/pvh.pandoc).
func pvhImage(code []byte) []byte {
	const noteOffset, codeOffset = 0x100, 0x1000
	var note bytes.Buffer
	write(&note, []uint32{4, 8, 18}) // name and descriptor size, type
	note.WriteString("Xen\x00")
	write(&note, uint64(loadGPA))

	file := make([]byte, codeOffset+0x1000) // some loaders want a whole first sector, and more
	copy(file, elfHeader(loadGPA,
		elf.Prog64{Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: noteOffset, Vaddr: noteOffset, Paddr: noteOffset,
			Filesz: uint64(note.Len()), Memsz: uint64(note.Len()), Align: 4},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: codeOffset, Vaddr: loadGPA, Paddr: loadGPA,
			Filesz: 0x1000, Memsz: 0x1000, Align: 0x1000}))
	copy(file[noteOffset:], note.Bytes())
	copy(file[codeOffset:], code)
	return file
}

// trapInit is a Linux program whose first instruction is illegal (UD2). As init it makes the kernel say trapLine, which
// proves that user space was reached without needing a system call.
func trapInit() []byte {
	const base = 0x400000
	size := uint64(elfHeaderSize(1) + 2)
	head := elfHeader(base+uint64(elfHeaderSize(1)), elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000})
	return append(head, 0x0F, 0x0B)
}

// trapLine ends the kernel's last line when init died of SIGILL.
const trapLine = "Attempted to kill init! exitcode=0x00000004"

func elfHeaderSize(progs int) int { return 64 + 56*progs }

func elfHeader(entry uint64, progs ...elf.Prog64) []byte {
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: entry,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(progs)), Shentsize: 64,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	write(&b, h)
	write(&b, progs)
	return b.Bytes()
}

// write appends v, a fixed-size value, in little-endian order.
func write(b *bytes.Buffer, v any) {
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		panic(err) // not of fixed size: a mistake in this file
	}
}
