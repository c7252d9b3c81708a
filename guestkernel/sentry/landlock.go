package sentry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostAccess is what a confined process may still do below a host path.
type hostAccess int

const (
	accessList  hostAccess = iota // list directories
	accessRead                    // read files, list directories
	accessWrite                   // everything but opening devices for ioctl
)

// hostPath is one host file or directory that stays reachable.
type hostPath struct {
	path   string
	access hostAccess
}

const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = landlockRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
	landlockFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// landlockRights are the rights a kernel with that Landlock ABI can handle: everything it does not grant it then refuses.
func landlockRights(abi int) (fs, net, scoped uint64) {
	fs = landlockWrite &^ (unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE)
	if abi >= 2 {
		fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		// Not the scope of signals: each thread gets a domain of its own, and the platform signals threads.
		scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return fs, net, scoped
}

// errNoLandlock is given by a kernel without Landlock.
var errNoLandlock = errors.New("this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and lsm= must name it; Linux 5.13 or newer)")

// landlock confines all threads of the process to paths, and unless withNet takes TCP away.
func landlock(paths []hostPath, withNet bool) error {
	abi, errno := landlockABI()
	if errno != 0 {
		return errNoLandlock
	}
	fs, net, scoped := landlockRights(abi)
	if withNet {
		net = 0
	}
	ruleset, errno := landlockCreate(fs, net, scoped)
	if errno != 0 {
		return fmt.Errorf("landlock: making a rule set (ABI %d): %w", abi, errno)
	}
	defer unix.Close(ruleset)
	for _, p := range paths {
		if err := landlockAdd(ruleset, p, fs); err != nil {
			return err
		}
	}
	// Each round over all threads costs a good part of a millisecond. The system-call filter sets no_new_privs too, a little later: only who
	// has no privileges needs it already here.
	if !isAdmin() {
		if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
			return fmt.Errorf("landlock: setting no_new_privs: %w", onAllThreads(errno))
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("landlock: confining the process: %w", onAllThreads(errno))
	}
	return nil
}

// onAllThreads explains an error of a system call on all threads.
func onAllThreads(errno syscall.Errno) error {
	if errno == syscall.ENOTSUP {
		return fmt.Errorf("%w: this program is built with cgo; build and test it with CGO_ENABLED=0", errno)
	}
	return errno
}

// landlockAdd grants access to one path.
func landlockAdd(ruleset int, p hostPath, handled uint64) error {
	fd, err := unix.Open(p.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("landlock: opening %s: %w", p.path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("landlock: looking at %s: %w", p.path, err)
	}
	var rights uint64
	switch p.access {
	case accessList:
		rights = unix.LANDLOCK_ACCESS_FS_READ_DIR
	case accessRead:
		rights = landlockRead
	case accessWrite:
		rights = landlockWrite
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= landlockFile
	}
	if rights &= handled; rights == 0 {
		return nil
	}
	if errno := landlockAddPath(ruleset, fd, rights); errno != 0 {
		return fmt.Errorf("landlock: granting %s: %w", p.path, errno)
	}
	return nil
}

// kernelDirs are directories of the host's root that show the kernel, not files. The guest has its own.
var kernelDirs = map[string]bool{"proc": true, "sys": true, "dev": true}

// reachable are the host paths that the root and the mounts of a spec need.
func reachable(spec *Spec) ([]hostPath, error) {
	var paths []hostPath
	add := func(p string, writable bool) error {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return fmt.Errorf("finding host path %s: %w", p, err)
		}
		access := accessRead
		if writable {
			access = accessWrite
		}
		if filepath.Clean(real) != "/" {
			paths = append(paths, hostPath{real, access})
			return nil
		}
		// The host's root: its directories one by one, without those of the kernel. New names in / itself cannot be granted so.
		paths = append(paths, hostPath{"/", accessList})
		entries, err := os.ReadDir("/")
		if err != nil {
			return fmt.Errorf("listing the host's root: %w", err)
		}
		for _, e := range entries {
			if !kernelDirs[e.Name()] && e.Type()&os.ModeSymlink == 0 {
				paths = append(paths, hostPath{"/" + e.Name(), access})
			}
		}
		return nil
	}
	if err := add(spec.root(), spec.RootWritable); err != nil {
		return nil, err
	}
	for _, m := range spec.Mounts {
		if m.Type == MountBind {
			if err := add(m.Source, !m.ReadOnly); err != nil {
				return nil, err
			}
		}
	}
	return paths, nil
}
