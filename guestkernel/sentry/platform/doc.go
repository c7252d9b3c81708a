// Package platform implements gVisor's platform interface on guestkernel: it translates registers, faults and mappings between the two,
// and decides nothing else. With package sentry, above it, it is the only importer of gVisor's Sentry.
package platform
