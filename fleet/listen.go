package fleet

import (
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/unixsock"
)

// maxConns bounds the connections to a machine's socket at a time.
const maxConns = 64

// listener takes connections of root and of the process's own user, and maxConns at most at a time.
type listener struct {
	*net.UnixListener
	free chan struct{}
	euid uint32
}

// listen makes the machine's control socket.
func (v *VM) listen() (net.Listener, error) {
	path, release, err := unixsock.Short(v.dir, socketFile)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the control socket of %s: %w", v.Name, err)
	}
	l.SetUnlinkOnClose(false)
	return &listener{l, make(chan struct{}, maxConns), uint32(os.Geteuid())}, nil
}

// Accept returns the next connection of a peer that may control the machine; others are turned away.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.free <- struct{}{}
		c, err := l.AcceptUnix()
		if err != nil {
			<-l.free
			return nil, err
		}
		if uid, err := unixsock.Peer(c); err != nil || uid != 0 && uid != l.euid {
			c.Close()
			<-l.free
			continue
		}
		return &conn{UnixConn: c, free: l.free}, nil
	}
}

// conn gives its place back when it is closed.
type conn struct {
	*net.UnixConn
	free chan struct{}
	once sync.Once
}

func (c *conn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() { <-c.free })
	return err
}

// dial connects to the machine's process.
func (v *VM) dial() (*net.UnixConn, error) {
	path, release, err := unixsock.Short(v.dir, socketFile)
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("machine %s does not answer: %w", v.Name, err)
	}
	if uid, err := unixsock.Peer(c); err != nil || uid != 0 && uid != uint32(os.Geteuid()) {
		c.Close()
		return nil, fmt.Errorf("the control socket of %s belongs to user %d: %w", v.Name, uid, os.ErrPermission)
	}
	return c, nil
}

// hungUp tells whether the other end of a connection is gone, rather than only done with sending.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(p, 0)
		gone = err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}
