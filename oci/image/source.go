package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// source is the files of an OCI layout or a docker archive, read by name.
type source interface {
	// open returns a file and its size in bytes. The name is relative and clean.
	open(name string) (io.ReadCloser, int64, error)
}

// dirSource reads the files of a directory. Symbolic links that leave it are refused by os.Root.
type dirSource struct{ root *os.Root }

func (d dirSource) open(name string) (io.ReadCloser, int64, error) {
	// Without O_NONBLOCK a FIFO would hold us here for ever.
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = invalid("%s is no regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// member is where the bytes of one file of a tar are.
type member struct {
	offset, size int64
	link         string // of links: the target's name within the tar
}

// tarSource reads the members of an uncompressed tar.
type tarSource struct {
	file    io.ReaderAt
	members map[string]member
}

// maxMembers bounds an archive of blobs: there are a few for each layer.
const maxMembers = 16 * maxLayers

// indexTar finds the members of a tar of size bytes.
func indexTar(file io.ReaderAt, size int64) (*tarSource, error) {
	at := io.NewSectionReader(file, 0, size)
	s := &tarSource{file: file, members: map[string]member{}}
	for t := tar.NewReader(at); ; {
		h, err := t.Next()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, invalid("broken tar: %w", err)
		}
		if len(s.members) >= maxMembers {
			return nil, invalid("the archive has more than %d files", maxMembers)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := at.Seek(0, io.SeekCurrent) // the tar reader does not read ahead
			if err != nil {
				return nil, err
			}
			if h.Size > size-offset {
				return nil, invalid("%s is cut off", name)
			}
			s.members[name] = member{offset: offset, size: h.Size}
		case tar.TypeSymlink:
			s.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			s.members[name] = member{link: path.Clean(h.Linkname)}
		}
	}
}

func (s *tarSource) open(name string) (io.ReadCloser, int64, error) {
	for range 8 { // older docker archives link layers that are the same
		m, ok := s.members[name]
		if !ok {
			return nil, 0, invalid("%s is missing", name)
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(s.file, m.offset, m.size)), m.size, nil
		}
		name = m.link
	}
	return nil, 0, invalid("%s: too many links", name)
}

// readAll reads a small file whole.
func readAll(s source, name string) ([]byte, error) {
	f, size, err := s.open(name)
	if err != nil {
		return nil, missing(name, err)
	}
	defer f.Close()
	if size > maxJSON {
		return nil, invalid("%s has %d bytes, more than the %d allowed", name, size, maxJSON)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = invalid("%s grew while it was read", name)
	}
	return b, err
}

// missing makes a missing file an invalid image.
func missing(name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return invalid("%s is missing", name)
	}
	return fmt.Errorf("reading %s: %w", name, err)
}

// archiveKind tells from its names whether a tar is an OCI layout or a docker archive. undecided is true while the names seen could
// still be those of either.
func archiveKind(name string) (kind Kind, undecided bool) {
	name = path.Clean(name)
	switch {
	case name == "oci-layout":
		return KindLayout, false
	case name == ".", name == "index.json", name == "manifest.json", name == "repositories", name == "blobs", strings.HasPrefix(name, "blobs/"):
		return "", true
	}
	first, rest, _ := strings.Cut(name, "/")
	id := strings.TrimPrefix(first, "sha256:")
	id = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(id, ".gz"), ".tar"), ".json")
	if len(id) >= 12 && strings.Trim(id, "0123456789abcdef") == "" {
		switch rest {
		case "", "json", "VERSION", "layer.tar":
			return "", true
		}
	}
	return KindTar, false
}
