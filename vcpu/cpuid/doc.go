// Package cpuid decides which CPUID leaves a vCPU shows to its guest: it starts from
// what KVM supports, applies a model that the user names, and corrects the parts that
// belong to one vCPU (identity, topology, clock).
//
// It works on lists of kvm.CPUIDEntry alone: it opens no device and touches no vCPU.
// Leaf and bit names are those of /proc/cpuinfo; their meaning is in the Intel SDM
// (vol. 2A, CPUID) and the AMD APM (vol. 3, appendix E); the 0x400000xx leaves are in
// the kernel's Documentation/virt/kvm/x86/cpuid.rst.
package cpuid
