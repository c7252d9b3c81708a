// Package svmlane runs KVM test binaries on a KVM with the semantics of real hardware, wherever the tests themselves run:
// inside a machine that QEMU emulates, with AMD's SVM and nested paging, under Debian's stock kernel.
//
// It starts that outer machine once for a list of statically linked test binaries, hands in the files they need, and
// brings their results back in `go test` form. It knows nothing of what the tests test, and is imported by tests and by
// the command svmtest only. It needs qemu-system-x86_64 and the guest artefacts (`make guest-stock`), not the host's KVM.
package svmlane
