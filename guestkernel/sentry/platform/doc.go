// Package platform implements gVisor's platform interface on guestkernel: it translates registers, faults and mappings between the two,
// and decides nothing else. Nothing outside guestkernel/sentry imports gVisor's Sentry.
package platform
