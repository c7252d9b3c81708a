// Package bareguest is the small guests that tests run instead of an operating system: a few bytes of 64-bit
// machine code in an ELF file. It is imported by tests only and knows nothing of any room.
package bareguest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Bare guests: 64-bit code that is entered at Base with the lower 4 GiB mapped one to one.
const Base = 0x100000

var (
	// Guests that end: by ACPI power-off, three resets, pvpanic, a triple fault.
	PowerOff    = []byte{0x66, 0xBA, 0x00, 0x06, 0xB0, 0x34, 0xEE, 0xEB, 0xFE} // mov dx, 0x600; mov al, 0x34; out dx, al; jmp .
	RebootKBD   = []byte{0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE}                   // mov al, 0xfe; out 0x64, al; jmp .
	RebootACPI  = []byte{0x66, 0xBA, 0x02, 0x06, 0xB0, 0x01, 0xEE, 0xEB, 0xFE} // mov dx, 0x602; mov al, 1; out dx, al; jmp .
	RebootCF9   = []byte{0x66, 0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE, 0xEB, 0xFE} // mov dx, 0xcf9; mov al, 6; out dx, al; jmp .
	Panic       = []byte{0x66, 0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE, 0xEB, 0xFE} // mov dx, 0x505; mov al, 1; out dx, al; jmp .
	TripleFault = []byte{0x0F, 0x0B}                                           // ud2 without an IDT

	// Guests that do not end: computing, halted, writing to COM1.
	Busy    = []byte{0xEB, 0xFE}                                          // jmp .
	Halt    = []byte{0xFA, 0xF4, 0xEB, 0xFC}                              // cli; hlt; jmp
	Chatter = []byte{0x66, 0xBA, 0xF8, 0x03, 0xB0, 'x', 0xEE, 0xEB, 0xFD} // mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp out
)

// Kernel writes an ELF kernel of the given code, loaded and entered at Base, and returns its path.
func Kernel(t testing.TB, code []byte) string {
	t.Helper()
	var b bytes.Buffer
	le := binary.LittleEndian
	header := make([]byte, 64+56)
	copy(header, "\x7fELF\x02\x01\x01")
	le.PutUint16(header[16:], 2)  // ET_EXEC
	le.PutUint16(header[18:], 62) // EM_X86_64
	le.PutUint32(header[20:], 1)
	le.PutUint64(header[24:], Base)
	le.PutUint64(header[32:], 64) // program headers
	le.PutUint16(header[52:], 64)
	le.PutUint16(header[54:], 56)
	le.PutUint16(header[56:], 1)
	p := header[64:]
	le.PutUint32(p, 1)     // PT_LOAD
	le.PutUint32(p[4:], 5) // R+X
	le.PutUint64(p[8:], uint64(len(header)))
	le.PutUint64(p[16:], Base)
	le.PutUint64(p[24:], Base)
	le.PutUint64(p[32:], uint64(len(code)))
	le.PutUint64(p[40:], uint64(len(code)))
	le.PutUint64(p[48:], 1)
	b.Write(header)
	b.Write(code)
	path := filepath.Join(t.TempDir(), "bare.elf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
