package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// cache is a directory of unpacked images:
//
//	<digest>/rootfs, <digest>/image.json   complete images; a directory appears by rename
//	<digest>.partial                       one being made by whoever holds its lock, or left by one that was killed
//	<digest>.lock                          empty, for flock
//	ref-<hash>                             the digest that a file of this path, inode, size and time came to
//
// The same image unpacked by root and by others differs; each has a cache of its own.
type cache struct{ dir string }

func openCache(o Options) (*cache, error) {
	dir := o.Cache
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no place for unpacked images: %w", err)
		}
		dir = filepath.Join(base, "qenex", "images")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("the image cache %s belongs to user %d and has mode %v: others could change what is run; it must be yours and closed to others' writing",
			dir, st.Uid, info.Mode().Perm())
	}
	return &cache{dir}, nil
}

func (c *cache) path(name string) string { return filepath.Join(c.dir, name) }

// get returns a complete image, or nil.
func (c *cache) get(digest string) *Image {
	b, err := os.ReadFile(c.path(digest + "/image.json"))
	if err != nil {
		return nil
	}
	img := &Image{}
	if json.Unmarshal(b, img) != nil || img.Digest != "sha256:"+digest {
		return nil
	}
	img.Root, img.Shared = c.path(digest+"/rootfs"), true
	return img
}

// put makes the image of the given digest with fill, unless it is there. fill gets an empty directory for the root.
func (c *cache) put(digest string, fill func(root string) (*Image, error)) (*Image, error) {
	if img := c.get(digest); img != nil {
		return img, nil
	}
	lock, err := os.OpenFile(c.path(digest+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	if img := c.get(digest); img != nil {
		return img, nil // made while we waited
	}
	// What is there now is rubbish: a run that was killed, or an image that cannot be read.
	final, partial := c.path(digest), c.path(digest+".partial")
	if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(final)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(partial, "rootfs"), 0o755); err != nil {
		return nil, err
	}
	img, err := fill(filepath.Join(partial, "rootfs"))
	if err == nil {
		img.Digest = "sha256:" + digest
		err = writeJSON(filepath.Join(partial, "image.json"), img)
	}
	if err == nil {
		err = os.Rename(partial, final)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(partial))
	}
	img.Root, img.Shared = filepath.Join(final, "rootfs"), true
	return img, nil
}

func writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o600)
}

// refName names a file as it is now: a change of its contents changes the name, for no program can set the change time.
func refName(path string, info os.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	return "ref-" + sumHex(fmt.Appendf(nil, "%s\x00%d %d %d %d.%d %d.%d", path, st.Dev, st.Ino, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec))
}

func (c *cache) byRef(name string) *Image {
	digest, err := os.ReadFile(c.path(name))
	if err != nil || !isHex(string(digest)) {
		return nil
	}
	return c.get(string(digest))
}

func (c *cache) setRef(name string, img *Image) error {
	f, err := os.CreateTemp(c.dir, "tmp-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(img.Digest[len("sha256:"):])
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// scratch returns a file without a name.
func (c *cache) scratch() (*os.File, error) {
	fd, err := unix.Open(c.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("a temporary file in %s: %w", c.dir, err)
	}
	return os.NewFile(uintptr(fd), "scratch"), nil
}

// unpackContents returns an image of several layers.
func unpackContents(s source, c *contents, o Options) (*Image, error) {
	cache, err := openCache(o)
	if err != nil {
		return nil, err
	}
	return cache.put(c.digest, func(root string) (*Image, error) {
		u, err := newUnpacker(root, o.Limits)
		if err != nil {
			return nil, err
		}
		defer u.close()
		for i, l := range c.layers {
			if err := u.stored(s, l); err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		return &Image{Kind: c.kind, Config: c.config, Skipped: u.skipped}, nil
	})
}

// stored unpacks one layer and checks its digests.
func (u *unpacker) stored(s source, l layer) error {
	return l.read(s, &u.limits.Bytes, func(plain io.Reader) error { return u.layer(plain, true) })
}

// read gives f the plain tar of a layer and checks its digests behind that. What f does not read is read and counted against limit.
func (l layer) read(s source, limit *int64, f func(plain io.Reader) error) error {
	file, size, err := s.open(l.name)
	if err != nil {
		return missing(l.name, err)
	}
	defer file.Close()
	if l.size >= 0 && size != l.size {
		return invalid("%s has %d bytes, its manifest says %d", l.name, size, l.size)
	}
	stored := sha256.New()
	whole := io.TeeReader(file, stored)
	r, _, done, err := decompress(whole)
	if err != nil {
		return invalid("%w", err)
	}
	defer done()
	plain := sha256.New()
	both := io.TeeReader(r, plain)
	if err := f(both); err != nil {
		return err
	}
	// A tar ends before its file does: padding. It is bounded like a file's contents, for it may be compressed.
	n, err := io.Copy(io.Discard, io.LimitReader(both, *limit+1))
	if err != nil {
		return invalid("%w", err)
	}
	if *limit -= n; *limit < 0 {
		return invalid("the image is larger than allowed")
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return err
	}
	if err := checkDigest(plain, l.diffID); err != nil {
		return err
	}
	return checkDigest(stored, l.digest)
}

func checkDigest(h hash.Hash, want string) error {
	if got := hex.EncodeToString(h.Sum(nil)); want != "" && got != want {
		return invalid("its contents have the digest sha256:%s, the image says sha256:%s: it is damaged", got, want)
	}
	return nil
}

// unpackTar returns the image that a tar of a root directory is. Its digest is the file's.
func unpackTar(f *os.File, cache *cache, o Options) (*Image, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return nil, err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	return cache.put(digest, func(root string) (*Image, error) {
		u, err := newUnpacker(root, o.Limits)
		if err != nil {
			return nil, err
		}
		defer u.close()
		again := sha256.New()
		whole := io.TeeReader(io.NewSectionReader(f, 0, 1<<62), again)
		r, _, done, err := decompress(whole)
		if err != nil {
			return nil, invalid("%w", err)
		}
		defer done()
		if err := u.layer(r, false); err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, whole); err != nil {
			return nil, err
		}
		return &Image{Kind: KindTar, Skipped: u.skipped}, checkDigest(again, digest)
	})
}
