package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/virtio"
)

// Queues (virtio 1.2, 5.10.2).
const (
	queueReceive = iota // to the guest
	queueTransmit
	queueEvent
)

// featureStream says that stream sockets are supported (virtio 1.2, 5.10.3).
const featureStream = 1 << 0

// eventTransportReset is the only event (virtio 1.2, 5.10.6.8).
const eventTransportReset = 0

const (
	// maxConns bounds the connections: those under way, and those that are gone but not closed.
	maxConns = 256
	// maxRefusals bounds the RSTs that wait for a receive buffer of the guest. No more of its packets are looked at meanwhile.
	maxRefusals = 1024
	// dialTimeout bounds Dial, and the connections of host programs.
	dialTimeout = 30 * time.Second
	// Ports that we connect from.
	firstPort, endPort = 1 << 30, 1 << 31
)

// Errors of Dial and Listen, wrapped in a *net.OpError.
var (
	// ErrNotReady says that the guest has no vsock driver running.
	ErrNotReady = errors.New("the guest's vsock driver is not running")
	// ErrTooMany says that there are as many connections as there may be.
	ErrTooMany = fmt.Errorf("more than %d vsock connections", maxConns)
	// ErrReset says that the device was reset, by the driver or with the machine.
	ErrReset = errors.New("the vsock device was reset")
)

// Config is what makes a Device.
type Config struct {
	// CID is the guest's context ID, 3 to 0xfffffffe.
	CID uint32
	// Path is a unix socket for host programs. They write "CONNECT port\n" to it and get "OK hostport\n" when the guest has accepted.
	// A connection of the guest to port P of the host goes to the unix socket Path_P, unless Listen has taken P.
	// Empty: only Dial and Listen.
	Path string
}

// Device is a virtio socket device. New makes it, Close ends it.
type Device struct {
	path     string             // immutable
	listener *net.UnixListener  // at path, nil without one; immutable
	ctx      context.Context    // done when the device is closed
	cancel   context.CancelFunc // of ctx
	wg       sync.WaitGroup     // the goroutines for host programs

	served sync.WaitGroup // the goroutines of a started device

	work    chan struct{} // has room for one: something is to be sent
	drained chan struct{} // has room for one: a refusal was sent
	reset   chan struct{} // has room for one: the guest is to be told of a transport reset

	mu        sync.Mutex           // after Conn.mu
	cid       uint64               // protected by mu
	running   bool                 // protected by mu; between Start and Stop
	conns     map[key]*Conn        // protected by mu; those that are not gone
	live      int                  // protected by mu; connections that are not gone or not closed
	listeners map[uint32]*Listener // protected by mu; by port
	nextPort  uint32               // protected by mu
	ready     []*Conn              // protected by mu; with something to send, in turn
	refusals  []header             // protected by mu; RSTs to be sent
}

// New makes a device, and opens the socket at config.Path, mode 0600. A socket there that nobody listens on any more is replaced.
func New(config Config) (*Device, error) {
	if err := checkCID(config.CID); err != nil {
		return nil, err
	}
	d := &Device{
		path: config.Path, cid: uint64(config.CID), nextPort: firstPort,
		work: make(chan struct{}, 1), drained: make(chan struct{}, 1), reset: make(chan struct{}, 1),
		conns: map[key]*Conn{}, listeners: map[uint32]*Listener{},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.path != "" {
		if err := d.openPath(); err != nil {
			d.cancel()
			return nil, err
		}
	}
	return d, nil
}

// checkCID refuses the reserved context IDs (virtio 1.2, 5.10.4).
func checkCID(cid uint32) error {
	if cid <= hostCID || cid == 1<<32-1 {
		return fmt.Errorf("vsock context ID %d is reserved: use 3 to %d", cid, uint32(1<<32-2))
	}
	return nil
}

// Close ends all connections and listeners and removes the socket. The machine has stopped the device before.
func (d *Device) Close() error {
	d.cancel()
	var err error
	if d.listener != nil {
		err = d.listener.Close()
	}
	d.mu.Lock()
	listeners := make([]*Listener, 0, len(d.listeners))
	for _, l := range d.listeners {
		listeners = append(listeners, l)
	}
	d.mu.Unlock()
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	d.endAll(net.ErrClosed)
	d.wg.Wait()
	return err
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeVsock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureStream }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return []uint16{256, 256, 16} }

// ReadConfig implements virtio.Device: the guest's context ID.
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(d.CID()))
	clear(p)
	if off < uint64(len(b)) {
		copy(p, b[off:])
	}
}

// WriteConfig implements virtio.Device: nothing can be written.
func (d *Device) WriteConfig(uint64, []byte) {}

// CID returns the guest's context ID.
func (d *Device) CID() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return uint32(d.cid)
}

