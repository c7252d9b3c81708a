package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts, as the OCI image specification's "layer" chapter has them.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// unpacker puts layers, one above the other, into a directory.
type unpacker struct {
	t       *tree
	limits  Limits // what is left
	skipped []string
	missed  int // entries that were skipped

	// For the layer at hand:
	layered bool                // whiteouts mean something
	made    map[inode]struct{}  // what it brought
	dirs    map[string]dirTimes // directories whose times are set at the end
}

type dirTimes struct{ atime, mtime time.Time }

// newUnpacker fills dir, which exists and is empty. Without root the owners are the caller, who gets the right to read everything.
func newUnpacker(dir string, l Limits) (*unpacker, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{t: t, limits: l.withDefaults()}, nil
}

func (u *unpacker) close() { u.t.close() }

// layer unpacks one plain tar.
func (u *unpacker) layer(r io.Reader, whiteouts bool) error {
	u.layered, u.made, u.dirs = whiteouts, map[inode]struct{}{}, map[string]dirTimes{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return u.finishDirs()
		}
		if err != nil {
			return invalid("broken tar: %w", err)
		}
		if u.limits.Entries--; u.limits.Entries < 0 {
			return invalid("too many files")
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("unpacking %.200q: %w", h.Name, err)
		}
	}
}

// cleanName returns a path of an archive relative to the root, "" for the root itself.
func cleanName(name string) (string, error) {
	if len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
		return "", invalid("a path longer than %d bytes or with a zero byte", maxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", invalid("the path climbs with ..")
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return invalid("the root is no directory")
		}
		return u.rootEntry(h)
	}
	if base := path.Base(name); u.layered && strings.HasPrefix(base, whiteout) {
		return u.whiteout(path.Dir(name), base)
	}
	fd, base, err := u.t.parent(name, u.note)
	if err != nil {
		return err
	}
	if err := u.makeWay(h, fd, base); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err = unix.Mkdirat(fd, base, 0o700); err == unix.EEXIST {
			err = nil
		}
		u.dirs[name] = dirTimes{h.AccessTime, h.ModTime}
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(h, data, fd, base)
	case tar.TypeSymlink:
		if len(h.Linkname) > maxName {
			return invalid("the link is longer than %d bytes", maxName)
		}
		err = unix.Symlinkat(h.Linkname, fd, base)
	case tar.TypeLink:
		return u.link(h.Linkname, fd, base)
	case tar.TypeFifo:
		err = unix.Mkfifoat(fd, base, 0o600)
	case tar.TypeChar, tar.TypeBlock:
		return u.device(h, fd, base)
	default:
		return invalid("type %q is not known", h.Typeflag)
	}
	if err != nil {
		return err
	}
	return u.attributes(h, fd, base)
}

