package guestkernel

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapFixed replaces the host mapping of mem by a file's.
func mapFixed(mem []byte, fd int, offset uint64, prot int) error {
	return remap(mem, prot, unix.MAP_SHARED|unix.MAP_FIXED, fd, offset)
}

// unmapFixed replaces the host mapping of mem by nothing, and keeps the addresses.
func unmapFixed(mem []byte) error {
	return remap(mem, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED, -1, 0)
}

func remap(mem []byte, prot, flags, fd int, offset uint64) error {
	_, err := unix.MmapPtr(fd, int64(offset), unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)), prot, flags)
	return err
}