// Start implements virtio.Device.
func (d *Device) Start(_ uint64, queues []*virtio.Queue, env virtio.Env) error {
	receive, transmit, event := queues[queueReceive], queues[queueTransmit], queues[queueEvent]
	if receive == nil || transmit == nil || event == nil {
		return fmt.Errorf("%w: vsock without all of its three queues", virtio.ErrProtocol)
	}
	d.mu.Lock()
	d.running = true
	d.mu.Unlock()
	d.serve(env, func() error { return d.sendPackets(receive) })
	d.serve(env, func() error {
		return transmit.Serve(func(chain *virtio.Chain) error {
			if err := d.receivePacket(transmit, chain); err != nil {
				return err
			}
			transmit.Done(chain, 0)
			return nil
		})
	})
	d.serve(env, func() error { return d.sendEvents(event) })
	return nil
}

func (d *Device) serve(env virtio.Env, f func() error) {
	d.served.Add(1)
	go func() {
		defer d.served.Done()
		if err := f(); err != nil && !errors.Is(err, virtio.ErrStopped) {
			env.Fail(err)
		}
		d.stopped()
	}()
}

// stopped ends what cannot go on without the driver.
func (d *Device) stopped() {
	d.mu.Lock()
	d.running = false
	d.mu.Unlock()
	d.endAll(ErrReset)
}

// Stop implements virtio.Device. All connections end with ErrReset.
func (d *Device) Stop() {
	d.stopped()
	d.served.Wait()
}

// TransportReset ends all connections, gives the guest a context ID and has its driver fetch that: what is to be done when a machine goes
// on from a saved state, where its connections are no more. Listening sockets of the guest stay.
func (d *Device) TransportReset(cid uint32) error {
	if err := checkCID(cid); err != nil {
		return err
	}
	d.mu.Lock()
	d.cid = uint64(cid)
	d.mu.Unlock()
	d.endAll(ErrReset)
	signal(d.reset)
	return nil
}

// signal wakes whoever waits for c, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// endAll ends all connections without telling the guest.
func (d *Device) endAll(err error) {
	d.mu.Lock()
	conns := make([]*Conn, 0, len(d.conns))
	for _, c := range d.conns {
		conns = append(conns, c)
	}
	d.ready, d.refusals = nil, nil
	d.mu.Unlock()
	signal(d.drained)
	for _, c := range conns {
		c.mu.Lock()
		c.end(err)
		c.mu.Unlock()
	}
}

// enqueue lets c send, when its turn comes. c.mu is held.
func (d *Device) enqueue(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enqueueLocked(c)
}

func (d *Device) enqueueLocked(c *Conn) {
	if !c.queued && d.conns[c.key] == c {
		c.queued = true
		d.ready = append(d.ready, c)
		signal(d.work)
	}
}

// refuse sends an RST. Those that the guest provokes are bounded by receivePacket; of ours, what is too much is lost.
func (d *Device) refuse(h header) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running && len(d.refusals) < maxRefusals+maxConns {
		d.refusals = append(d.refusals, h)
		signal(d.work)
	}
}

// forget takes a connection that is gone out of the table. c.mu is held.
func (d *Device) forget(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[c.key] == c {
		delete(d.conns, c.key)
	}
}

// release makes room for another connection: c is gone and closed. c.mu is held.
func (d *Device) release(*Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live--
}

// sendPackets serves the receive queue.
func (d *Device) sendPackets(q *virtio.Queue) error {
	for {
		chain, err := q.Next()
		if err != nil {
			return err
		}
		if chain == nil {
			q.Flush()
			if err := q.Wait(); err != nil {
				return err
			}
			continue
		}
		if chain.ReadLen() > 0 || chain.WriteLen() <= headerSize {
			return fmt.Errorf("%w: a vsock receive buffer of %d readable and %d writable bytes; it must be writable and hold a header of %d bytes and data",
				virtio.ErrProtocol, chain.ReadLen(), chain.WriteLen(), headerSize)
		}
		n, err := d.nextPacket(q, chain)
		if err != nil {
			return err
		}
		q.Done(chain, n)
	}
}

// nextPacket waits for a packet to send, puts it into chain and returns its size.
func (d *Device) nextPacket(q *virtio.Queue, chain *virtio.Chain) (uint32, error) {
	for {
		refusal, c := d.turn()
		switch {
		case refusal != nil:
			signal(d.drained)
			b := refusal.bytes()
			_, err := chain.Write(b[:])
			return chain.Written(), err
		case c != nil:
			n, more, err := c.send(chain)
			if more {
				d.enqueue(c)
			}
			if n > 0 || err != nil {
				return n, err
			}
		default:
			q.Flush()
			select {
			case <-d.work:
			case <-q.Stopping():
				return 0, virtio.ErrStopped
			}
		}
	}
}

// turn returns what is to be sent next, if anything is.
func (d *Device) turn() (*header, *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.refusals) > 0 {
		h := d.refusals[0]
		d.refusals = d.refusals[1:]
		return &h, nil
	}
	if len(d.ready) == 0 {
		return nil, nil
	}
	c := d.ready[0]
	copy(d.ready, d.ready[1:])
	d.ready = d.ready[:len(d.ready)-1]
	c.queued = false
	return nil, c
}

