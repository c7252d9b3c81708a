package rootdisk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/oci/image"
)

// cache is a directory of finished disks:
//
//	NAME.ext4   a whole disk, by rename
//	NAME.json   its image.Config; its modification time is when the disk was last asked for
//	NAME.part   a disk being made by whoever holds NAME.lock, or left by one that was killed
//	NAME.lock   empty, for flock
//	ref-HASH    the digest that a file of this path, inode, size and times came to
//
// Others may have a disk open that goes: it stays theirs until they close it. To let them open it first, one that was asked for
// within grace never goes.
type cache struct {
	dir  string
	keep int64 // bytes on the host
}

// grace is how long a disk stays after it was asked for.
const grace = 10 * time.Minute

// format counts what this package makes of the same image.
const format = 1

func openCache(dir string, keep int64) (*cache, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no place for root disks: %w", err)
		}
		dir = filepath.Join(base, "qenex", "disks")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache of root disks: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("cache of root disks: %w", err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("the cache of root disks %s belongs to user %d and has mode %v: others could change what is run; it must be yours and closed to others' writing",
			dir, st.Uid, info.Mode().Perm())
	}
	return &cache{dir, keep}, nil
}

func (c *cache) path(name string) string { return filepath.Join(c.dir, name) }

// diskName is what a disk is called whose contents have the digest, in hexadecimal digits.
func diskName(digest string, free int64) string { return fmt.Sprintf("%s-%d-%d", digest, format, free) }

// get returns a finished disk and notes that it was asked for.
func (c *cache) get(name string) (string, image.Config, bool) {
	var config image.Config
	b, err := os.ReadFile(c.path(name + ".json"))
	if err != nil || json.Unmarshal(b, &config) != nil {
		return "", config, false
	}
	now := time.Now()
	if err := os.Chtimes(c.path(name+".json"), now, now); err != nil {
		return "", config, false
	}
	// Behind Chtimes: what is there now stays for a while.
	disk := c.path(name + ".ext4")
	if _, err := os.Stat(disk); err != nil {
		return "", config, false
	}
	return disk, config, true
}

// put returns the disk called name, made by fill unless it is there. One who finds it being made waits for it.
func (c *cache) put(ctx context.Context, name string, fill func(f *os.File) (image.Config, error)) (string, image.Config, error) {
	if disk, config, ok := c.get(name); ok {
		return disk, config, nil
	}
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return "", image.Config{}, err
	}
	defer unlock()
	if disk, config, ok := c.get(name); ok {
		return disk, config, nil // made while we waited
	}
	if err := c.make(name, fill); err != nil {
		return "", image.Config{}, err
	}
	if err := c.trim(); err != nil {
		return "", image.Config{}, err
	}
	disk, config, ok := c.get(name)
	if !ok {
		return "", config, fmt.Errorf("%s vanished from the cache", c.path(name))
	}
	return disk, config, nil
}

func (c *cache) make(name string, fill func(f *os.File) (image.Config, error)) (err error) {
	part := c.path(name + ".part")
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	config, err := fill(f)
	if err == nil {
		err = errors.Join(f.Chmod(0o400), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := c.replace(name+".json", b); err != nil {
		return err
	}
	return os.Rename(part, c.path(name+".ext4"))
}

// replace writes a small file at once.
func (c *cache) replace(name string, b []byte) error {
	f, err := os.CreateTemp(c.dir, "tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// lock waits until nobody else makes or removes the disk called name.
func (c *cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(c.path(name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() {
		err := error(unix.EINTR)
		for err == unix.EINTR {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		locked <- err
	}()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		go func() {
			<-locked // flock cannot be called off
			f.Close()
		}()
		return nil, fmt.Errorf("waiting for another who makes the same disk: %w", ctx.Err())
	}
}

// abandoned says whether nobody is making the disk called name.
func (c *cache) abandoned(name string) bool {
	f, err := os.OpenFile(c.path(name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// trim removes what builders that were killed have left, and the disks not asked for for longest, until the others take no more than they may.
func (c *cache) trim() error {
	type disk struct {
		name string
		size int64
		used time.Time
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var disks []disk
	var total int64
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".part"); ok && c.abandoned(name) {
			if err := os.Remove(c.path(e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		name, ok := strings.CutSuffix(e.Name(), ".ext4")
		if !ok {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(c.path(e.Name()), &st) != nil {
			continue // removed meanwhile
		}
		d := disk{name: name, size: st.Blocks * 512}
		if info, err := os.Stat(c.path(name + ".json")); err == nil {
			d.used = info.ModTime()
		}
		total += d.size
		disks = append(disks, d)
	}
	slices.SortFunc(disks, func(a, b disk) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name)) })
	for _, d := range disks {
		if total <= c.keep || time.Since(d.used) < grace {
			break
		}
		for _, suffix := range []string{".ext4", ".json"} {
			if err := os.Remove(c.path(d.name + suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		total -= d.size
	}
	return nil
}

// fileRef names a file as it is now; "" for a directory.
func fileRef(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	if err != nil || info.IsDir() {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	return "ref-" + hexSum(fmt.Appendf(nil, "%q %d %d %d %d %d", abs, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())), nil
}

// byRef returns the disk that a file came to the last time.
func (c *cache) byRef(ref string, free int64) (string, image.Config, bool) {
	if ref == "" {
		return "", image.Config{}, false
	}
	digest, err := os.ReadFile(c.path(ref))
	if err != nil || len(digest) != 64 || strings.Trim(string(digest), "0123456789abcdef") != "" {
		return "", image.Config{}, false
	}
	return c.get(diskName(string(digest), free))
}

func (c *cache) setRef(ref, digest string) error {
	if ref == "" {
		return nil
	}
	return c.replace(ref, []byte(digest))
}
