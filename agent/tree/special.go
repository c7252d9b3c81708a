package tree

import (
	"archive/tar"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// special makes a device or a FIFO, if the stream is trusted.
func (u *unpacker) special(name string, h *tar.Header) error {
	if !u.o.Trusted {
		if u.o.Skipped != nil {
			u.o.Skipped(name)
		}
		return nil
	}
	if err := u.clear(name); err != nil {
		return err
	}
	dir, err := u.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	number := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknodat(int(dir.Fd()), path.Base(name), kind|0o600, int(number)); err != nil {
		return &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	return u.root.Chmod(name, u.mode(h))
}

// inode is what tells hard links from other files.
type inode struct{ device, number uint64 }

// describe adds to h what the host's stat says beside mode, size and time.
func describe(h *tar.Header, st os.FileInfo) (id inode, links uint64) {
	s := st.Sys().(*syscall.Stat_t)
	h.Uid, h.Gid = int(s.Uid), int(s.Gid)
	if st.Mode()&os.ModeDevice != 0 {
		h.Devmajor, h.Devminor = int64(unix.Major(s.Rdev)), int64(unix.Minor(s.Rdev))
	}
	return inode{s.Dev, s.Ino}, uint64(s.Nlink)
}
