package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	dirNone  = 0
	dirWrite = 1
	dirRead  = 2
	kvmio    = 0xAE
)

// request builds an ioctl number (asm-generic/ioctl.h) for a KVM ioctl.
func request(dir, nr, size uintptr) uintptr {
	return dir<<30 | size<<16 | kvmio<<8 | nr
}

// ioctlArg runs an ioctl whose argument is a number and returns its result,
// retrying on EINTR.
func (f *fd) ioctlArg(name string, nr, arg uintptr) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.get()), request(dirNone, nr, 0), arg)
		if e == 0 {
			return int(r), nil
		}
		if e != unix.EINTR {
			return -1, ioctlError(name, f.what, e)
		}
	}
}

// ioctlPtr runs an ioctl whose argument points to size bytes, retrying on EINTR.
func (f *fd) ioctlPtr(name string, dir, nr, size uintptr, p unsafe.Pointer) (int, error) {
	req := request(dir, nr, size)
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.get()), req, uintptr(p))
		if e == 0 {
			return int(r), nil
		}
		if e != unix.EINTR {
			return -1, ioctlError(name, f.what, e)
		}
	}
}

// get reads a fixed-size structure (an _IOR ioctl).
func get[T any](f *fd, name string, nr uintptr, v *T) error {
	_, err := f.ioctlPtr(name, dirRead, nr, unsafe.Sizeof(*v), unsafe.Pointer(v))
	return err
}

// set writes a fixed-size structure (an _IOW ioctl).
func set[T any](f *fd, name string, nr uintptr, v *T) error {
	_, err := f.ioctlPtr(name, dirWrite, nr, unsafe.Sizeof(*v), unsafe.Pointer(v))
	return err
}

// exchange writes and reads a fixed-size structure (an _IOWR ioctl).
func exchange[T any](f *fd, name string, nr uintptr, v *T) error {
	_, err := f.ioctlPtr(name, dirRead|dirWrite, nr, unsafe.Sizeof(*v), unsafe.Pointer(v))
	return err
}

// bytesOf views a fixed-size structure as bytes, for variable-length ioctl buffers.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// ioctlBuffer runs an ioctl on a variable-length structure held in buf; size is the
// size that its ioctl number encodes (that of the fixed header).
func (f *fd) ioctlBuffer(name string, dir, nr, size uintptr, buf []byte) (int, error) {
	return f.ioctlPtr(name, dir, nr, size, unsafe.Pointer(unsafe.SliceData(buf)))
}

// addressOf returns the address of mapped memory for structures that carry
// user-space addresses. The memory must come from mmap: the collector neither moves
// nor frees it.
func addressOf(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}
