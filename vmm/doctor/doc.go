// Package doctor examines the machine QENEX is on and says whether guests can run, how fast, and what to
// change: the KVM device and what it measures as, each KVM capability, and the host around it. It only
// looks; it changes nothing and builds no machine beyond the probes' tiny guests.
package doctor
