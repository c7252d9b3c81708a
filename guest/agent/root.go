package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// deviceLimit is how long a root's device may take to appear.
const deviceLimit = 10 * time.Second

// enterRoot mounts the root and makes it this process's, with the mounts of boot in it.
func enterRoot(c commandLine) error {
	const at = "/root.new"
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := mountRoot(c, at); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	for _, m := range []string{"/proc", "/sys", "/dev", "/run"} {
		to := filepath.Join(at, m)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return fmt.Errorf("root file system: %w", err)
		}
		if err := unix.Mount(m, to, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root file system: %w", m, err)
		}
	}
	if err := os.Chdir(at); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("make %s the root: %w", c.root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make %s the root: %w", c.root, err)
	}
	return os.Chdir("/")
}

// mountRoot mounts the root at a directory, itself or under an overlay.
func mountRoot(c commandLine, at string) error {
	switch c.overlay {
	case "":
		return mountDisk(c, at, false)
	case "tmpfs":
		return mountOverlay(c, at)
	default:
		return fmt.Errorf("qenex.overlay=%s: only tmpfs is known", c.overlay)
	}
}

// mountDisk mounts the root without an overlay. A disk that is read-only is mounted so.
func mountDisk(c commandLine, at string, readOnly bool) error {
	if c.rootType == "9p" {
		return mount9P(c.root, at, readOnly)
	}
	if err := waitFor(c.root); err != nil {
		return err
	}
	var flags uintptr
	if readOnly {
		flags = unix.MS_RDONLY
	}
	err := unix.Mount(c.root, at, c.rootType, flags, "")
	if !readOnly && (err == unix.EROFS || err == unix.EACCES) {
		err = unix.Mount(c.root, at, c.rootType, unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("mount %s as %s: %w", c.root, c.rootType, err)
	}
	return nil
}

// mountOverlay mounts the root read-only, and over it a layer in memory.
func mountOverlay(c commandLine, at string) error {
	const lower, memory = "/root.disk", "/root.memory"
	for _, d := range []string{lower, memory} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := mountDisk(c, lower, true); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=0755,size=75%"); err != nil {
		return fmt.Errorf("mount the layer in memory: %w", err)
	}
	for _, d := range []string{memory + "/upper", memory + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + lower + ",upperdir=" + memory + "/upper,workdir=" + memory + "/work"
	if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the overlay: %w", err)
	}
	return nil
}

// waitFor waits until a device is there, looking again at each event of the kernel.
func waitFor(device string) error {
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(events)
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	b := make([]byte, 4096)
	for deadline := time.Now().Add(deviceLimit); ; {
		if _, err := os.Stat(device); err == nil {
			return nil
		}
		left := unix.NsecToTimeval(int64(time.Until(deadline)))
		if left.Sec < 0 || left.Sec == 0 && left.Usec <= 0 {
			return fmt.Errorf("%s has not appeared within %v; is it one of the machine's disks, and a driver for it in the kernel?", device, deviceLimit)
		}
		if err := unix.SetsockoptTimeval(events, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return os.NewSyscallError("SO_RCVTIMEO", err)
		}
		unix.Read(events, b) // an error is the time that is over, or events that were too many: look again
	}
}
