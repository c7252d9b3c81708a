package bareguest

import "encoding/binary"

// Script is guest code that is put together from accesses to the lower 4 GiB. It uses EAX and RBX.
type Script struct{ code []byte }

func (s *Script) imm(op byte, v uint32) {
	s.code = binary.LittleEndian.AppendUint32(append(s.code, op), v)
}

// Store writes 4 bytes.
func (s *Script) Store(addr, v uint32) {
	s.imm(0xBB, addr)             // mov ebx, addr
	s.code = append(s.code, 0xC7) // mov dword [rbx], v
	s.imm(0x03, v)
}

// Store16 writes 2 bytes.
func (s *Script) Store16(addr uint32, v uint16) {
	s.imm(0xBB, addr)
	s.code = binary.LittleEndian.AppendUint16(append(s.code, 0x66, 0xC7, 0x03), v) // mov word [rbx], v
}

// Store8 writes a byte.
func (s *Script) Store8(addr uint32, v byte) {
	s.imm(0xBB, addr)
	s.code = append(s.code, 0xC6, 0x03, v) // mov byte [rbx], v
}

// Copy reads 4 bytes and writes them elsewhere.
func (s *Script) Copy(to, from uint32) {
	s.imm(0xBB, from)
	s.code = append(s.code, 0x8B, 0x03) // mov eax, [rbx]
	s.imm(0xBB, to)
	s.code = append(s.code, 0x89, 0x03) // mov [rbx], eax
}

// Await waits until 4 bytes have a value.
func (s *Script) Await(addr, v uint32) {
	s.imm(0xBB, addr)
	s.code = append(s.code, 0xF3, 0x90, 0x81) // pause; cmp dword [rbx], v
	s.imm(0x3B, v)
	s.code = append(s.code, 0x75, 0xF6) // jne pause
}

// Out writes 4 bytes to a port.
func (s *Script) Out(port uint16, v uint32) {
	s.code = binary.LittleEndian.AppendUint16(append(s.code, 0x66, 0xBA), port) // mov dx, port
	s.imm(0xB8, v)                                                              // mov eax, v
	s.code = append(s.code, 0xEF)                                               // out dx, eax
}

// In reads 4 bytes from a port and writes them to memory.
func (s *Script) In(to uint32, port uint16) {
	s.code = binary.LittleEndian.AppendUint16(append(s.code, 0x66, 0xBA), port)
	s.code = append(s.code, 0xED) // in eax, dx
	s.imm(0xBB, to)
	s.code = append(s.code, 0x89, 0x03)
}

// End returns the code, which then powers off.
func (s *Script) End() []byte { return append(s.code, PowerOff...) }
