// Package probe finds out what this KVM is by running small hand-assembled guests on it:
// where SYSCALL arrives, how fast each privilege level runs, what an exit costs, which
// instructions are missing, whether CPUID can be masked. What every VM start must know is one tiny
// VM's work (Quick, cached); the rest is for diagnosis (Measure).
//
// Only measured facts come from here. What to do about them, and anything that knows a guest
// operating system, stays out.
package probe
