// Package virtiotest is a virtio driver without a guest, for the tests of devices: Driver does what the specification asks of a
// driver, Nonsense does what comes by chance. Both work on a virtio.Instance and plain guest memory; no KVM is needed.
package virtiotest
