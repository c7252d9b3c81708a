package balloon

import (
	"errors"
	"unsafe"

	"github.com/qenex/qenex-kernel/memmap"
)

// address returns the guest-physical address of a view of guest memory, which is not empty.
func address(mem *memmap.Memory, view []byte) (uint64, error) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(view)))
	for _, r := range mem.Regions() {
		whole, err := mem.View(r.GPA, r.Size)
		if err != nil {
			return 0, err
		}
		if off := at - uintptr(unsafe.Pointer(unsafe.SliceData(whole))); uint64(off) < r.Size {
			return r.GPA + uint64(off), nil
		}
	}
	return 0, errors.New("balloon: a buffer that is no guest memory")
}
