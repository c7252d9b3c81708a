// Package guestkernel runs programs at CPL 3 in a VM of their own, with the ring-0 core (package ring0) as the only other thing in it:
// the host side of native guests. It owns the VM, its memory windows, address spaces and vCPUs, and hands system calls and faults of a
// program to whoever called Context.Run. It knows no Linux: the small ABI in tiny.go serves tests and benchmarks, the Linux ABI is
// the business of package sentry.
//
// # How a program runs
//
// A Context is one thread of a program. Run gives it a vCPU until it traps. There are two ways:
//
//   - direct: the calling thread enters the VM itself; every trap is an exit.
//   - exit-less: another thread, a runner, stays in the VM with one of its vCPUs. The syscall stub leaves the registers in a slot (a shared page) and
//     looks for the answer there, while the caller of Run looks for the next request. Nobody exits, and a system call costs
//     two cache lines instead of two world switches. Both sides give up after a while and fall back to an exit.
//
// Run chooses. Exit-less calls pay where an exit is dear, so New measures one; for programs that trap often, so each Context keeps a pace; and where a CPU
// is to spare for the caller, so there are permits, half as many as CPUs, and everybody rests from them when answers come too late.
//
// # Stale translations
//
// Page tables are written from the host. A shadow MMU does not see that, nor does a TLB. So after an entry was removed or replaced, the old page's part of the
// memory slot is dropped from the host's page tables (madvise): KVM then forgets every translation to it. Tables of
// released address spaces are used again only after a flush of everything.
//
// What may not enter: gVisor, files, signals, devices.
package guestkernel
