// Package unixsock is what control sockets share: paths that fit an address, and who is at the other end. What is said over them does not enter.
package unixsock

import (
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Short returns a path to name in dir that fits a socket's address, however long dir's own path is. It must be used before release.
func Short(dir, name string) (path string, release func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + name, func() { d.Close() }, nil
}

// Peer returns the user at the other end, as the kernel knows it.
func Peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var opt error
	if err := raw.Control(func(fd uintptr) { cred, opt = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if opt != nil {
		return 0, opt
	}
	return cred.Uid, nil
}
