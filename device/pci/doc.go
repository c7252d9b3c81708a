// Package pci is a PCI host bridge with one bus: configuration access by the ports 0xcf8 and 0xcfc, functions with one memory
// window, a capability list, a level interrupt and MSI-X (PCI Local Bus Specification 3.0).
//
// What a function does, and where its messages and windows lead, is given as functions. KVM, guest memory and virtio may not enter.
package pci
