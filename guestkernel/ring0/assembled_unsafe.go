package ring0

import "unsafe"

// stubAddress returns the address of a stub's first instruction.
func stubAddress(e Entry) uintptr

// assembled returns the code of a stub, and what the linker put behind it, up to blockSize bytes.
func assembled(e Entry) []byte {
	p := stubAddress(e)
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), blockSize)
}
