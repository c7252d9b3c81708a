package rootdisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/rootdisk/ext4"
)

// walk calls f with each file below the host directory dir, with its name relative to dir, "." first, in the order of names. It stays in
// dir's file system: a directory that something is mounted on is an empty one.
func walk(ctx context.Context, dir string, f func(name string, st *syscall.Stat_t) error) error {
	var dev uint64
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if name == "." {
			dev = st.Dev
		}
		if err := f(name, st); err != nil {
			return err
		}
		if d.IsDir() && st.Dev != dev {
			return fs.SkipDir
		}
		return nil
	})
}

// fingerprint names a directory as it is now: any change of a file below it changes the name, for no program can set the change time.
func fingerprint(ctx context.Context, dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "directory %q, for %d\n", dir, os.Geteuid())
	err := walk(ctx, dir, func(name string, st *syscall.Stat_t) error {
		_, err := fmt.Fprintf(h, "%q %d %d %o %d %d %d %d %d %d\n", name, st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Rdev, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// directory fills the tree with a directory of the host.
func (t *tree) directory(dir string) error {
	type file struct{ dev, ino uint64 }
	links := map[file]*ext4.Inode{}
	dirs := map[string]*ext4.Inode{}
	return walk(t.ctx, dir, func(name string, st *syscall.Stat_t) error {
		if t.limits.Entries--; t.limits.Entries < 0 {
			return invalid("the directory has too many files")
		}
		n, again := links[file{st.Dev, st.Ino}]
		if !again || n.Dir() {
			var err error
			if n, err = t.hostInode(filepath.Join(dir, name), st); err != nil {
				return err
			}
			links[file{st.Dev, st.Ino}] = n
		}
		if n.Dir() {
			dirs[name] = n
		}
		if name == "." {
			t.root = n
			return nil
		}
		dirs[filepath.Dir(name)].Children[filepath.Base(name)] = n
		return nil
	})
}

// hostInode reads a file of the host.
func (t *tree) hostInode(p string, st *syscall.Stat_t) (*ext4.Inode, error) {
	n := &ext4.Inode{
		Mode: uint16(st.Mode), UID: owner(st.Uid, os.Geteuid()), GID: owner(st.Gid, os.Getegid()),
		Atime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Mtime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
	}
	var err error
	if n.Xattrs, err = hostXattrs(p); err != nil {
		return nil, err
	}
	switch n.Mode & ext4.TypeMask {
	case ext4.TypeDir:
		n.Children = map[string]*ext4.Inode{}
	case ext4.TypeSymlink:
		n.Target, err = os.Readlink(p)
		return n, err
	case ext4.TypeRegular:
		if t.limits.Bytes -= st.Size; t.limits.Bytes < 0 {
			return nil, invalid("the directory is larger than allowed")
		}
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if now, err := f.Stat(); err != nil || !now.Mode().IsRegular() {
			return nil, errors.Join(err, fmt.Errorf("%s was changed while it was read", p))
		}
		return n, t.out.Contents(n, f)
	}
	return n, nil
}

// owner makes root of a caller who is not: such a caller's copy of a root directory has lost its owners.
func owner(id uint32, caller int) uint32 {
	if os.Geteuid() != 0 && int64(id) == int64(caller) {
		return 0
	}
	return id
}

// hostXattrs reads the extended attributes that ext4 can hold.
func hostXattrs(p string) (map[string][]byte, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, names)
	if err == unix.ENOTSUP || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("extended attributes of %s: %w", p, err)
	}
	all := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !ext4.HasXattr(name) {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s of %s: %w", name, p, err)
		}
		all[name] = value[:size:size]
	}
	return all, nil
}
