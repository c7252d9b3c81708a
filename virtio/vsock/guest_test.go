package vsock

import (
	"net"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

const (
	testCID  = 42
	patience = 30 * time.Second

	// Linux gives buffers of a header and 4 KiB.
	rxBuffers = 64
	rxSize    = headerSize + 4<<10
)

// packet is one of the device.
type packet struct {
	header
	payload []byte
}

// guest is a driver that a test speaks packets with.
type guest struct {
	t       testing.TB
	dev     *Device
	drv     *virtiotest.Driver
	packets chan packet // those that the device sent, in order; closed when receiving ends
	stop    chan struct{}
	sent    []*virtiotest.Pending // by post
	done    chan struct{}
}

// newDevice makes a device with the driver's memory and queues, but without receive buffers.
func newDevice(t testing.TB, config Config) (*Device, *virtiotest.Driver) {
	t.Helper()
	kvmtest.NoLeaks(t)
	config.CID = testCID
	dev, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev, virtiotest.New(t, dev, 16*memmap.MiB)
}

// newGuest makes a guest that has receive buffers.
func newGuest(t testing.TB, config Config) *guest {
	t.Helper()
	dev, drv := newDevice(t, config)
	g := &guest{t: t, dev: dev, drv: drv}
	g.receive()
	t.Cleanup(func() { g.halt() })
	return g
}

// receive starts to hand out buffers.
func (g *guest) receive() {
	g.packets, g.stop, g.done = make(chan packet, 4096), make(chan struct{}), make(chan struct{})
	go g.run()
}

func (g *guest) run() {
	defer close(g.done)
	defer close(g.packets)
	var posted []*virtiotest.Pending
	for {
		for len(posted) < rxBuffers {
			posted = append(posted, g.drv.Post(queueReceive, nil, headerSize, rxSize-headerSize))
		}
		select {
		case <-posted[0].Done():
		case <-g.stop:
			return
		}
		b := posted[0].Wait().Bytes()
		posted = posted[1:]
		select {
		case g.packets <- packet{parseHeader((*[headerSize]byte)(b)), b[headerSize:]}:
		case <-g.stop:
			return
		}
	}
}

func (g *guest) halt() {
	close(g.stop)
	<-g.done
}

// send sends a packet with the payload; h.len is the caller's.
func (g *guest) send(h header, payload ...[]byte) {
	g.t.Helper()
	b := h.bytes()
	g.drv.Send(queueTransmit, append([][]byte{b[:]}, payload...))
}

// want returns the device's next packet, which must be of that operation.
func (g *guest) want(op uint16) packet {
	g.t.Helper()
	select {
	case p := <-g.packets:
		if p.op != op {
			g.t.Fatalf("packet %+v, want operation %d", p.header, op)
		}
		if int(p.len) != len(p.payload) {
			g.t.Fatalf("packet %+v of %d bytes", p.header, len(p.payload))
		}
		return p
	case <-time.After(patience):
		g.t.Fatalf("no packet in %v, want operation %d", patience, op)
		return packet{}
	}
}

// quiet checks that the device has nothing to say: what comes next is the refusal of a packet sent now.
func (g *guest) quiet() {
	g.t.Helper()
	g.send(header{srcCID: testCID, dstCID: hostCID, srcPort: 9999, dstPort: 9999, typ: typeStream, op: opData})
	if p := g.want(opReset); p.dstPort != 9999 {
		g.t.Fatalf("packet %+v, want none", p.header)
	}
}

// peer is the guest's end of a connection.
type peer struct {
	g        *guest
	src, dst uint32 // ports
	alloc    uint32
	fwd      uint32
}

func (p *peer) header(op uint16, n int) header {
	return header{srcCID: testCID, dstCID: hostCID, srcPort: p.src, dstPort: p.dst, len: uint32(n), typ: typeStream, op: op, bufAlloc: p.alloc, fwdCnt: p.fwd}
}

func (p *peer) send(op uint16, payload ...byte) {
	p.g.t.Helper()
	if len(payload) == 0 {
		p.g.send(p.header(op, 0))
	} else {
		p.g.send(p.header(op, len(payload)), payload)
	}
}

func (p *peer) shutdown(flags uint32) {
	p.g.t.Helper()
	h := p.header(opShutdown, 0)
	h.flags = flags
	p.g.send(h)
}

// dialed connects the host to port 1024 of the guest, which answers with a buffer of alloc bytes.
func (g *guest) dialed(alloc uint32) (*Conn, *peer) {
	g.t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, 1)
	go func() {
		c, err := g.dev.Dial(1024)
		results <- result{c, err}
	}()
	q := g.want(opRequest)
	if q.srcCID != hostCID || q.dstCID != testCID || q.dstPort != 1024 || q.typ != typeStream || q.bufAlloc != bufferSize || q.fwdCnt != 0 {
		g.t.Fatalf("request %+v", q.header)
	}
	p := &peer{g: g, src: 1024, dst: q.srcPort, alloc: alloc}
	p.send(opResponse)
	r := <-results
	if r.err != nil {
		g.t.Fatal(r.err)
	}
	g.t.Cleanup(func() { r.c.Close() })
	return r.c.(*Conn), p
}

// connected has the guest connect from its port to a listener.
func (g *guest) connected(l net.Listener, port uint32) (*Conn, *peer) {
	g.t.Helper()
	p := &peer{g: g, src: port, dst: l.Addr().(Addr).Port, alloc: 1 << 20}
	p.send(opRequest)
	g.want(opResponse)
	c, err := l.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c.(*Conn), p
}

// listen listens until the test ends.
func (g *guest) listen(port uint32) net.Listener {
	g.t.Helper()
	l, err := g.dev.Listen(port)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	return l
}
