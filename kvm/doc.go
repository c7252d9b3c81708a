// Package kvm is the KVM ABI and nothing else: types that own the file
// descriptors of /dev/kvm, a VM and a vCPU, one method for each ioctl, the shared
// kvm_run area, and capability checks. Structure layouts come from
// github.com/bobuhiro11/gokvm/kvm where that package has them right, and are our
// own where it has not.
//
// Policy, devices, guest memory layout and anything that knows Linux stay out.
//
// Every ioctl but KVM_RUN is retried on EINTR: the Go runtime's preemption signal
// may interrupt any of them. KVM_RUN is never retried here; its EINTR means that
// somebody kicked the vCPU, and the caller must look why.
//
// The reference for names and semantics is the kernel's Documentation/virt/kvm/api.rst.
package kvm
