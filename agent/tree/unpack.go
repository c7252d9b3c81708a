package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxEntries bounds the memory that an endless stream can take.
const maxEntries = 1 << 22

// Options say how far a stream is trusted.
type Options struct {
	Trusted bool              // make owners, set-user-ID bits, devices and FIFOs as the stream says
	Limit   int64             // most bytes of all files together; 0 is no limit
	Skipped func(name string) // is told of devices and FIFOs that were left out; may be nil
	Name    string            // if not "", every entry must be it or below it, and gets As in its place
	As      string
}

// Unpack reads a tar stream to its end and makes its tree in the directory dir, which is there already. What is in the way of
// a file is replaced, directories are kept and filled. After an error, what came before it stays.
func Unpack(r io.Reader, dir string, o Options) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := unpacker{root: root, o: o}
	entries := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar stream: %w", err)
		}
		if n == maxEntries {
			return fmt.Errorf("%w: it has more than %d entries", ErrLimit, maxEntries)
		}
		if err := u.entry(h, entries); err != nil {
			return fmt.Errorf("unpack %q into %s: %w", h.Name, dir, err)
		}
	}
	if err := u.finish(); err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	_, err = io.Copy(io.Discard, r) // what a writer puts behind the end of its archive
	return err
}

// place is where below the target directory an entry belongs.
func (o *Options) place(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", ErrName
	}
	name = path.Clean(name)
	if o.Name == "" {
		return name, nil
	}
	below, ok := strings.CutPrefix(name+"/", o.Name+"/")
	if !ok && o.Name != "." {
		return "", fmt.Errorf("%w: only %q was asked for", ErrName, o.Name)
	}
	return path.Join(o.As, below), nil
}

type unpacker struct {
	root  *os.Root
	o     Options
	bytes int64
	dirs  []*tar.Header // to be given their modes and times when they are full
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := u.o.place(h.Name)
	if err != nil {
		return err
	}
	if sparse(h) {
		return fmt.Errorf("%w: it is a sparse file; make the stream without them", ErrEntry)
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(name, h)
	case tar.TypeReg:
		return u.file(name, h, content)
	case tar.TypeSymlink:
		if err := u.clear(name); err != nil {
			return err
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.own(name, h)
	case tar.TypeLink:
		return u.link(name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.special(name, h)
	default:
		return fmt.Errorf("%w: unknown type %q", ErrEntry, h.Typeflag)
	}
}

// sparse tells whether h announces more bytes than the stream has.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// clear removes what is in the way of a new entry.
func (u *unpacker) clear(name string) error {
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u *unpacker) directory(name string, h *tar.Header) error {
	if st, err := u.root.Lstat(name); err == nil && !st.IsDir() {
		if err := u.clear(name); err != nil {
			return err
		}
	}
	if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	h.Name = name
	u.dirs = append(u.dirs, h)
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) (err error) {
	if u.bytes += h.Size; u.o.Limit > 0 && u.bytes > u.o.Limit {
		return fmt.Errorf("%w: more than %d bytes", ErrLimit, u.o.Limit)
	}
	if err := u.clear(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err == nil {
			err = u.root.Chtimes(name, h.ModTime, h.ModTime)
		}
	}()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if u.o.Trusted {
		if err := f.Chown(h.Uid, h.Gid); err != nil {
			return err
		}
	}
	return f.Chmod(u.mode(h)) // after the owner, whose change drops set-user-ID bits
}

// mode is what h's file gets: the stream's permission bits, and what is beyond them if it is trusted.
func (u *unpacker) mode(h *tar.Header) fs.FileMode {
	m := h.FileInfo().Mode()
	if u.o.Trusted {
		return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	return m & fs.ModePerm
}

func (u *unpacker) own(name string, h *tar.Header) error {
	if !u.o.Trusted {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

func (u *unpacker) link(name string, h *tar.Header) error {
	target, err := u.o.place(h.Linkname)
	if err != nil {
		return fmt.Errorf("link to %q: %w", h.Linkname, err)
	}
	if target == name {
		return fmt.Errorf("%w: a link to itself", ErrEntry)
	}
	if err := u.clear(name); err != nil {
		return err
	}
	return u.root.Link(target, name)
}

// finish gives directories their owners, modes and times, the innermost first.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		h := u.dirs[i]
		st, err := u.root.Lstat(h.Name)
		if err != nil || !st.IsDir() { // a later entry took its place
			continue
		}
		if err := u.own(h.Name, h); err != nil {
			return err
		}
		if err := u.root.Chmod(h.Name, u.mode(h)); err != nil {
			return err
		}
		if err := u.root.Chtimes(h.Name, h.ModTime, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}
