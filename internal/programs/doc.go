// Package programs holds the programs that native guests are tried with, and what builds and runs them: small C
// programs below c, Go programs in directories of their own, and whatever the host has installed. Each is run natively
// and in a native guest, and what it says must be equal.
//
// Programs are built from source when they are asked for, with the host's gcc or Go, into the user's cache. QENEX is
// run as a program, as its user would: nothing of its rooms may enter here, but for kvmtest in the tests.
package programs
