// Package virtio is the device side of virtio 1.2: the Device interface, split virtqueues, feature
// negotiation and the device status. It stands between a transport (virtio/mmio, virtio/pci), which turns
// register accesses into calls of an Instance, and a device (virtio/block and others), which gets its Queues.
//
// Everything a driver writes is checked here, once: the place of the rings, indices, lengths and addresses of
// descriptors. What breaks a rule of the specification puts the device into DEVICE_NEEDS_RESET with its
// reason; devices see only chains of views that lie in guest memory.
//
// KVM, buses and the machine may not enter: an Instance is given memory and a Host, and offers eventfds.
package virtio
