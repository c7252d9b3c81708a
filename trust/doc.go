// Package trust makes evidence of what QENEX does: it measures what a guest is made of into a TPM before the guest runs, and writes down
// who did what in an audit log that cannot be quietly changed.
//
// One process of a host, the keeper (Serve), has the TPM and the log: several processes cannot, and a guest that breaks out of its own
// cannot rewrite what was recorded of it. Its directory, the state, holds
//
//	trust.sock   where it is asked (0700, like all here)
//	audit/       the log, as package auditchain says; audit.key signs it, and audit.pub is for who verifies it
//	tpm/         the state of the swtpm that stands for a TPM where the host has none: it protects nothing against the host
//	eventlog     what was measured since the keeper began, in TCG's crypto-agile form
//
// The keeper hashes the files itself, by the descriptors that it is given, and QENEX's binary by the process that asks. It remembers digests
// by device, inode, size, and the times of the last change of content and of anything: in its memory only, so that there is no file
// that could be forged. Its trust in its own binary is the host's business: measured boot, IMA or dm-verity.
//
// A VTPM is a guest's own TPM: a swtpm for each VM, with the same digests in its PCRs.
//
// The package knows what a launch consists of, and neither KVM nor how guests are built: it imports tpm and auditchain only.
package trust
