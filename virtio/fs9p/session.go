package fs9p

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/virtio"
)

// session is what a guest has open. It is for one goroutine.
type session struct {
	root, proc int // O_PATH descriptors of the directory and of /proc/self/fd
	readOnly   bool
	maxFIDs    int

	msize uint32 // of Tversion; 0 before it
	fids  map[uint32]*fid

	buf   [maxRequest]byte
	reply encoder
}

// fid is a file that the guest holds.
type fid struct {
	fd    int    // O_PATH until the file is opened
	kind  uint32 // S_IFMT bits
	open  bool
	write bool // opened for writing
}

// reset closes all files.
func (s *session) reset() {
	for n := range s.fids {
		s.clunk(n)
	}
	s.msize = 0
}

func (s *session) clunk(n uint32) {
	unix.Close(s.fids[n].fd)
	delete(s.fids, n)
}

// insert makes n a fid for fd, which it closes if that cannot be. A fid that is in use is none of a client that counts.
func (s *session) insert(n uint32, f *fid) error {
	if s.fids[n] != nil || n == noFID {
		unix.Close(f.fd)
		return unix.EBADF
	}
	if len(s.fids) >= s.maxFIDs {
		unix.Close(f.fd)
		return unix.EMFILE
	}
	s.fids[n] = f
	return nil
}

// get returns the next fid of a request.
func (s *session) get(d *decoder) (*fid, error) {
	f := s.fids[d.u32()]
	if d.bad {
		return nil, unix.EINVAL
	}
	if f == nil {
		return nil, unix.EBADF
	}
	return f, nil
}

// dir returns the next fid of a request, a directory that can be changed if change is set.
func (s *session) dir(d *decoder, change bool) (*fid, error) {
	f, err := s.get(d)
	switch {
	case err != nil:
		return nil, err
	case f.kind != unix.S_IFDIR:
		return nil, unix.ENOTDIR
	case change && s.readOnly:
		return nil, unix.EROFS
	}
	return f, nil
}

// serve answers the request in req and returns the answer's size. An error is a request that cannot be answered.
func (s *session) serve(req, resp [][]byte) (uint32, error) {
	n := take(s.buf[:], req)
	total, room := length(req), length(resp)
	if n < headerSize || room < errorSize {
		return 0, fmt.Errorf("%w: a 9p request of %d bytes with room for an answer of %d", virtio.ErrProtocol, total, room)
	}
	size := binary.LittleEndian.Uint32(s.buf[:])
	typ, tag := s.buf[4], binary.LittleEndian.Uint16(s.buf[5:])
	s.reply.header()
	extra, err := 0, error(unix.EINVAL)
	if size >= headerSize && uint64(size) <= total && (s.msize == 0 || size <= s.msize) {
		if s.msize != 0 {
			room = min(room, uint64(s.msize))
		}
		d := &decoder{b: s.buf[headerSize:min(n, int(size))]}
		switch {
		case typ == tWrite:
			err = s.write(d, req, uint64(size))
		case int(size) > n:
			err = unix.EMSGSIZE
		case typ == tRead:
			extra, err = s.read(d, resp, room)
		case typ == tReaddir:
			err = s.readdir(d, room)
		case s.msize == 0 && typ != tVersion:
			err = unix.EPROTO
		default:
			err = s.handle(typ, d)
		}
		if err == nil && uint64(len(s.reply.b)+extra) > room {
			err = unix.EMSGSIZE
		}
	}
	if err != nil {
		var errno unix.Errno
		if !errors.As(err, &errno) {
			errno = unix.EIO
		}
		s.reply.header()
		s.reply.u32(uint32(errno))
		typ, extra = tError, 0
	}
	s.reply.finish(typ+1, tag, extra)
	put(resp, s.reply.b)
	return uint32(len(s.reply.b) + extra), nil
}

// handle does what a request says and encodes its answer.
func (s *session) handle(typ uint8, d *decoder) error {
	switch typ {
	case tVersion:
		return s.version(d)
	case tAttach:
		return s.attach(d)
	case tFlush:
		return nil // requests are served in their order: the old one is answered
	case tWalk:
		return s.walk(d)
	case tClunk, tRemove:
		n := d.u32()
		if s.fids[n] == nil || d.bad {
			return unix.EBADF
		}
		s.clunk(n)
		if typ == tRemove {
			return unix.EOPNOTSUPP
		}
		return nil
	case tStatfs:
		return s.statfs(d)
	case tLopen:
		return s.lopen(d)
	case tLcreate:
		return s.lcreate(d)
	case tSymlink:
		return s.symlink(d)
	case tMknod:
		return s.mknod(d)
	case tReadlink:
		return s.readlink(d)
	case tGetattr:
		return s.getattr(d)
	case tSetattr:
		return s.setattr(d)
	case tFsync:
		return s.fsync(d)
	case tLock:
		return s.lock(d)
	case tGetlock:
		return s.getlock(d)
	case tLink:
		return s.link(d)
	case tMkdir:
		return s.mkdir(d)
	case tRenameat:
		return s.renameat(d)
	case tUnlinkat:
		return s.unlinkat(d)
	}
	return unix.EOPNOTSUPP
}

func (s *session) version(d *decoder) error {
	msize, version := d.u32(), d.str()
	if d.bad || msize < minMessage {
		return unix.EINVAL
	}
	s.reset()
	if version != "9P2000.L" {
		s.reply.u32(msize)
		s.reply.str("unknown")
		return nil
	}
	s.msize = min(msize, maxMessage)
	s.reply.u32(s.msize)
	s.reply.str(version)
	return nil
}

func (s *session) attach(d *decoder) error {
	n, auth := d.u32(), d.u32()
	_, name := d.str(), d.str()
	if d.bad || auth != noFID {
		return unix.EINVAL
	}
	if name != "" && name != "/" {
		return unix.ENOENT
	}
	f, st, err := clone(&fid{fd: s.root})
	if err != nil {
		return err
	}
	if err := s.insert(n, f); err != nil {
		return err
	}
	s.reply.qid(st)
	return nil
}

// walk goes from a fid by names. As the protocol has it, not all of the way is no error, unless it is nothing of the way; the new fid is there
// only for all of it.
func (s *session) walk(d *decoder) error {
	n := d.u32()
	to := d.u32()
	names := make([]string, min(d.u16(), maxNames+1))
	for i := range names {
		names[i] = d.str()
	}
	from := s.fids[n]
	switch {
	case d.bad || len(names) > maxNames:
		return unix.EINVAL
	case from == nil:
		return unix.EBADF
	case len(names) > 0 && from.kind != unix.S_IFDIR:
		return unix.ENOTDIR
	case n == to && from.open:
		return unix.EBUSY
	case n != to && s.fids[to] != nil:
		return unix.EBADF
	}
	s.reply.u16(0) // how many, below
	f, _, err := clone(from)
	if err != nil {
		return err
	}
	for i, name := range names {
		next, st, err := child(f, name)
		unix.Close(f.fd)
		if err != nil && i == 0 {
			return err
		}
		if err != nil {
			return nil
		}
		f = next
		s.reply.qid(st)
		binary.LittleEndian.PutUint16(s.reply.b[headerSize:], uint16(i+1))
	}
	if n == to {
		s.clunk(n)
	}
	return s.insert(to, f)
}
