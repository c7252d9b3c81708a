// Package kvmtest is what every room's tests on a real KVM share: one way to open the device, one
// way to skip without it, and one leak check. It is imported by tests only and knows nothing above
// the kvm room.
package kvmtest