// receivePacket takes a packet of the guest.
func (d *Device) receivePacket(q *virtio.Queue, chain *virtio.Chain) error {
	if err := d.refusable(q); err != nil {
		return err
	}
	var b [headerSize]byte
	if n, _ := chain.Read(b[:]); n < headerSize {
		return fmt.Errorf("%w: a vsock packet of %d bytes; its header has %d", virtio.ErrProtocol, n, headerSize)
	}
	h := parseHeader(&b)
	d.mu.Lock()
	cid := d.cid
	c := d.conns[key{hostPort: h.dstPort, guestPort: h.srcPort}]
	d.mu.Unlock()
	switch {
	case h.srcCID != cid || h.dstCID != hostCID || h.typ != typeStream:
	case c != nil && c.receive(&h, chain):
		return nil
	case c == nil && h.op == opRequest && h.len == 0 && d.connect(&h):
		return nil
	}
	if h.op != opReset {
		d.refuse(h.refusal())
	}
	return nil
}

// refusable waits until a refusal can be held, for a packet can be answered with one.
func (d *Device) refusable(q *virtio.Queue) error {
	for {
		d.mu.Lock()
		n := len(d.refusals)
		d.mu.Unlock()
		if n < maxRefusals {
			return nil
		}
		q.Flush()
		select {
		case <-d.drained:
		case <-q.Stopping():
			return virtio.ErrStopped
		}
	}
}

// sendEvents serves the event queue.
func (d *Device) sendEvents(q *virtio.Queue) error {
	for {
		select {
		case <-d.reset:
		case <-q.Stopping():
			return virtio.ErrStopped
		}
		chain, err := q.Next()
		for chain == nil && err == nil {
			if err = q.Wait(); err == nil {
				chain, err = q.Next()
			}
		}
		if err != nil {
			return err
		}
		var event [4]byte
		binary.LittleEndian.PutUint32(event[:], eventTransportReset)
		if _, err := chain.Write(event[:]); err != nil {
			return fmt.Errorf("%w: a vsock event buffer of %d writable bytes; an event has %d", virtio.ErrProtocol, chain.WriteLen(), len(event))
		}
		q.Done(chain, chain.Written())
		q.Flush()
	}
}

// Dial connects to a port of the guest; the connection is a *Conn. It waits 30 s for an answer at most.
func (d *Device) Dial(port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	return d.DialContext(ctx, port)
}

// DialContext connects to a port of the guest; the connection is a *Conn. It fails at once, with ErrNotReady, if the guest has no driver
// running, and with ECONNREFUSED if nobody listens there.
func (d *Device) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{CID: d.CID(), Port: port}, Err: err}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	d.mu.Lock()
	k, err := d.freeKey(port)
	if err != nil {
		d.mu.Unlock()
		return nil, err
	}
	c := newConn(d, k, d.cid, dialing)
	c.request = true
	d.add(c)
	d.mu.Unlock()

	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.write.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == dialing && ctx.Err() == nil {
		c.write.Wait()
	}
	if c.state == open {
		return c, nil
	}
	err = ctx.Err()
	if c.state == gone {
		err = c.err
	}
	c.closed = true
	if c.state == gone {
		d.release(c)
	} else {
		c.reset(err)
	}
	return nil, err
}

// freeKey returns a key for a connection to a port of the guest. d.mu is held.
func (d *Device) freeKey(port uint32) (key, error) {
	switch {
	case d.ctx.Err() != nil:
		return key{}, net.ErrClosed
	case !d.running:
		return key{}, ErrNotReady
	case d.live >= maxConns:
		return key{}, ErrTooMany
	}
	for {
		k := key{hostPort: d.nextPort, guestPort: port}
		if d.nextPort++; d.nextPort == endPort {
			d.nextPort = firstPort
		}
		if d.conns[k] == nil {
			return k, nil
		}
	}
}

// add takes a connection into the table, to send what it begins with. d.mu is held.
func (d *Device) add(c *Conn) {
	d.conns[c.key] = c
	d.live++
	d.enqueueLocked(c)
}

// connect answers the guest's request for a connection to the host. It says false if it is to be refused.
func (d *Device) connect(h *header) bool {
	d.mu.Lock()
	if !d.running || d.live >= maxConns {
		d.mu.Unlock()
		return false
	}
	c := newConn(d, key{hostPort: h.dstPort, guestPort: h.srcPort}, d.cid, open)
	c.response = true
	c.peerAlloc, c.peerFwd = min(h.bufAlloc, maxPeerBuffer), h.fwdCnt
	if c.peerFwd != 0 {
		d.mu.Unlock()
		return false // nothing was sent yet
	}
	if l := d.listeners[h.dstPort]; l != nil {
		defer d.mu.Unlock()
		return l.offer(c)
	}
	d.mu.Unlock()
	if d.path == "" {
		return false
	}
	u, err := d.dialHost(h.dstPort)
	if err != nil {
		return false
	}
	d.mu.Lock()
	d.add(c)
	d.mu.Unlock()
	d.spawn(func() { bridge(c, u) }, func() {
		u.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reset(syscall.ECONNRESET)
	})
	return true
}
