// Package mmio is the virtio-mmio transport, version 2 (virtio 1.2, 4.2): the registers of one device in a window of guest-physical
// addresses. It decodes accesses and passes them to a virtio.Instance; what is wrong with a queue or a status is judged there.
//
// The interrupt is a function, the doorbells are eventfds of the instance that the owner may connect to the register QueueNotify.
// KVM, buses and the machine may not enter.
package mmio
