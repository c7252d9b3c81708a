// Package tinyprog holds programs for guestkernel's tiny ABI, in assembly: for tests, benchmarks and fault injection. They are position-independent and
// never run on the host.
package tinyprog

import (
	"bytes"
	"fmt"
)

// Program is one of the programs in programs_amd64.s; what each does stands there.
type Program int

// The programs.
const (
	Hello Program = iota
	Registers
	Clock
	Spin
	Touch
	Scribble
	Switch
	Read
	Fill
	Tally
	count
)

// end marks the end of a program: bytes that are no instruction.
var end = bytes.Repeat([]byte{0xF1}, 8)

// Code returns a copy of a program's bytes.
func Code(p Program) []byte {
	const most = 1 << 12
	code := text(p, most)
	n := bytes.Index(code, end)
	if n < 0 {
		panic(fmt.Sprintf("tiny program %d has no end mark in %d bytes", p, most))
	}
	return bytes.Clone(code[:n])
}
