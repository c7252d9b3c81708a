package fs9p

import (
	"math"

	"golang.org/x/sys/unix"
)

// getattrBasic are the attributes that every answer has.
const getattrBasic = 0x7ff

// Bits of Tsetattr.
const (
	setMode = 1 << iota
	setUID
	setGID
	setSize
	setAtime
	setMtime
	setCtime
	setAtimeTo
	setMtimeTo
)

// statfsMagic is the type of file system that guests know 9p by.
const statfsMagic = 0x01021997

func (s *session) getattr(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	st, err := stat(f.fd)
	if err != nil {
		return err
	}
	e := &s.reply
	e.u64(getattrBasic)
	e.qid(st)
	e.u32(st.Mode)
	e.u32(st.Uid)
	e.u32(st.Gid)
	for _, v := range [...]uint64{
		uint64(st.Nlink), st.Rdev, uint64(st.Size), uint64(st.Blksize), uint64(st.Blocks),
		uint64(st.Atim.Sec), uint64(st.Atim.Nsec), uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec),
		0, 0, 0, 0, // btime, generation and data version are not known
	} {
		e.u64(v)
	}
	return nil
}

func (s *session) setattr(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	valid, mode, uid, gid, size := d.u32(), d.u32(), d.u32(), d.u32(), d.u64()
	times := [2]unix.Timespec{}
	for i := range times {
		sec, nsec := d.u64(), d.u64()
		if nsec >= 1e9 {
			nsec = 1e9 // refused below, if it is asked for: the special values are no time of the guest
		}
		times[i] = unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
	}
	if d.bad {
		return unix.EINVAL
	}
	if s.readOnly {
		return unix.EROFS
	}
	if valid&(setUID|setGID) != 0 {
		st, err := stat(f.fd)
		if err != nil {
			return err
		}
		if valid&setUID != 0 && uid != st.Uid && uid != math.MaxUint32 || valid&setGID != 0 && gid != st.Gid && gid != math.MaxUint32 {
			return unix.EPERM
		}
	}
	if valid&setMode != 0 {
		if err := s.chmod(f, mode); err != nil {
			return err
		}
	}
	if valid&setSize != 0 {
		if err := s.truncate(f, size); err != nil {
			return err
		}
	}
	return s.setTimes(f, valid, times)
}

func (s *session) chmod(f *fid, mode uint32) error {
	switch {
	case f.kind == unix.S_IFLNK:
		return unix.EOPNOTSUPP
	case mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return unix.EPERM
	}
	return unix.Fchmodat(s.proc, f.link(), mode&0o1777, 0)
}

func (s *session) truncate(f *fid, size uint64) error {
	switch {
	case f.kind != unix.S_IFREG:
		return unix.EINVAL
	case size > math.MaxInt64:
		return unix.EFBIG
	case f.write:
		return unix.Ftruncate(f.fd, int64(size))
	}
	fd, err := unix.Openat(s.proc, f.link(), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, int64(size))
}

func (s *session) setTimes(f *fid, valid uint32, times [2]unix.Timespec) error {
	if valid&(setAtime|setMtime) == 0 {
		return nil
	}
	for i, bits := range [...]struct{ set, to uint32 }{{setAtime, setAtimeTo}, {setMtime, setMtimeTo}} {
		switch {
		case valid&bits.set == 0:
			times[i].Nsec = unix.UTIME_OMIT
		case valid&bits.to == 0:
			times[i].Nsec = unix.UTIME_NOW
		case times[i].Nsec >= 1e9:
			return unix.EINVAL
		}
	}
	return unix.UtimesNanoAt(s.proc, f.link(), times[:], 0)
}

func (s *session) statfs(d *decoder) error {
	f, err := s.get(d)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return err
	}
	e := &s.reply
	e.u32(statfsMagic)
	e.u32(uint32(st.Bsize))
	e.u64(st.Blocks)
	e.u64(st.Bfree)
	e.u64(st.Bavail)
	e.u64(st.Files)
	e.u64(st.Ffree)
	e.u64(0)
	e.u32(uint32(st.Namelen))
	return nil
}
