// Package vmm puts a machine together and runs it: configuration, guest memory, boot
// loading, interrupt chips, devices, vCPUs, the lifecycle (start, pause, resume, stop), the stream
// of typed events, saving and loading of the whole machine's state, and the run report.
//
// One process runs one machine. Flags, exit codes and terminals belong to cmd/qenex; ioctls to kvm.
package vmm
