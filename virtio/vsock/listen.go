package vsock

import (
	"fmt"
	"net"
	"sync"
	"syscall"
)

// backlog is how many connections can wait for Accept.
const backlog = 64

// Listener accepts the guest's connections to one port of the host. It is a net.Listener; its connections are of type *Conn.
type Listener struct {
	d       *Device
	port    uint32
	backlog chan *Conn
	done    chan struct{}
	once    sync.Once
}

// Listen takes a port of the host, before the unix socket for it, if there is one. The caller closes the listener.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	l := &Listener{d: d, port: port, backlog: make(chan *Conn, backlog), done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.ctx.Err() != nil {
		err = net.ErrClosed
	} else if d.listeners[port] != nil {
		err = fmt.Errorf("port %d: %w", port, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: l.Addr(), Err: err}
	}
	d.listeners[port] = l
	return l, nil
}

// offer takes c into the table and gives it to Accept, unless the backlog is full. d.mu is held.
func (l *Listener) offer(c *Conn) bool {
	select {
	case l.backlog <- c:
		l.d.add(c)
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close implements net.Listener. Connections that nobody has accepted are closed.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.d.mu.Lock()
		delete(l.d.listeners, l.port)
		l.d.mu.Unlock()
		close(l.done)
	})
	for {
		select {
		case c := <-l.backlog:
			c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return Addr{CID: hostCID, Port: l.port} }
