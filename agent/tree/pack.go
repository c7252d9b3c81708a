package tree

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"
)

// small is up to what size a file is read before its entry is written: what /proc and /sys say of sizes is not so.
const small = 64 << 10

// Pack writes the file or directory at hostPath, and all below it, as a tar stream whose entries begin with name. Links are
// not followed. With owners, numeric owners are kept; else all is root's. Times are in whole
// seconds. Sockets are left out. A file that becomes shorter
// meanwhile is an error.
func Pack(w io.Writer, hostPath, name string, owners bool) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("pack %s as %q: %w", hostPath, name, ErrName)
	}
	p := packer{tar: tar.NewWriter(w), owners: owners, links: make(map[inode]string)}
	err := filepath.WalkDir(hostPath, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(hostPath, at)
		if err != nil {
			return err
		}
		return p.entry(at, path.Join(name, filepath.ToSlash(rel)))
	})
	if err != nil {
		return fmt.Errorf("pack %s: %w", hostPath, err)
	}
	return p.tar.Close()
}

// Base is the name that entries of a packed path begin with: its last element, and "." for the root.
func Base(name string) string {
	if b := path.Base(path.Clean("/" + name)); b != "/" {
		return b
	}
	return "."
}

type packer struct {
	tar    *tar.Writer
	owners bool
	links  map[inode]string // names of files that have several, which are in the stream already
}

func (p *packer) entry(at, name string) error {
	st, err := os.Lstat(at)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode().Perm()), ModTime: st.ModTime().Truncate(time.Second)}
	for _, bit := range []struct {
		mode fs.FileMode
		tar  int64
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if st.Mode()&bit.mode != 0 {
			h.Mode |= bit.tar
		}
	}
	id, links := describe(h, st)
	if !p.owners {
		h.Uid, h.Gid = 0, 0
	}
	switch st.Mode().Type() {
	case 0:
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.tar.WriteHeader(h)
		}
		if links > 1 {
			p.links[id] = name
		}
		return p.file(at, h)
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(at); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeDevice:
		h.Typeflag = tar.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeChar
	default: // a socket
		return nil
	}
	return p.tar.WriteHeader(h)
}

// file writes a regular file's entry.
func (p *packer) file(at string, h *tar.Header) error {
	f, err := os.OpenFile(at, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s was replaced while it was packed", ErrEntry, at)
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	content := io.Reader(f)
	if h.Size <= small {
		b, err := io.ReadAll(io.LimitReader(f, 16*small))
		if err != nil {
			return &fs.PathError{Op: "read", Path: at, Err: err}
		}
		h.Size, content = int64(len(b)), bytes.NewReader(b)
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(p.tar, content, h.Size); err == io.EOF {
		return fmt.Errorf("%w: %s became shorter while it was packed", ErrEntry, at)
	} else if err != nil {
		return err
	}
	return nil
}
