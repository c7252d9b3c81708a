// Package ring0 is the ring-0 core of native guests: the only thing in the VM beside the program. It is tables (GDT, IDT, one TSS a
// vCPU) and stubs that store registers and leave the VM; it decides nothing.
//
// What may not enter: page tables of programs, KVM, anything that runs on the host. The host side is guestkernel.
package ring0
