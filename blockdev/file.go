package blockdev

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Cache says what the host keeps of a disk in memory, and what Flush means.
type Cache string

const (
	// Writeback uses the host's page cache; Flush makes it durable.
	Writeback Cache = "writeback"
	// Direct passes the page cache by (O_DIRECT), for requests that are aligned as the file system wants it; the others go
	// through the page cache. Flush is still needed, and makes it durable.
	Direct Cache = "none"
	// Unsafe uses the page cache, and Flush does nothing: data of a guest that can be thrown away.
	Unsafe Cache = "unsafe"
)

// maxVec is how many buffers the kernel takes in one system call (UIO_MAXIOV).
const maxVec = 1024

// file is an open image: a regular file or a block device, of which the bytes up to size are used. All methods but close may
// be called concurrently.
type file struct {
	path   string // for errors; immutable
	fd     int    // immutable until close
	direct int    // the same file with O_DIRECT, or -1; immutable until close
	align  int64  // of offsets, lengths and memory for direct; immutable
	size   int64  // immutable
	device bool   // a block device; immutable
	unsafe bool   // sync does nothing; immutable

	broken atomic.Pointer[error] // why the first sync failed
}

// openFile opens and locks the image at path.
func openFile(path string, cache Cache, write bool) (*file, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	// O_NONBLOCK: the open of a FIFO would wait.
	fd, err := retry(func() (int, error) {
		return unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("open disk image %s: %w", path, err)
	}
	f, err := newFile(fd, path, cache)
	if err == nil {
		err = f.lock(write)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// newFile takes fd over: close it also after an error.
func newFile(fd int, path string, cache Cache) (*file, error) {
	f := &file{path: path, fd: fd, direct: -1, unsafe: cache == Unsafe}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return f, fmt.Errorf("disk image %s: fstat: %w", path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.size = st.Size
	case unix.S_IFBLK:
		f.device = true
		size, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			return f, fmt.Errorf("size of block device %s: %w", path, err)
		}
		f.size = size
	default:
		return f, fmt.Errorf("disk image %s: %w: neither a regular file nor a block device", path, ErrImage)
	}
	if cache != Direct {
		return f, nil
	}
	return f, f.openDirect()
}

// openDirect opens the file once more, past the page cache. The kernel keeps the two ways coherent.
func (f *file) openDirect() error {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("disk image %s: fcntl: %w", f.path, err)
	}
	f.direct, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.fd), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		f.direct = -1
		return fmt.Errorf("disk image %s: its file system cannot pass the page cache by (O_DIRECT: %w); use cache mode %s", f.path, err, Writeback)
	}
	f.align = 4096
	var st unix.Statx_t
	if err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		f.align = int64(max(st.Dio_offset_align, st.Dio_mem_align, SectorSize))
	}
	return nil
}

func (f *file) close() error {
	err := unix.Close(f.fd)
	if f.direct >= 0 {
		err = errors.Join(err, unix.Close(f.direct))
	}
	if err != nil {
		return fmt.Errorf("close disk image %s: %w", f.path, err)
	}
	return nil
}

// choose returns the descriptor for a request.
func (f *file) choose(vec [][]byte, off int64) int {
	if f.direct >= 0 && off%f.align == 0 && aligned(vec, f.align) {
		return f.direct
	}
	return f.fd
}

// readAt fills vec from off.
func (f *file) readAt(vec [][]byte, off int64) error {
	err := transfer(vec, off, f.choose(vec, off), unix.Preadv)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrTruncated
	}
	if err != nil {
		return fmt.Errorf("read %d bytes at offset %d of %s: %w", length(vec), off, f.path, err)
	}
	return nil
}

// tryRead fills vec from off if all of it is in the page cache.
func (f *file) tryRead(vec [][]byte, off int64) bool {
	if f.direct >= 0 || len(vec) > maxVec {
		return false
	}
	n, err := unix.Preadv2(f.fd, vec, off, unix.RWF_NOWAIT)
	return err == nil && int64(n) == length(vec)
}

// writeAt stores vec at off. It does not make the file longer than it was when it was opened; nor longer than it is, but for the
// moment between the look and the write.
func (f *file) writeAt(vec [][]byte, off int64) error {
	err := f.room(off, length(vec))
	if err == nil {
		err = transfer(vec, off, f.choose(vec, off), unix.Pwritev)
	}
	if err != nil {
		return fmt.Errorf("write %d bytes at offset %d of %s: %w", length(vec), off, f.path, err)
	}
	return nil
}

// room says whether the file still has n bytes at off.
func (f *file) room(off, n int64) error {
	if err := inside(off, n, f.size); err != nil || f.device {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Size < off+n {
		return ErrTruncated
	}
	return nil
}

// sync makes the data that was written durable. The size of the file does not change, so its other metadata can be lost.
func (f *file) sync() error {
	if f.unsafe {
		return nil
	}
	if err := f.broken.Load(); err != nil {
		return *err
	}
	if _, err := retry(func() (int, error) { return 0, unix.Fdatasync(f.fd) }); err != nil {
		err = fmt.Errorf("make %s durable: fdatasync: %w; what was written since the last flush may be lost", f.path, err)
		f.broken.CompareAndSwap(nil, &err)
		return err
	}
	return nil
}

// transfer calls op until all of vec is read or written.
func transfer(vec [][]byte, off int64, fd int, op func(fd int, vec [][]byte, off int64) (int, error)) error {
	left := length(vec)
	for left > 0 {
		n, err := retry(func() (int, error) { return op(fd, vec[:min(len(vec), maxVec)], off) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		left, off = left-int64(n), off+int64(n)
		if left > 0 {
			vec = Cut(vec, int64(n), left)
		}
	}
	return nil
}

// retry calls f again while a signal interrupts it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
