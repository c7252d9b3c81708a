//go:build linux

// Package native runs one instruction on the real processor, at CPL 3 in this
// process, with registers and memory of the caller's choice. It is the oracle
// of package complete's tests and holds nothing else; nothing but tests may
// import it. The caller answers for the instruction: a faulting or privileged
// one kills the process.
package native

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Sizes of a Machine's parts in bytes.
const (
	pageSize    = 4096
	ScratchSize = 2 * pageSize
)

// State is what the instruction sees and leaves behind, RSP and the segment
// registers excepted.
type State struct {
	GPR    [16]uint64 // in encoding order; GPR[4], RSP, is neither loaded nor stored
	RFLAGS uint64     // on entry only the arithmetic flags and DF count
	_      uint64
	FX     [512]byte // FXSAVE64 image, on a multiple of 16
}

// Machine is a code page, a state and scratch memory, all below 2 GiB so that
// every addressing form reaches them. It is for one goroutine at a time.
type Machine struct {
	region []byte
}

// New maps a Machine; Close unmaps it.
func New() (*Machine, error) {
	const size = 2*pageSize + ScratchSize
	region, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_32BIT)
	if err != nil {
		return nil, fmt.Errorf("map %d executable bytes below 2 GiB: %w", size, err)
	}
	return &Machine{region: region}, nil
}

// Close unmaps the memory; the Machine and Scratch are dead then.
func (m *Machine) Close() error { return unix.Munmap(m.region) }

// CodeAddr is the address at which instructions run.
func (m *Machine) CodeAddr() uint64 { return addressOf(m.region) }

// ScratchAddr is the address of Scratch.
func (m *Machine) ScratchAddr() uint64 { return m.CodeAddr() + 2*pageSize }

// Scratch is the memory for the instruction's operands.
func (m *Machine) Scratch() []byte { return m.region[2*pageSize:] }

// Run executes the instruction with the state s and puts what it leaves behind
// into s. The calling goroutine must be locked to its thread if the instruction
// uses FS or GS.
func (m *Machine) Run(s *State, insn []byte) {
	const ret = 0xc3
	code := m.region[:pageSize]
	code[copy(code, insn)] = ret
	ctx := stateAt(m.region[pageSize:])
	*ctx = *s
	const settable = 0xcd5 // CF PF AF ZF SF DF OF
	ctx.RFLAGS = ctx.RFLAGS&settable | 0x202
	enter(ctx, m.CodeAddr())
	*s = *ctx
}
