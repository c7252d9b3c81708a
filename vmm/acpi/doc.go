// Package acpi writes the tables from which a guest learns its processors, interrupt lines and
// platform devices: hardware-reduced ACPI, or the older Intel MP table for kernels built without
// ACPI. It knows guest memory and package boot's memory map; devices, KVM and the running guest
// stay out, so a device must do what the tables promise of it by itself.
//
// Interrupts need no override: KVM's default routing connects global interrupt n to IOAPIC pin n,
// the PIT's being 0, and routes are left so.
//
// References: ACPI Specification 6.5 ("ACPI"), Intel MultiProcessor Specification 1.4 ("MP"),
// Microsoft's Virtual Machine Generation ID paper of 2012.
package acpi
