package ring0

import "unsafe"

// stubAddress returns the address of a stub's first instruction.
func stubAddress(e Entry) uintptr

// switchAddress returns the address of the context switch's first instruction.
func switchAddress() uintptr

// assembledSwitch returns the code of the context switch, and what the linker put behind it.
func assembledSwitch() []byte {
	p := switchAddress()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), blockSize)
}

// assembled returns the code of a stub, and what the linker put behind it, up to blockSize bytes.
func assembled(e Entry) []byte {
	p := stubAddress(e)
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), blockSize)
}
