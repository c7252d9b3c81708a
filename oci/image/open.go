package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options say how Open works. The zero value is what most callers want.
type Options struct {
	Cache  string // directory of unpacked images; "" means qenex/images in the user's cache directory
	Limits Limits
}

// Open finds out what path is and returns it ready to run, unpacked into the cache if it is not a root directory already.
// Several processes may open the same image at once; it is unpacked once. Errors that wrap ErrInvalid blame the image.
func Open(path string, o Options) (*Image, error) {
	f, info, err := openPath(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var img *Image
	if info.IsDir() {
		img, err = openDirectory(f.Name(), o)
	} else {
		img, err = openFile(f, info, o)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return img, nil
}

// openPath opens a directory or a regular file by its absolute path.
func openPath(path string) (*os.File, os.FileInfo, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	// An image may be a FIFO or a device by mistake: opening must not hang.
	f, err := os.OpenFile(abs, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = fmt.Errorf("image %s: %w", path, invalid("neither a directory nor a regular file"))
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func openDirectory(abs string, o Options) (*Image, error) {
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, err := root.Lstat("oci-layout"); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return &Image{Kind: KindDirectory, Root: abs}, nil
		}
		return nil, err
	}
	s := dirSource{root}
	c, err := parseLayout(s)
	if err != nil {
		return nil, err
	}
	return unpackContents(s, c, o)
}

// openFile opens a tar of some kind. What it came to the last time is remembered, so that the file need not be read again.
func openFile(f *os.File, info os.FileInfo, o Options) (*Image, error) {
	cache, err := openCache(o)
	if err != nil {
		return nil, err
	}
	name := refName(f.Name(), info)
	if img := cache.byRef(name); img != nil {
		return img, nil
	}
	img, err := unpackFile(f, info.Size(), cache, o)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if refName(f.Name(), after) != name {
		return nil, errors.New("the file was changed while it was read; try again")
	}
	return img, cache.setRef(name, img)
}

func unpackFile(f *os.File, size int64, cache *cache, o Options) (*Image, error) {
	kind, compressed, err := detect(f)
	if err != nil {
		return nil, err
	}
	if kind == KindTar {
		return unpackTar(f, cache, o)
	}
	s, c, done, err := parseFile(f, size, kind, compressed, cache, o)
	if err != nil {
		return nil, err
	}
	defer done()
	return unpackContents(s, c, o)
}

// parseFile parses a tar of a layout or a docker archive, which detect has seen. The source is good until done is called.
func parseFile(f *os.File, size int64, kind Kind, compressed bool, cache *cache, o Options) (s source, c *contents, done func(), err error) {
	done = func() {}
	if compressed { // its members are needed in any order
		plain, err := cache.scratch()
		if err != nil {
			return nil, nil, nil, err
		}
		done = func() { plain.Close() }
		if size, err = inflate(plain, f, o.Limits.withDefaults().Bytes); err != nil {
			done()
			return nil, nil, nil, err
		}
		f = plain
	}
	if s, err = indexTar(f, size); err == nil {
		parse := parseDockerArchive
		if kind == KindLayout {
			parse = parseLayout
		}
		c, err = parse(s)
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return s, c, done, nil
}

// detect reads the beginning of f, as far as needed, and tells what kind of tar it is.
func detect(f *os.File) (kind Kind, compressed bool, err error) {
	r, compressed, done, err := decompress(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return "", compressed, invalid("%w", err)
	}
	defer done()
	manifest := false
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF && n > 0 {
			break
		}
		if err != nil {
			return "", compressed, invalid("no tar archive (plain, gzip or zstd), and no directory: %w", err)
		}
		if n > maxMembers {
			return "", compressed, invalid("the archive has more than %d files and is still neither a layout nor a root directory", maxMembers)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		kind, undecided := archiveKind(h.Name)
		if !undecided {
			return kind, compressed, nil
		}
		manifest = manifest || h.Name == "manifest.json"
	}
	if manifest {
		return KindDockerArchive, compressed, nil
	}
	return KindTar, compressed, nil
}

// inflate writes the plain bytes of f to w and returns how many there are.
func inflate(w io.Writer, f *os.File, limit int64) (int64, error) {
	r, _, done, err := decompress(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return 0, invalid("%w", err)
	}
	defer done()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = invalid("larger than allowed: more than %d bytes", limit)
	}
	return n, err
}
