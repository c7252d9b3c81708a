package guestkernel

import (
	"unsafe"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// tableAt returns the page table at gpa. mem begins at gpa 0; the slice expression checks the bounds.
func tableAt(mem []byte, gpa uint64) *pagetable.Table {
	return (*pagetable.Table)(unsafe.Pointer(unsafe.SliceData(mem[gpa : gpa+pagetable.PageSize])))
}

// slotAt returns the slot at offset bytes into the slot page at gpa.
func slotAt(mem []byte, gpa, offset uint64) *ring0.Slot {
	return (*ring0.Slot)(unsafe.Pointer(unsafe.SliceData(mem[gpa+offset : gpa+offset+ring0.SlotSize])))
}
