// Package seccomp turns a short list of allowed system calls into a filter and puts it on every thread of the process. What is not on
// the list kills the process.
//
// It knows amd64 Linux and BPF. Which calls a part of QENEX needs is that part's business, and does not enter here.
package seccomp

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Arg is a condition on one argument: argument & Mask must be one of Values.
type Arg struct {
	N      int      // 0-5
	Mask   uint64   // 0 means all 64 bits
	Values []uint32 // the upper half of what is compared must be zero
}

// Rule allows one system call.
type Rule struct {
	Nr   int
	When [][]Arg // allowed if all conditions of one list hold; no list: always
}

// Allow allows calls with any arguments.
func Allow(nrs ...int) []Rule {
	rules := make([]Rule, len(nrs))
	for i, nr := range nrs {
		rules[i].Nr = nr
	}
	return rules
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

const (
	opLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opRet   = unix.BPF_RET | unix.BPF_K
)

// maxBlock is how far a conditional jump reaches.
const maxBlock = 255

// maxProgram is the longest program the kernel takes (BPF_MAXINSNS).
const maxProgram = 4096

// Compile makes the filter. Rules are tried in their order: those with conditions that are used most come first best
// (the kernel remembers the answer for calls without conditions).
func Compile(rules []Rule) ([]unix.SockFilter, error) {
	kill := unix.SockFilter{Code: opRet, K: unix.SECCOMP_RET_KILL_PROCESS}
	allow := unix.SockFilter{Code: opRet, K: unix.SECCOMP_RET_ALLOW}
	prog := []unix.SockFilter{
		{Code: opLoad, K: offsetArch},
		{Code: opEqual, Jt: 1, K: unix.AUDIT_ARCH_X86_64},
		kill,
		{Code: opLoad, K: offsetNr},
	}
	seen := map[int]bool{}
	for _, r := range rules {
		if r.Nr < 0 || r.Nr >= 1<<30 {
			return nil, fmt.Errorf("seccomp: %d is not a system call of amd64", r.Nr)
		}
		if seen[r.Nr] {
			return nil, fmt.Errorf("seccomp: two rules for system call %d", r.Nr)
		}
		seen[r.Nr] = true
		block := []unix.SockFilter{allow}
		if len(r.When) != 0 {
			block = nil
			for _, args := range r.When {
				list, err := compileList(args)
				if err != nil {
					return nil, fmt.Errorf("seccomp: system call %d: %w", r.Nr, err)
				}
				block = append(block, list...)
			}
			block = append(block, kill)
		}
		if len(block) > maxBlock {
			return nil, fmt.Errorf("seccomp: the conditions of system call %d need %d instructions, %d are possible", r.Nr, len(block), maxBlock)
		}
		prog = append(prog, unix.SockFilter{Code: opEqual, Jf: uint8(len(block)), K: uint32(r.Nr)})
		prog = append(prog, block...)
	}
	prog = append(prog, kill)
	if len(prog) > maxProgram {
		return nil, fmt.Errorf("seccomp: the filter has %d instructions, %d are possible", len(prog), maxProgram)
	}
	return prog, nil
}

// compileList makes code that allows the call if all conditions hold, and goes on behind its end if not.
func compileList(args []Arg) ([]unix.SockFilter, error) {
	var code []unix.SockFilter
	var misses []int // instructions that jump behind the end if they do not match
	for _, a := range args {
		if a.N < 0 || a.N > 5 {
			return nil, fmt.Errorf("there is no argument %d", a.N)
		}
		if len(a.Values) == 0 {
			return nil, fmt.Errorf("argument %d can have no value", a.N)
		}
		mask := a.Mask
		if mask == 0 {
			mask = ^uint64(0)
		}
		off := uint32(offsetArgs + 8*a.N)
		code = append(code, unix.SockFilter{Code: opLoad, K: off + 4}, unix.SockFilter{Code: opAnd, K: uint32(mask >> 32)})
		misses = append(misses, len(code))
		code = append(code, unix.SockFilter{Code: opEqual, K: 0})
		code = append(code, unix.SockFilter{Code: opLoad, K: off}, unix.SockFilter{Code: opAnd, K: uint32(mask)})
		for i, v := range a.Values {
			left := len(a.Values) - 1 - i // values behind this one
			if left > maxBlock {
				return nil, fmt.Errorf("argument %d has %d values, %d are possible", a.N, len(a.Values), maxBlock)
			}
			if left == 0 {
				misses = append(misses, len(code))
			}
			code = append(code, unix.SockFilter{Code: opEqual, Jt: uint8(left), K: v})
		}
	}
	code = append(code, unix.SockFilter{Code: opRet, K: unix.SECCOMP_RET_ALLOW})
	for _, at := range misses {
		far := len(code) - at - 1
		if far > maxBlock {
			return nil, fmt.Errorf("the conditions need %d instructions, %d are possible", len(code), maxBlock)
		}
		code[at].Jf = uint8(far)
	}
	return code, nil
}
