// Package initramfs writes the guests' initramfs images: uncompressed newc cpio archives, the same bytes for the same
// input, made without root.
//
// It knows the archive, not the guest: what goes into an image is said by a spec file or by the caller. No KVM here,
// and no building of what is packed.
package initramfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// ErrSpec is wrapped by every error about the text of a spec file.
var ErrSpec = errors.New("initramfs spec")

// Image is an archive being put together. Parent directories are added as needed. The zero value is an empty image.
type Image struct {
	records []cpio.Record
	have    map[string]bool // names in records, without leading slash
}

// Dir adds the directory name with permission bits perm. A directory that is there already is left as it is.
func (m *Image) Dir(name string, perm uint64) {
	if name = clean(name); m.have[name] {
		return
	}
	m.add(cpio.Directory(name, perm))
}

// File adds the regular file name with permission bits perm and the content of hostPath, which is read when the image
// is written.
func (m *Image) File(name, hostPath string, perm uint64) error {
	st, err := os.Stat(hostPath)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("pack %s: %s is not a regular file", name, hostPath)
	}
	m.add(cpio.Record{
		ReaderAt: &lazyFile{path: hostPath},
		Info:     cpio.Info{Name: name, Mode: cpio.S_IFREG | perm, FileSize: uint64(st.Size())},
	})
	return nil
}

// Text adds the regular file name with permission bits perm and the given content.
func (m *Image) Text(name, content string, perm uint64) {
	m.add(cpio.StaticFile(name, content, perm))
}

// Link adds the symbolic link name pointing to target.
func (m *Image) Link(name, target string) {
	m.add(cpio.Symlink(name, target))
}

// CharDev adds the character device node name with permission bits perm.
func (m *Image) CharDev(name string, perm, major, minor uint64) {
	m.add(cpio.CharDev(name, perm, major, minor))
}

// add appends r, its parents before it. The first entry of a name wins, as the Linux unpacker would have it for
// directories.
func (m *Image) add(r cpio.Record) {
	if m.have == nil {
		m.have = make(map[string]bool)
	}
	r.Name = clean(r.Name)
	if r.Name == "" {
		return
	}
	if dir := path.Dir(r.Name); dir != "." {
		m.Dir(dir, 0o755)
	}
	m.have[r.Name] = true
	r.Ino = uint64(len(m.records) + 1)
	m.records = append(m.records, r)
}

// Write writes the archive to w.
func (m *Image) Write(w io.Writer) error {
	rw := cpio.Newc.Writer(w)
	for _, r := range m.records {
		if err := rw.WriteRecord(r); err != nil {
			return fmt.Errorf("write initramfs entry %s: %w", r.Name, err)
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return fmt.Errorf("write initramfs trailer: %w", err)
	}
	return nil
}

// WriteFile writes the archive to name: first beside it, then renamed, so that no reader sees half an archive.
func (m *Image) WriteFile(name string) (err error) {
	f, err := os.CreateTemp(path.Dir(name), path.Base(name)+".part*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := m.Write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// FromSpec reads an image description in the format of Linux's usr/gen_init_cpio.c: one entry a line, of the kinds
// dir, file, slink and nod c. $NAME in a host path is replaced by vars. Owners other than 0 0 are refused.
func FromSpec(spec io.Reader, vars func(string) string) (*Image, error) {
	var m Image
	s := bufio.NewScanner(spec)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		if fields := strings.Fields(line); len(fields) > 0 {
			if err := m.entry(fields, vars); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		}
	}
	return &m, s.Err()
}

// entry adds one line of a spec, split into fields.
func (m *Image) entry(f []string, vars func(string) string) error {
	count := map[string]int{"dir": 5, "file": 6, "slink": 6, "nod": 8}[f[0]]
	if count == 0 {
		return fmt.Errorf("%w: unknown kind %q, want dir, file, slink or nod", ErrSpec, f[0])
	}
	if len(f) != count {
		return fmt.Errorf("%w: %s takes %d fields, got %d", ErrSpec, f[0], count, len(f))
	}
	perm := 2 // index of the permission field
	if f[0] == "file" || f[0] == "slink" {
		perm = 3
	}
	mode, err := strconv.ParseUint(f[perm], 8, 12)
	if err != nil {
		return fmt.Errorf("%w: permissions %q: want octal up to 7777", ErrSpec, f[perm])
	}
	if f[perm+1] != "0" || f[perm+2] != "0" {
		return fmt.Errorf("%w: owner %s %s: only 0 0 is supported", ErrSpec, f[perm+1], f[perm+2])
	}
	switch f[0] {
	case "dir":
		m.Dir(f[1], mode)
	case "file":
		return m.File(f[1], os.Expand(f[2], vars), mode)
	case "slink":
		m.Link(f[1], f[2])
	case "nod":
		return m.nod(f, mode)
	}
	return nil
}

// nod adds a device node line: nod <name> <mode> 0 0 c <major> <minor>.
func (m *Image) nod(f []string, mode uint64) error {
	if f[5] != "c" {
		return fmt.Errorf("%w: node type %q: only c is supported", ErrSpec, f[5])
	}
	major, err1 := strconv.ParseUint(f[6], 10, 12)
	minor, err2 := strconv.ParseUint(f[7], 10, 20)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w: device number %s:%s: %v", ErrSpec, f[6], f[7], err)
	}
	m.CharDev(f[1], mode, major, minor)
	return nil
}

// clean makes an archive name of a path: no leading slash, no dots.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// lazyFile opens its file on the first read and is closed by the archive writer after the last.
type lazyFile struct {
	path string
	f    *os.File
}

// ReadAt implements io.ReaderAt.
func (l *lazyFile) ReadAt(p []byte, off int64) (int, error) {
	if l.f == nil {
		f, err := os.Open(l.path)
		if err != nil {
			return 0, err
		}
		l.f = f
	}
	return l.f.ReadAt(p, off)
}

// Close implements io.Closer. The file is opened again if the image is written again.
func (l *lazyFile) Close() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