func (u *unpacker) rootEntry(h *tar.Header) error {
	fd, err := resolveIn(u.t.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	u.dirs[""] = dirTimes{h.AccessTime, h.ModTime}
	if u.t.root {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, u.mode(h))
}

// makeWay removes what is in the way of a new entry. A directory stays where a directory comes.
func (u *unpacker) makeWay(h *tar.Header, fd int, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir && h.Typeflag == tar.TypeDir {
		return nil
	}
	if h.Typeflag == tar.TypeLink && !dir {
		if same, err := u.sameFile(h.Linkname, st); same || err != nil {
			return err // removing it would remove the target
		}
	}
	u.t.stale()
	if dir {
		return removeAll(fd, base)
	}
	return unix.Unlinkat(fd, base, 0)
}

// file writes a regular file.
func (u *unpacker) file(h *tar.Header, data io.Reader, fd int, base string) error {
	if u.limits.Bytes -= h.Size; h.Size < 0 || u.limits.Bytes < 0 {
		return invalid("the image is larger than allowed")
	}
	w, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(w), base)
	_, err = io.Copy(f, data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.attributes(h, fd, base)
}

// target opens the directory of a hard link's target.
func (u *unpacker) target(linkname string) (fd int, base string, err error) {
	name, err := cleanName(linkname)
	if err != nil || name == "" {
		return -1, "", errors.Join(err, invalid("a hard link to %.200q", linkname))
	}
	dir, base := path.Split(name)
	fd, err = resolveIn(u.t.fd, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, "", invalid("the hard link's target %.200q: %w", linkname, err)
	}
	return fd, base, nil
}

func (u *unpacker) sameFile(linkname string, st unix.Stat_t) (bool, error) {
	fd, base, err := u.target(linkname)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var other unix.Stat_t
	if err := unix.Fstatat(fd, base, &other, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, invalid("the hard link's target %.200q: %w", linkname, err)
	}
	return st.Dev == other.Dev && st.Ino == other.Ino, nil
}

// link makes a hard link; its attributes are the target's.
func (u *unpacker) link(linkname string, fd int, base string) error {
	from, name, err := u.target(linkname)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	switch err := unix.Linkat(from, name, fd, base, 0); err {
	case nil, unix.EEXIST: // makeWay left what is already this file
		return u.note(fd, base)
	case unix.ENOENT, unix.EPERM:
		return invalid("a hard link to %.200q, which is not there or is a directory: %w", linkname, err)
	default:
		return err
	}
}

// device makes a device node, for root; for others it is skipped, for a native guest has a /dev of its own.
func (u *unpacker) device(h *tar.Header, fd int, base string) error {
	mode := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		mode = unix.S_IFBLK
	}
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return invalid("device number %d:%d", h.Devmajor, h.Devminor)
	}
	err := error(unix.EPERM)
	if u.t.root {
		err = unix.Mknodat(fd, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	}
	if err == unix.EPERM {
		if u.missed++; u.missed <= 16 {
			u.skipped = append(u.skipped, h.Name)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return u.attributes(h, fd, base)
}

// mode returns the permission bits of an entry.
func (u *unpacker) mode(h *tar.Header) uint32 {
	m := uint32(h.Mode) & 0o7777
	if !u.t.root {
		m |= 0o400
		if h.Typeflag == tar.TypeDir {
			m |= 0o700 // or we could neither fill nor remove it
		}
	}
	return m
}

// attributes gives a new entry its owner, mode and times.
func (u *unpacker) attributes(h *tar.Header, fd int, base string) error {
	if u.t.root {
		if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
			return invalid("owner %d:%d", h.Uid, h.Gid)
		}
		if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
		}
	}
	if h.Typeflag != tar.TypeSymlink { // which base is not: it was just made
		if err := unix.Fchmodat(fd, base, u.mode(h), 0); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeDir {
		if err := setTimes(fd, base, dirTimes{h.AccessTime, h.ModTime}); err != nil {
			return err
		}
	}
	return u.note(fd, base)
}

func setTimes(fd int, base string, t dirTimes) error {
	if t.atime.IsZero() {
		t.atime = t.mtime
	}
	ts := []unix.Timespec{timespec(t.atime), timespec(t.mtime)}
	return unix.UtimesNanoAt(fd, base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// timespec keeps to what every file system can hold.
func timespec(t time.Time) unix.Timespec {
	if s := t.Unix(); s < 0 || s > 1<<32-1 {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// note remembers an entry as this layer's.
func (u *unpacker) note(fd int, base string) error {
	if !u.layered {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	u.made[inode{st.Dev, st.Ino}] = struct{}{}
	return nil
}

// whiteout removes what the layers below have of an entry of dir, or of all.
func (u *unpacker) whiteout(dir, base string) error {
	if dir == "." {
		dir = ""
	}
	name := strings.TrimPrefix(base, whiteout)
	if name == "" || name == "." || name == ".." {
		return invalid("a whiteout of %q", name)
	}
	u.t.forget() // it may be what is removed
	fd, err := resolveIn(u.t.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil // nothing to hide
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if base == opaqueWhiteout {
		_, err = pruneBelow(fd, ".", u.made)
		return err
	}
	if strings.HasPrefix(base, whiteout+whiteout) {
		return nil // aufs' own files
	}
	_, err = prune(fd, name, u.made)
	return err
}

// finishDirs gives directories the times that filling them has changed.
func (u *unpacker) finishDirs() error {
	u.t.forget()
	for name, times := range u.dirs {
		fd, err := resolveIn(u.t.fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			continue // the same layer removed or replaced it
		}
		if err != nil {
			return err
		}
		err = setTimes(fd, ".", times)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}
