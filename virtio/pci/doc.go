// Package pci is the virtio-pci transport of modern devices (virtio 1.2, 4.1): a PCI function whose window has the common
// configuration, the notification area, the interrupt status, the device's configuration and the MSI-X tables. It decodes accesses and passes
// them to a virtio.Instance; what is wrong with a queue or a status is judged there.
//
// Interrupt pin and messages are functions, the doorbells are eventfds of the instance that the owner may connect to the notification
// area. KVM and the machine may not enter.
package pci
