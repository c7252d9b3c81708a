// Package memmap is the guest-physical address space: RAM with its hole below 4 GiB,
// the one bounds-checked type through which every part of QENEX touches guest memory,
// and the KVM memory slots that show it to a VM.
//
// RAM is a memfd, mapped shared and without reservation: creating a guest of any size
// touches no page, and snapshots and forks can share the file. Devices, kernels and
// anything that interprets the bytes stay out.
package memmap
