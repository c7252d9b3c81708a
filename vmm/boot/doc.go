// Package boot puts a kernel into guest memory and says how its first vCPU must start.
//
// It reads bzImage and ELF kernels, plain or compressed, the initial RAM disks and the command
// line, and writes what the three entry protocols want to find: the Linux zero page, the PVH start
// info, a GDT and identity page tables. It owns the x86 guest memory map of layout.go. It knows
// no KVM: the result is an [Entry] of plain numbers. ACPI and MP tables are the business of
// package acpi, devices that of package device; nothing here may learn of either.
//
// References: the Linux source's Documentation/x86/boot.rst and zero-page.rst ("boot.rst" below),
// Xen's public hvm/start_info.h and elfnote.h ("PVH"), and the System V ABI's ELF-64.
package boot
