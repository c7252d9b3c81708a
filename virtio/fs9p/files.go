package fs9p

import (
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkName refuses what is not the name of one entry of a directory.
func checkName(d *decoder, name string) error {
	switch {
	case d.bad || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	}
	return nil
}

// stat looks at a file that is held.
func stat(fd int) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, err
	}
	return &st, nil
}

// made wraps a descriptor, which it closes if it cannot be looked at.
func made(fd int) (*fid, *unix.Stat_t, error) {
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return &fid{fd: fd, kind: st.Mode & unix.S_IFMT}, st, nil
}

// clone returns a fid for the same file.
func clone(f *fid) (*fid, *unix.Stat_t, error) {
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return made(fd)
}

// beneath opens an entry of a directory and nothing else, no symbolic link's target and no other file system's root.
func beneath(dir int, name string, flags uint64, mode uint32) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{
		Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// child returns an entry of a directory, not opened; of a symbolic link it is the link.
func child(dir *fid, name string) (*fid, *unix.Stat_t, error) {
	if err := checkName(&decoder{}, name); err != nil {
		return nil, nil, err
	}
	fd, err := beneath(dir.fd, name, unix.O_PATH, 0)
	if err != nil {
		return nil, nil, err
	}
	return made(fd)
}

// link in /proc/self/fd of a file that is held: it leads to that very file, whatever its names are now.
func (f *fid) link() string { return strconv.Itoa(f.fd) }

// openFlags returns what of the guest's flags is for the host, and whether they allow to write.
func openFlags(flags uint32) (host int, write bool, err error) {
	access := int(flags) & unix.O_ACCMODE
	if access == unix.O_ACCMODE {
		return 0, false, unix.EINVAL
	}
	host = access | int(flags)&(unix.O_TRUNC|unix.O_APPEND|unix.O_SYNC|unix.O_DSYNC)
	return host, access != unix.O_RDONLY, nil
}

// reopen opens a file that is held. What is neither file nor directory is not opened: a device or a pipe would do more than that.
func (s *session) reopen(f *fid, flags uint32) error {
	host, write, err := openFlags(flags)
	switch {
	case err != nil:
		return err
	case f.open:
		return unix.EINVAL
	case f.kind == unix.S_IFDIR && (write || host&unix.O_TRUNC != 0):
		return unix.EISDIR
	case f.kind == unix.S_IFDIR:
		host = unix.O_DIRECTORY
	case f.kind == unix.S_IFLNK:
		return unix.ELOOP
	case f.kind != unix.S_IFREG:
		return unix.EPERM
	case s.readOnly && (write || host&unix.O_TRUNC != 0):
		return unix.EROFS
	}
	fd, err := unix.Openat(s.proc, f.link(), host|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	unix.Close(f.fd)
	f.fd, f.open, f.write = fd, true, write
	return nil
}

func (s *session) lopen(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	flags := d.u32()
	if d.bad {
		return unix.EINVAL
	}
	if err := s.reopen(f, flags); err != nil {
		return err
	}
	st, err := stat(f.fd)
	if err != nil {
		return err
	}
	s.reply.qid(st)
	s.reply.u32(0) // any size of reads and writes that fits a message
	return nil
}

func (s *session) lcreate(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name, flags, mode := d.str(), d.u32(), d.u32()
	d.u32() // the group: that of this process
	if err := checkName(d, name); err != nil {
		return err
	}
	host, write, err := openFlags(flags)
	if err != nil {
		return err
	}
	if f.open {
		return unix.EINVAL
	}
	var created *fid
	var st *unix.Stat_t
	fd, err := beneath(f.fd, name, uint64(host|unix.O_CREAT|unix.O_EXCL|unix.O_NOCTTY|unix.O_NONBLOCK), mode&0o777)
	switch {
	case err == nil:
		if created, st, err = made(fd); err != nil {
			return err
		}
		created.open, created.write = true, write
	case err == unix.EEXIST && flags&unix.O_EXCL == 0:
		if created, st, err = child(f, name); err != nil {
			return err
		}
		if err := s.reopen(created, flags); err != nil {
			unix.Close(created.fd)
			return err
		}
	default:
		return err
	}
	// The fid is the file's from now on.
	unix.Close(f.fd)
	*f = *created
	s.reply.qid(st)
	s.reply.u32(0)
	return nil
}

// transfer returns the fid, offset and count of a read or write.
func (s *session) transfer(d *decoder) (f *fid, off int64, n uint64, err error) {
	if f, err = s.get(d); err != nil {
		return nil, 0, 0, err
	}
	from, count := d.u64(), d.u32()
	if d.bad || !f.open || from > math.MaxInt64 {
		return nil, 0, 0, unix.EINVAL
	}
	return f, int64(from), uint64(count), nil
}

// read reads from the file into the guest's own buffer.
func (s *session) read(d *decoder, resp [][]byte, room uint64) (int, error) {
	f, off, n, err := s.transfer(d)
	if err != nil {
		return 0, err
	}
	if f.kind != unix.S_IFREG {
		return 0, unix.EISDIR
	}
	got := 0
	if views := part(resp, readHeader, min(n, room-readHeader)); len(views) > 0 {
		if got, err = unix.Preadv(f.fd, views, off); err != nil {
			return 0, err
		}
	}
	s.reply.u32(uint32(got))
	return got, nil
}

// write writes from the guest's own buffer to the file.
func (s *session) write(d *decoder, req [][]byte, size uint64) error {
	f, off, n, err := s.transfer(d)
	if err != nil {
		return err
	}
	if !f.write {
		return unix.EBADF
	}
	if n > size-min(size, writeHeader) {
		return unix.EINVAL
	}
	put := 0
	if views := part(req, writeHeader, n); len(views) > 0 {
		if put, err = unix.Pwritev(f.fd, views, off); err != nil {
			return err
		}
	}
	s.reply.u32(uint32(put))
	return nil
}

func (s *session) fsync(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	if !f.open {
		return unix.EINVAL
	}
	if len(d.b) >= 4 && d.u32() != 0 {
		return unix.Fdatasync(f.fd)
	}
	return unix.Fsync(f.fd)
}

func (s *session) lock(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	if !f.open {
		return unix.EINVAL
	}
	s.reply.u8(0) // granted
	return nil
}

func (s *session) getlock(d *decoder) error {
	if _, err := s.get(d); err != nil {
		return err
	}
	d.u8()
	start, n, pid, client := d.u64(), d.u64(), d.u32(), d.str()
	if d.bad {
		return unix.EINVAL
	}
	s.reply.u8(unix.F_UNLCK) // nobody else has it
	s.reply.u64(start)
	s.reply.u64(n)
	s.reply.u32(pid)
	s.reply.str(client)
	return nil
}
