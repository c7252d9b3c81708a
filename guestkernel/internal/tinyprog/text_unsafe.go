package tinyprog

import "unsafe"

// table holds the address of each program.
var table [count]uintptr

// text returns n bytes from the beginning of a program on.
func text(p Program, n int) []byte {
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&table[p])), n)
}
