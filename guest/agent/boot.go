package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// mount is a file system of every guest.
type mount struct {
	kind, at, options string
	flags             uintptr
}

var mounts = []mount{
	{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
	{"devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
}

// boot makes a user space, and leaves process 1 to the root's own init if there is one; then it does not return. Its error is what
// the guest cannot be used without: the root, shares, modules.
func boot() (commandLine, error) {
	report("boot", mounts[0].mount())
	c := readCommandLine()
	report("boot", withHints(c))
	for _, m := range mounts[1:] {
		report("boot", m.mount())
	}
	failed := []error{loadModules(c)}
	if c.root != "" {
		if err := enterRoot(c); err != nil {
			return c, errors.Join(append(failed, err)...)
		}
	}
	for _, s := range c.shares {
		failed = append(failed, s.mount())
	}
	if c.root != "" && !c.hold {
		failed = append(failed, leaveToInit(errors.Join(failed...)))
	}
	return c, errors.Join(failed...)
}

// mount mounts m. What is mounted already stays.
func (m mount) mount() error {
	if err := os.MkdirAll(m.at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
	}
	return nil
}

func (s share) mount() error {
	if s.tag == "" || !filepath.IsAbs(s.path) {
		return fmt.Errorf("qenex.share=%s:%s: it takes the form TAG:/directory, with :ro for read-only", s.tag, s.path)
	}
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		return err
	}
	return mount9P(s.tag, s.path, s.readOnly)
}

// mount9P mounts a directory of the host. Caches of the guest would not see what the host changes; mmap works all the same.
func mount9P(tag, at string, readOnly bool) error {
	var flags uintptr
	if readOnly {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount(tag, at, "9p", flags, "trans=virtio,version=9p2000.L,cache=mmap,msize=512000"); err != nil {
		return fmt.Errorf("mount the host's directory %q on %s: %w%s", tag, at, err, why9P(err))
	}
	return nil
}

func why9P(err error) string {
	switch err {
	case unix.ENODEV:
		return ": this kernel has no 9p file system; Debian's cloud kernel leaves it out, its other kernels do not"
	case unix.ENOENT:
		return ": the machine has no share with this tag"
	}
	return ""
}

// ownInit is where a root's own init is looked for.
var ownInit = []string{"/sbin/init", "/etc/init", "/bin/init"}

// leaveToInit makes process 1 of the root's own init, after it has started an agent beside it. It returns when there is none, or
// with an error.
func leaveToInit(fault error) error {
	args := []string{"qenex-agent", beside}
	if fault != nil {
		args = append(args, fault.Error())
	}
	for _, init := range ownInit {
		if st, err := os.Stat(init); err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
			continue
		}
		files := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true}}
		if _, err := syscall.ForkExec(self, args, files); err != nil {
			return fmt.Errorf("start the agent beside %s: %w", init, err)
		}
		fmt.Println("QENEX: user space")
		putPort(milestones, userSpace)
		return &os.PathError{Op: "exec", Path: init, Err: syscall.Exec(init, []string{init}, os.Environ())}
	}
	return nil
}
