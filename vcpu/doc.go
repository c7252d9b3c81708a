// Package vcpu is one virtual CPU: its thread, its run loop, kicks, pause and stop,
// the decoding of exits, the saving and loading of its whole state, and the healing
// that a software KVM needs (instruction completion, the SYSCALL shim).
//
// A vCPU is one goroutine locked to its thread, in one of these states:
//
//	Created --Start--> Running <--Pause/Resume--> Paused
//	   |                 |   |                      |
//	   |                 |   +--cannot go on--> Faulted
//	   |                 |                          |
//	   +-------Stop------+-----------Stop-----------+--> Stopped
//
// A kick is an atomic flag, then kvm_run.immediate_exit, then a signal to the thread.
// Only the vCPU's thread clears the flag and immediate_exit, in the order that
// cannot lose a kick: immediate_exit first, then the flag is read.
//
// Devices are reached through two Bus values and are unknown here; so are kernels, boot
// protocols and everything about how a machine is put together.
package vcpu
