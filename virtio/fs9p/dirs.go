package fs9p

import (
	"bytes"
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"
)

// maxListing bounds what is read of a directory for one answer, in bytes.
const maxListing = 32 << 10

// maxTarget bounds a symbolic link's target in bytes.
const maxTarget = 4095

// readdir lists a directory from a cookie on: 0, or one of an earlier answer.
func (s *session) readdir(d *decoder, room uint64) error {
	f, off, n, err := s.transfer(d)
	if err != nil {
		return err
	}
	if f.kind != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if _, err := unix.Seek(f.fd, off, unix.SEEK_SET); err != nil {
		return err
	}
	e := &s.reply
	e.u32(0) // how much, below
	limit := int(min(n, room-readHeader, maxListing))
	buf := make([]byte, maxListing)
	for {
		n, err := unix.Getdents(f.fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		full := false
		for b := buf[:n]; len(b) > 0 && !full; {
			// struct linux_dirent64: ino[8] off[8] reclen[2] type[1] name
			size := binary.LittleEndian.Uint16(b[16:])
			name, _, _ := bytes.Cut(b[19:size], []byte{0})
			if full = len(e.b)-readHeader+entrySize+len(name) > limit; !full {
				e.u8(qidType(uint32(b[18]) << 12))
				e.u32(0)
				e.u64(binary.LittleEndian.Uint64(b))
				e.u64(binary.LittleEndian.Uint64(b[8:]))
				e.u8(b[18])
				e.str(string(name))
			}
			b = b[size:]
		}
		if full {
			if len(e.b) == readHeader {
				return unix.EINVAL // not one fits
			}
			break
		}
	}
	binary.LittleEndian.PutUint32(e.b[headerSize:], uint32(len(e.b)-readHeader))
	return nil
}

// entry encodes the qid of an entry that was made.
func (s *session) entry(dir *fid, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	s.reply.qid(&st)
	return nil
}

func (s *session) mkdir(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name, mode := d.str(), d.u32()
	if err := checkName(d, name); err != nil {
		return err
	}
	if err := unix.Mkdirat(f.fd, name, mode&0o1777); err != nil {
		return err
	}
	return s.entry(f, name)
}

func (s *session) symlink(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name, target := d.str(), d.str()
	if err := checkName(d, name); err != nil {
		return err
	}
	if len(target) > maxTarget {
		return unix.ENAMETOOLONG
	}
	if err := unix.Symlinkat(target, f.fd, name); err != nil {
		return err
	}
	return s.entry(f, name)
}

// mknod makes a regular file, a pipe or a socket, which the guest itself uses.
func (s *session) mknod(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name, mode := d.str(), d.u32()
	if err := checkName(d, name); err != nil {
		return err
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return unix.EPERM
	}
	if err := unix.Mknodat(f.fd, name, mode&(unix.S_IFMT|0o777), 0); err != nil {
		return err
	}
	return s.entry(f, name)
}

func (s *session) link(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	target, err := s.get(d)
	if err != nil {
		return err
	}
	name := d.str()
	if err := checkName(d, name); err != nil {
		return err
	}
	return unix.Linkat(s.proc, target.link(), f.fd, name, unix.AT_SYMLINK_FOLLOW)
}

func (s *session) renameat(d *decoder) error {
	from, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name := d.str()
	if err := checkName(d, name); err != nil {
		return err
	}
	to, err := s.dir(d, true)
	if err != nil {
		return err
	}
	newName := d.str()
	if err := checkName(d, newName); err != nil {
		return err
	}
	return unix.Renameat(from.fd, name, to.fd, newName)
}

func (s *session) unlinkat(d *decoder) error {
	f, err := s.dir(d, true)
	if err != nil {
		return err
	}
	name, flags := d.str(), d.u32()
	if err := checkName(d, name); err != nil {
		return err
	}
	if flags&^unix.AT_REMOVEDIR != 0 {
		return unix.EINVAL
	}
	return unix.Unlinkat(f.fd, name, int(flags))
}

func (s *session) readlink(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	if f.kind != unix.S_IFLNK {
		return unix.EINVAL
	}
	buf := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(f.fd, "", buf)
	if err != nil {
		return err
	}
	if n > min(maxTarget, math.MaxUint16) {
		return unix.ENAMETOOLONG
	}
	s.reply.str(string(buf[:n]))
	return nil
}
