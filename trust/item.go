package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/tpm"
)

// Item is something that a launch consists of: a file, bytes, or, if both are nil, what has the Digest.
type Item struct {
	What   tpm.What
	Name   string // for people; what cannot stand in an event is escaped
	File   *os.File
	Bytes  []byte
	Digest [32]byte

	id identity // of File, when it was opened
}

// Measured is an item's digest, SHA-256 of its content.
type Measured struct {
	What   tpm.What
	Name   string
	Digest [32]byte
}

// OpenItem is the file at path. Open it before it is used: if it changes after that, Measure refuses it.
func OpenItem(what tpm.What, path string) (Item, error) {
	f, err := os.Open(path)
	if err != nil {
		return Item{}, fmt.Errorf("measure %s: %w", what, err)
	}
	id, err := identify(f)
	if err != nil {
		f.Close()
		return Item{}, fmt.Errorf("measure %s: %w", what, err)
	}
	return Item{What: what, Name: filepath.Base(path), File: f, id: id}, nil
}

// TreeItem is the directory at path: the digest is of every name below it, in order, with its type, mode and content. Neither owners
// nor times enter. All of it is read, each time.
func TreeItem(what tpm.What, path string) (Item, error) {
	h := sha256.New()
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content, err := contentOf(p, info)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v %x\n", rel, info.Mode(), content)
		return nil
	})
	if err != nil {
		return Item{}, fmt.Errorf("measure %s: %w", what, err)
	}
	return Item{What: what, Name: filepath.Base(path), Digest: [32]byte(h.Sum(nil))}, nil
}

// contentOf is the digest of a file, the target of a link, the number of a device, and else nothing.
func contentOf(path string, info fs.FileInfo) ([]byte, error) {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		return h.Sum(nil), err
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return []byte(target), err
	case mode&fs.ModeDevice != 0:
		return fmt.Append(nil, info.Sys().(*syscall.Stat_t).Rdev), nil
	}
	return nil, nil
}

// CloseItems closes the files.
func CloseItems(items []Item) {
	for _, it := range items {
		if it.File != nil {
			it.File.Close()
		}
	}
}

// identity tells a file's content from another without reading it: whoever changes the content changes ctime, which nobody can set.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func identify(f *os.File) (identity, error) {
	info, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() && info.Mode()&fs.ModeDevice == 0 {
		return identity{}, fmt.Errorf("%s is neither a file nor a disk", f.Name())
	}
	return identity{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}

// errChanged says that a file is not what it was when the launch began.
var errChanged = errors.New("the file changed while the guest was being built")

// settle is how old the last change of a file must be for its digest to be remembered: within the same tick of the file system's clock
// another change would leave no trace.
const settle = time.Second

// hasher hashes items and remembers the digests of files.
type hasher struct {
	mu    sync.Mutex
	known map[identity][32]byte // protected by mu
}

// digest returns an item's digest. A file must be what was opened.
func (h *hasher) digest(it Item) ([32]byte, error) {
	switch {
	case it.File != nil:
		sum, err := h.file(it.File, it.id)
		if err != nil {
			return sum, fmt.Errorf("measure %s %s: %w", it.What, it.Name, err)
		}
		return sum, nil
	case it.Bytes != nil:
		return sha256.Sum256(it.Bytes), nil
	}
	return it.Digest, nil
}

func (h *hasher) file(f *os.File, opened identity) (sum [32]byte, err error) {
	before, err := identify(f)
	if err != nil {
		return sum, err
	}
	if before != opened {
		return sum, errChanged
	}
	h.mu.Lock()
	sum, ok := h.known[before]
	h.mu.Unlock()
	if ok {
		return sum, nil
	}
	info, err := f.Stat()
	if err != nil {
		return sum, err
	}
	began, d := time.Now(), sha256.New()
	// Not by the descriptor's offset, which others share.
	if _, err := io.Copy(d, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return sum, err
	}
	after, err := identify(f)
	if err != nil {
		return sum, err
	}
	if after != before {
		return sum, errChanged
	}
	sum = [32]byte(d.Sum(nil))
	if changed := time.Unix(before.ctime.Unix()); info.Mode().IsRegular() && began.Sub(changed) > settle {
		h.mu.Lock()
		if h.known == nil || len(h.known) >= maxKnown {
			h.known = map[identity][32]byte{}
		}
		h.known[before] = sum
		h.mu.Unlock()
	}
	return sum, nil
}

// maxKnown bounds what a hasher remembers.
const maxKnown = 4096

// eventName makes a name fit for an event.
func eventName(name string) string {
	name = url.PathEscape(name)
	if name == "" {
		name = "-"
	}
	return name[:min(len(name), 200)]
}

// Line is the item in the form of an event's text, without its prefix.
func (m Measured) Line() string {
	return string(m.What) + " " + m.Name + " sha256:" + hex.EncodeToString(m.Digest[:])
}
