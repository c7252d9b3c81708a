package image

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a directory being filled. Every path is resolved by the kernel as if the directory were the file system's root, so that
// no symbolic link of the image, absolute or not, leads out of it.
type tree struct {
	fd   int // of the directory
	root bool

	dir   string // the directory opened last, which the next entry is probably in
	dirFD int    // -1: none
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return &tree{fd: fd, dirFD: -1, root: os.Geteuid() == 0}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.fd)
}

// forget closes the directory opened last: it may be about to be removed or replaced.
func (t *tree) forget() {
	if t.dirFD >= 0 {
		unix.Close(t.dirFD)
		t.dirFD = -1
	}
}

// stale says that a path may lead elsewhere from now on; the descriptor that parent returned stays open until it is called again.
func (t *tree) stale() { t.dir = "\x00" }

// resolveIn opens name below the directory fd as if that were the root.
func resolveIn(fd int, name string, flags uint64) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		got, err := unix.Openat2(fd, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		switch err {
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename elsewhere made the kernel unsure about ".."
		default:
			return got, err
		}
	}
}

// parent returns the directory that holds name, made if it is missing, and name's last part. The descriptor is the tree's.
// made is told of each directory made.
func (t *tree) parent(name string, made func(fd int, base string) error) (int, string, error) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if t.dirFD >= 0 && t.dir == dir {
		return t.dirFD, base, nil
	}
	t.forget()
	fd, err := t.openDir(dir, made)
	if err != nil {
		return -1, "", fmt.Errorf("directory %q: %w", dir, err)
	}
	t.dir, t.dirFD = dir, fd
	return fd, base, nil
}

func (t *tree) openDir(dir string, made func(fd int, base string) error) (int, error) {
	fd, err := resolveIn(t.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != unix.ENOENT || made == nil {
		return fd, err
	}
	up, base := path.Split(dir)
	above, err := t.openDir(strings.TrimSuffix(up, "/"), made)
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := unix.Mkdirat(above, base, 0o755); err != nil {
		return -1, err // EEXIST: a symbolic link to nowhere
	}
	if err := made(above, base); err != nil {
		return -1, err
	}
	return resolveIn(above, base, unix.O_RDONLY|unix.O_DIRECTORY)
}

// removeAll removes base in the directory fd, and what is below it. What is not there is no error.
func removeAll(fd int, base string) error {
	_, err := prune(fd, base, nil)
	return err
}

// inode is a file's identity while it exists.
type inode struct{ dev, ino uint64 }

// prune removes base in the directory fd, but not the files of keep nor directories that hold some, and tells whether it is gone.
func prune(fd int, base string, keep map[inode]struct{}) (gone bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return true, nil
		}
		return false, err
	}
	_, kept := keep[inode{st.Dev, st.Ino}]
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if kept {
			return false, nil
		}
		return true, unix.Unlinkat(fd, base, 0)
	}
	empty, err := pruneBelow(fd, base, keep)
	if err != nil || kept || !empty {
		return false, err
	}
	return true, unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
}

// pruneBelow prunes what is in the directory base of fd and tells whether nothing is left.
func pruneBelow(fd int, base string, keep map[inode]struct{}) (empty bool, err error) {
	sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	d := os.NewFile(uintptr(sub), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	empty = true
	var errs []error
	for _, name := range names {
		gone, err := prune(sub, name, keep)
		empty = empty && gone
		errs = append(errs, err)
	}
	return empty, errors.Join(errs...)
}
