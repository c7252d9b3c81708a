package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// lingerTime is how long a closed connection waits for the guest's RST before it sends one itself (virtio 1.2, 5.10.6.6).
const lingerTime = 8 * time.Second

// maxPeerBuffer bounds what the guest is believed to have as a receive buffer, so that counters of bytes under way never wrap.
const maxPeerBuffer = 1 << 30

// key names a connection among those of the device.
type key struct{ hostPort, guestPort uint32 }

// state is how far a connection has come.
//
//	dialing --RESPONSE--> open --RST, or SHUTDOWN both ways--> gone
//	   '------------------------- RST, deadline --------------> gone
//
// Close of an open connection sends SHUTDOWN both ways; it is open until the guest's RST or lingerTime. What the guest
// had sent can still be read when the connection is gone; it counts as one of the device's until Close as well.
type state int

const (
	dialing state = iota
	open
	gone
)

// Conn is a connection between the guest and this host. It is a net.Conn; its methods may be called by several goroutines.
type Conn struct {
	d     *Device
	key   key
	guest Addr // as it was when the connection was made

	readMu, writeMu sync.Mutex // held by the one Read or WriteTo, Write or ReadFrom in progress; before mu

	mu     sync.Mutex // before Device.mu
	read   sync.Cond  // on mu
	write  sync.Cond  // on mu; for dialing as well
	state  state
	closed bool  // Close was called
	err    error // why it is gone; nil after an orderly end

	// Guest to host. Credit: the guest may have bufferSize bytes under way or in the buffer.
	in        ring
	fwdCnt    uint32 // bytes taken out of the buffer
	told      uint32 // fwdCnt as the guest knows it
	peerShut  uint32 // what the guest has shut down
	readUntil deadline

	// Host to guest.
	out        []byte // what the Write in progress has left
	txCnt      uint32 // bytes sent
	peerFwd    uint32 // of these, what the guest has taken out of its buffer
	peerAlloc  uint32 // the guest's buffer in bytes
	asked      bool   // for credit, since the guest last told of it
	shut       uint32 // what we have shut down
	writeUntil deadline

	// What is to be sent; data is, while len(out) > 0.
	request, response, credit, shutdown bool

	linger *time.Timer
	queued bool // protected by Device.mu; is in Device.ready
}

func newConn(d *Device, k key, cid uint64, s state) *Conn {
	c := &Conn{d: d, key: k, guest: Addr{CID: uint32(cid), Port: k.guestPort}, state: s}
	c.read.L, c.write.L = &c.mu, &c.mu
	return c
}

// deadline is one of a connection's two, protected by its mu.
type deadline struct {
	timer   *time.Timer
	expired bool
}

func (d *deadline) set(cond *sync.Cond, t time.Time) {
	d.stop()
	d.expired = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.expired = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if d.timer == timer {
			d.expired = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// readable waits for bytes of the guest. c.mu is held.
func (c *Conn) readable() error {
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.readUntil.expired:
			return os.ErrDeadlineExceeded
		case c.in.n > 0:
			return nil
		case c.peerShut&shutSend != 0:
			return io.EOF
		case c.state == gone && c.err != nil:
			return c.err
		case c.state == gone:
			return io.EOF
		}
		c.read.Wait()
	}
}

// consumed gives the guest credit for n bytes that were read. c.mu is held.
func (c *Conn) consumed(n int) {
	if c.closed {
		return
	}
	c.in.consume(n)
	c.fwdCnt += uint32(n)
	// Telling of a quarter at a time is enough: a guest without credit has at least three quarters to be told of.
	if c.state == open && c.fwdCnt-c.told >= bufferSize/4 {
		c.credit = true
		c.d.enqueue(c)
	}
}

// Read implements net.Conn. After the guest has ended its side it returns io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.readable(); err != nil {
		return 0, c.opError("read", err)
	}
	n := 0
	for n < len(p) && c.in.n > 0 {
		k := copy(p[n:], c.in.head())
		c.consumed(k)
		n += k
	}
	return n, nil
}

// WriteTo implements io.WriterTo: it writes to w without a copy, until the guest has ended its side.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.readable(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, c.opError("read", err)
		}
		p := c.in.head()
		c.mu.Unlock()
		n, err := w.Write(p)
		c.mu.Lock()
		c.consumed(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Write implements net.Conn. It returns when all of p is in the guest's memory.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = p
	for started := false; ; started = true {
		var err error
		switch {
		case c.closed:
			err = net.ErrClosed
		case c.shut&shutSend != 0 && !started:
			err = syscall.EPIPE
		case len(c.out) == 0:
			return len(p), nil
		case c.peerShut&shutReceive != 0:
			err = syscall.EPIPE
		case c.state == gone && c.err != nil:
			err = c.err
		case c.state == gone:
			err = syscall.EPIPE
		case c.writeUntil.expired:
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			n := len(p) - len(c.out)
			c.out = nil
			if c.shutdown {
				c.d.enqueue(c) // CloseWrite waited for us
			}
			return n, c.opError("write", err)
		}
		if !started {
			c.d.enqueue(c)
		}
		c.write.Wait()
	}
}

// CloseWrite tells the guest that nothing more will be sent, behind a Write that is in progress. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.shutDown(shutSend)
	return nil
}

// shutDown has the guest told of an end. c.mu is held.
func (c *Conn) shutDown(flags uint32) {
	if c.state == open && c.shut|flags != c.shut {
		c.shut |= flags
		c.shutdown = true
		c.d.enqueue(c)
	}
}

// Close implements net.Conn. What was written is delivered; what was not read is dropped.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.in = ring{}
	c.readUntil.stop()
	c.writeUntil.stop()
	switch c.state {
	case dialing:
		c.reset(net.ErrClosed)
	case gone:
		c.d.release(c)
	case open:
		c.shutDown(shutBoth)
		c.linger = time.AfterFunc(lingerTime, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.reset(syscall.ETIMEDOUT)
		})
	}
	c.read.Broadcast()
	c.write.Broadcast()
	return nil
}

// reset ends the connection with an RST to the guest, if that knows of it. c.mu is held.
func (c *Conn) reset(err error) {
	if c.state != gone && !c.request {
		c.d.refuse(header{srcCID: hostCID, dstCID: uint64(c.guest.CID), srcPort: c.key.hostPort, dstPort: c.key.guestPort, typ: typeStream, op: opReset})
	}
	c.end(err)
}

// end makes the connection gone, err nil after an orderly end. c.mu is held.
func (c *Conn) end(err error) {
	if c.state == gone {
		return
	}
	c.state, c.err = gone, err
	if c.linger != nil {
		c.linger.Stop()
	}
	c.d.forget(c)
	if c.closed {
		c.d.release(c)
	}
	c.read.Broadcast()
	c.write.Broadcast()
}

func (c *Conn) opError(op string, err error) error {
	if err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr implements net.Conn: the host's side.
func (c *Conn) LocalAddr() net.Addr { return Addr{CID: hostCID, Port: c.key.hostPort} }

// RemoteAddr implements net.Conn: the guest's side.
func (c *Conn) RemoteAddr() net.Addr { return c.guest }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readUntil, &c.read, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeUntil, &c.write, t) }

func (c *Conn) setDeadline(d *deadline, cond *sync.Cond, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set deadline", net.ErrClosed)
	}
	d.set(cond, t)
	return nil
}

// Addr is the address of a socket: a machine's context ID, 2 for the host, and a port.
type Addr struct{ CID, Port uint32 }

// Network implements net.Addr.
func (a Addr) Network() string { return "vsock" }
