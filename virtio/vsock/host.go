package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// copyBuffer is how much is read at a time from a host program's socket.
const copyBuffer = 64 << 10

// acceptPause is how long a host program waits after this process had no descriptor for its connection.
const acceptPause = 100 * time.Millisecond

// maxConnect is the length of the longest line that a host program can ask with: "CONNECT 4294967295\n".
const maxConnect = 19

// maxPath is the longest path of a unix socket.
const maxPath = 107

// openPath listens at d.path.
func (d *Device) openPath() error {
	if longest := d.path + "_4294967295"; len(longest) > maxPath {
		return fmt.Errorf("vsock socket %s: with the port behind it the path has %d bytes, a unix socket's may have %d: choose a shorter one", d.path, len(longest), maxPath)
	}
	if err := removeStale(d.path); err != nil {
		return fmt.Errorf("vsock socket: %w", err)
	}
	// The socket's inode takes its mode from the descriptor, so that it is never open to others.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := config.Listen(d.ctx, "unix", d.path)
	if err != nil {
		return fmt.Errorf("vsock socket: %w", err)
	}
	d.listener = l.(*net.UnixListener)
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		d.acceptHost()
	}()
	return nil
}

// removeStale removes a socket that nobody listens on, as a killed process leaves it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: choose another path", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s: %w: another program listens on it", path, syscall.EADDRINUSE), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// acceptHost serves host programs that want to reach the guest, as many at a time as there can be connections.
func (d *Device) acceptHost() {
	slots := make(chan struct{}, maxConns)
	for {
		u, err := d.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// No descriptor, no memory: others may leave.
			select {
			case <-time.After(acceptPause):
			case <-d.ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-d.ctx.Done():
			u.Close()
			return
		}
		d.spawn(func() {
			defer func() { <-slots }()
			d.serveHost(u)
		}, func() { u.Close() })
	}
}

// spawn runs f in a goroutine that Close waits for; orElse if the device is closed already.
func (d *Device) spawn(f, orElse func()) {
	d.mu.Lock()
	closed := d.ctx.Err() != nil
	if !closed {
		d.wg.Add(1)
	}
	d.mu.Unlock()
	if closed {
		orElse()
		return
	}
	go func() {
		defer d.wg.Done()
		f()
	}()
}

// serveHost connects a host program to the port that it names. A program that cannot be served finds its socket closed.
func (d *Device) serveHost(u *net.UnixConn) {
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { u.Close() })
	c, err := d.connectGuest(ctx, u)
	if !stop() && err == nil {
		c.Close()
		return
	}
	if err != nil {
		u.Close()
		return
	}
	bridge(c, u)
}

func (d *Device) connectGuest(ctx context.Context, u *net.UnixConn) (*Conn, error) {
	port, err := readConnect(u)
	if err != nil {
		return nil, err
	}
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(u, "OK %d\n", c.key.hostPort); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readConnect reads "CONNECT port\n" and not a byte more.
func readConnect(r io.Reader) (port uint32, err error) {
	line := make([]byte, 0, maxConnect)
	for len(line) == 0 || line[len(line)-1] != '\n' {
		if len(line) == maxConnect {
			return 0, fmt.Errorf("host program's request %q is no CONNECT", line)
		}
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return 0, fmt.Errorf("read a host program's request: %w", err)
		}
	}
	word, number, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || word != "CONNECT" {
		return 0, fmt.Errorf("host program's request %q is no CONNECT", line)
	}
	return uint32(n), nil
}

// dialHost connects to the host program that serves a port. It does not wait: connecting to a unix socket is
// done at once, or refused, also when the backlog is full.
func (d *Device) dialHost(port uint32) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("%s_%d", d.path, port)})
}

// bridge copies both ways between the guest and a host program until both have ended, or one has failed.
func bridge(c *Conn, u *net.UnixConn) {
	done := make(chan struct{})
	stop := context.AfterFunc(c.d.ctx, func() { u.Close() })
	go func() {
		defer close(done)
		switch err := toGuest(c, u); {
		case err == nil:
		case errors.Is(err, syscall.EPIPE) && !c.isGone():
			// The guest reads no more, but may write. What the program has written already goes: full of it, the socket would not tell the
			// program, and closed with it, would take from the program what the guest has written.
			u.CloseRead()
			_, _ = io.Copy(io.Discard, u)
		default:
			u.Close()
			c.Close()
		}
	}()
	if _, err := c.WriteTo(u); err != nil || c.isGone() || u.CloseWrite() != nil {
		u.Close()
	}
	<-done
	stop()
	u.Close()
	c.Close()
}

// toGuest copies a host program's bytes, and then their end.
func toGuest(c *Conn, u *net.UnixConn) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := u.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return c.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// isGone says whether the guest has left.
func (c *Conn) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == gone
}
