//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// giveTerminal makes a new terminal the standard files and the controlling terminal of cmd, and sends its other end to the socket.
func giveTerminal(cmd *exec.Cmd, socket string, size *specs.Box) (release func(), err error) {
	master, slave, err := openPty()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	if size != nil && size.Width > 0 && size.Height > 0 {
		ws := &unix.Winsize{Col: uint16(min(size.Width, 1<<16-1)), Row: uint16(min(size.Height, 1<<16-1))}
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, ws); err != nil {
			slave.Close()
			return nil, fmt.Errorf("setting the size of the terminal: %w", err)
		}
	}
	if err := sendTerminal(master, socket); err != nil {
		slave.Close()
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
	return func() { slave.Close() }, nil
}

func openPty() (master, slave *os.File, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a new terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0)
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	var s int
	if err == nil {
		s, err = unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(m)
		return nil, nil, fmt.Errorf("opening a new terminal: %w", err)
	}
	return os.NewFile(uintptr(m), name), os.NewFile(uintptr(s), name), nil
}

// sendTerminal sends a terminal's master end to a console socket, as runc does.
func sendTerminal(master *os.File, socket string) error {
	// A socket's address is short; its directory may not be.
	d, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	defer d.Close()
	name := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + filepath.Base(socket)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return fmt.Errorf("--console-socket %s: %w", socket, err)
	}
	_, _, err = c.WriteMsgUnix([]byte(master.Name()), unix.UnixRights(int(master.Fd())), nil)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("--console-socket %s: sending the terminal: %w", socket, err)
	}
	return nil
}
