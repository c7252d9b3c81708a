package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// Layers is an image that is parsed and not unpacked, for those who make of it something else than a directory. Close it.
type Layers struct {
	Kind   Kind
	Root   string // of a directory: its absolute path; it has no layers
	Digest string // as Image has it
	Config Config

	limits Limits
	file   *os.File
	source source    // of the layers of contents
	parsed *contents // nil for a directory and a rootfs tar
	done   []func()
}

// OpenLayers finds out what path is, as Open does, and parses it. The digest of a rootfs tar takes reading it once.
func OpenLayers(path string, o Options) (*Layers, error) {
	f, info, err := openPath(path)
	if err != nil {
		return nil, err
	}
	l := &Layers{file: f, limits: o.Limits.withDefaults(), done: []func(){func() { f.Close() }}}
	if info.IsDir() {
		err = l.directory()
	} else {
		err = l.archive(info.Size(), o)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	if c := l.parsed; c != nil {
		l.Kind, l.Digest, l.Config = c.kind, "sha256:"+c.digest, c.config
	}
	return l, nil
}

// Close gives the image back.
func (l *Layers) Close() {
	for _, done := range l.done {
		done()
	}
	l.done = nil
}

func (l *Layers) directory() error {
	root, err := os.OpenRoot(l.file.Name())
	if err != nil {
		return err
	}
	l.done = append(l.done, func() { root.Close() })
	if _, err := root.Lstat("oci-layout"); errors.Is(err, os.ErrNotExist) {
		l.Kind, l.Root = KindDirectory, l.file.Name()
		return nil
	} else if err != nil {
		return err
	}
	l.source = dirSource{root}
	l.parsed, err = parseLayout(l.source)
	return err
}

func (l *Layers) archive(size int64, o Options) error {
	kind, compressed, err := detect(l.file)
	if err != nil {
		return err
	}
	if kind == KindTar {
		sum := sha256.New()
		_, err := io.Copy(sum, io.NewSectionReader(l.file, 0, 1<<62))
		l.Kind, l.Digest = KindTar, "sha256:"+hex.EncodeToString(sum.Sum(nil))
		return err
	}
	cache, err := openCache(o)
	if err != nil {
		return err
	}
	s, c, done, err := parseFile(l.file, size, kind, compressed, cache, o)
	if err != nil {
		return err
	}
	l.source, l.parsed, l.done = s, c, append(l.done, done)
	return nil
}

// Each calls f with the plain tar of each layer, the lowest first, and says whether whiteouts mean something in it. What f makes of them is
// worth something only if Each returns nil: a layer's digest is known when it has been read to its end. Names, links and sizes in the tars
// are as the image has them, unchecked.
func (l *Layers) Each(f func(plain io.Reader, whiteouts bool) error) error {
	left := l.limits.Bytes
	switch {
	case l.parsed != nil:
		for i, layer := range l.parsed.layers {
			if err := layer.read(l.source, &left, func(plain io.Reader) error { return f(plain, true) }); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
		}
		return nil
	case l.Kind == KindTar:
		whole := layer{name: "the archive", digest: l.Digest[len("sha256:"):], size: -1}
		return whole.read(wholeFile{l.file}, &left, func(plain io.Reader) error { return f(plain, false) })
	default:
		return nil
	}
}

// wholeFile is the source of one file, whatever its name.
type wholeFile struct{ file *os.File }

func (w wholeFile) open(string) (io.ReadCloser, int64, error) {
	info, err := w.file.Stat()
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(io.NewSectionReader(w.file, 0, 1<<62)), info.Size(), nil
}
