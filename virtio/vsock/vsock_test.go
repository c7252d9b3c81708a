package vsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

func TestReservedCID(t *testing.T) {
	for _, cid := range []uint32{0, 1, 2, 1<<32 - 1} {
		if _, err := New(Config{CID: cid}); err == nil {
			t.Errorf("CID %#x is taken", cid)
		}
	}
	g := newGuest(t, Config{})
	if err := g.dev.TransportReset(2); err == nil {
		t.Error("CID 2 is taken")
	}
	if got := binary.LittleEndian.Uint64(g.drv.Config(0, 8)); got != testCID {
		t.Errorf("guest_cid is %d", got)
	}
	if got := g.drv.Config(4, 8); !bytes.Equal(got, make([]byte, 8)) {
		t.Errorf("upper half and what is behind: %x", got)
	}
	g.drv.Instance.WriteConfig(0, []byte{9})
	if got := g.dev.CID(); got != testCID {
		t.Errorf("the driver has changed the CID to %d", got)
	}
}

func TestDial(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(1 << 16)
	if got := c.RemoteAddr().String(); got != "42:1024" {
		t.Errorf("remote address %s", got)
	}
	if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if got := g.want(opData); string(got.payload) != "hello" || got.bufAlloc != bufferSize {
		t.Fatalf("packet %+v %q", got.header, got.payload)
	}
	p.send(opData, []byte("world")...)
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "world" {
		t.Fatal(string(buf[:n]), err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := g.want(opShutdown); got.flags != shutBoth || got.fwdCnt != 5 {
		t.Fatalf("shutdown %+v", got.header)
	}
	p.send(opReset)
	g.quiet()
	wantErr(t, "second close", c.Close(), net.ErrClosed)
	_, err := c.Write(buf)
	wantErr(t, "write after close", err, net.ErrClosed)
	_, err = c.Read(buf)
	wantErr(t, "read after close", err, net.ErrClosed)
	wantErr(t, "deadline after close", c.SetDeadline(time.Time{}), net.ErrClosed)
}

func TestDialRefused(t *testing.T) {
	g := newGuest(t, Config{})
	errs := make(chan error)
	dial := func(ctx context.Context) {
		_, err := g.dev.DialContext(ctx, 7)
		errs <- err
	}
	go dial(t.Context())
	q := g.want(opRequest)
	g.send(header{srcCID: testCID, dstCID: hostCID, srcPort: 7, dstPort: q.srcPort, typ: typeStream, op: opReset})
	wantErr(t, "dial", <-errs, syscall.ECONNREFUSED)

	// An answer that makes no sense.
	go dial(t.Context())
	q = g.want(opRequest)
	(&peer{g: g, src: 7, dst: q.srcPort}).send(opCreditUpdate)
	g.want(opReset)
	wantErr(t, "dial", <-errs, errNonsense)

	// No answer.
	ctx, cancel := context.WithCancel(t.Context())
	go dial(ctx)
	g.want(opRequest)
	cancel()
	wantErr(t, "dial", <-errs, context.Canceled)
	g.want(opReset)
	g.quiet()
	if g.dev.live != 0 {
		t.Errorf("%d connections are left", g.dev.live)
	}
}

func TestListen(t *testing.T) {
	g := newGuest(t, Config{})
	p := &peer{g: g, src: 5000, dst: 80, alloc: 1 << 20}
	p.send(opRequest)
	if r := g.want(opReset); r.srcPort != 80 || r.dstPort != 5000 || r.srcCID != hostCID || r.dstCID != testCID {
		t.Fatalf("refusal %+v", r.header)
	}
	l := g.listen(80)
	_, err := g.dev.Listen(80)
	wantErr(t, "listen twice", err, syscall.EADDRINUSE)
	c, p := g.connected(l, 5000)
	p.send(opData, 1, 2, 3)
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	// A guest that connects from the same port again has forgotten the connection.
	p.send(opRequest)
	g.want(opReset)
	_, err = c.Read(make([]byte, 1))
	wantErr(t, "read", err, syscall.ECONNRESET)

	// Nobody accepts: the backlog fills, the rest is refused.
	for i := range uint32(backlog) {
		(&peer{g: g, src: 6000 + i, dst: 80}).send(opRequest)
		g.want(opResponse)
	}
	(&peer{g: g, src: 7000, dst: 80}).send(opRequest)
	g.want(opReset)
	l.Close()
	for range backlog {
		g.want(opShutdown)
	}
	_, err = l.Accept()
	wantErr(t, "accept", err, net.ErrClosed)
	p.send(opRequest)
	g.want(opReset)
}

// What makes no sense is answered with RST; an open connection that it is about is gone.
func TestNonsenseIsReset(t *testing.T) {
	g := newGuest(t, Config{})
	none := peer{g: g, src: 1, dst: 2}
	for _, tt := range []struct {
		name string
		edit func(h *header)
	}{
		{"another source CID", func(h *header) { h.srcCID = 3 }},
		{"upper half of the source CID", func(h *header) { h.srcCID |= 1 << 32 }},
		{"another destination CID", func(h *header) { h.dstCID = 3 }},
		{"upper half of the destination CID", func(h *header) { h.dstCID |= 1 << 32 }},
		{"seqpacket", func(h *header) { h.typ = 2 }},
		{"unknown type", func(h *header) { h.typ = 0xffff }},
		{"operation 0", func(h *header) { h.op = 0 }},
		{"unknown operation", func(h *header) { h.op = 8 }},
		{"response without a request", func(h *header) { h.op = opResponse }},
		{"credit update without a connection", func(h *header) { h.op = opCreditUpdate }},
		{"shutdown without a connection", func(h *header) { h.op = opShutdown }},
		{"request with a payload", func(h *header) { h.op, h.len = opRequest, 1 }},
		{"request that has received", func(h *header) { h.op, h.fwdCnt = opRequest, 1 }},
	} {
		h := none.header(opData, 0)
		tt.edit(&h)
		g.send(h, []byte{0})
		r := g.want(opReset)
		if r.srcCID != h.dstCID || r.dstCID != h.srcCID || r.srcPort != h.dstPort || r.dstPort != h.srcPort || r.typ != h.typ {
			t.Errorf("%s: answer %+v", tt.name, r.header)
		}
		// An RST is never answered.
		h.op = opReset
		g.send(h)
		g.quiet()
	}
	for _, tt := range []struct {
		name string
		do   func(p *peer)
	}{
		{"operation 0", func(p *peer) { p.send(0) }},
		{"unknown operation", func(p *peer) { p.send(8) }},
		{"response", func(p *peer) { p.send(opResponse) }},
		{"request", func(p *peer) { p.send(opRequest) }},
		{"payload of a credit update", func(p *peer) { p.send(opCreditUpdate, 1) }},
		{"longer than its buffer", func(p *peer) { g.send(p.header(opData, 5), []byte{1, 2, 3, 4}) }},
		{"length of 4 GiB", func(p *peer) { g.send(p.header(opData, 1<<32-1), []byte{1}) }},
		{"unknown shutdown flags", func(p *peer) { p.shutdown(4) }},
		{"data after the end", func(p *peer) { p.shutdown(shutSend); p.send(opData, 1) }},
		{"received what was not sent", func(p *peer) { p.fwd = 1; p.send(opCreditUpdate) }},
		{"more than its credit", func(p *peer) {
			chunk := make([]byte, bufferSize/4)
			for range 4 {
				p.send(opData, chunk...)
			}
			p.send(opData, 1)
		}},
	} {
		c, p := g.dialed(1 << 16)
		tt.do(p)
		if r := g.want(opReset); r.dstPort != p.src || r.srcPort != p.dst {
			t.Errorf("%s: answer %+v", tt.name, r.header)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, errNonsense) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: write: %v", tt.name, err)
		}
		c.Close()
		if g.dev.live != 0 {
			t.Errorf("%s: %d connections are left", tt.name, g.dev.live)
		}
	}
}

// The guest is never sent more than it has said that it can take.
func TestCreditOfTheGuest(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(10)
	data := []byte("abcdefghijklmnopqrstuvwxyz")
	type result struct {
		n   int
		err error
	}
	results := make(chan result, 1)
	write := func(b []byte) {
		n, err := c.Write(b)
		results <- result{n, err}
	}
	go write(data)
	if d := g.want(opData); string(d.payload) != "abcdefghij" {
		t.Fatalf("%q with credit for 10", d.payload)
	}
	g.want(opCreditRequest)
	g.quiet()
	p.send(opCreditUpdate) // nothing taken
	g.quiet()
	p.fwd = 4
	p.send(opCreditUpdate)
	if d := g.want(opData); string(d.payload) != "klmn" {
		t.Fatalf("%q with credit for 4", d.payload)
	}
	g.want(opCreditRequest)
	// A smaller buffer than what is under way is no credit; older news neither.
	p.alloc = 2
	p.send(opCreditUpdate)
	g.quiet()
	p.fwd, p.alloc = 3, 1000
	p.send(opCreditUpdate)
	g.quiet()
	// Any packet tells of credit.
	p.fwd, p.alloc = 14, 5
	p.send(opData, 'x')
	if d := g.want(opData); string(d.payload) != "opqrs" {
		t.Fatalf("%q with credit for 5", d.payload)
	}
	g.want(opCreditRequest)
	// A deadline takes back what was not sent.
	c.SetWriteDeadline(time.Unix(1, 0))
	if r := <-results; r.n != 19 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %d, %v", r.n, r.err)
	}
	p.fwd = 19
	p.send(opCreditUpdate)
	g.quiet()
	c.SetWriteDeadline(time.Time{})

	// Counters wrap, and 4 GiB of buffer are no more than 1 GiB.
	c.mu.Lock()
	c.txCnt, c.peerFwd = 1<<32-3, 1<<32-3
	c.mu.Unlock()
	p.fwd, p.alloc = 1<<32-3, 1<<32-1
	p.send(opCreditUpdate)
	go write(data)
	if d := g.want(opData); !bytes.Equal(d.payload, data) {
		t.Fatalf("%q", d.payload)
	}
	<-results
	c.mu.Lock()
	if c.peerAlloc != maxPeerBuffer || c.txCnt != 23 {
		t.Errorf("buffer of %d, %d sent", c.peerAlloc, c.txCnt)
	}
	c.mu.Unlock()
	p.fwd, p.alloc = 23, 1
	p.send(opCreditUpdate)
	go write([]byte{1})
	g.want(opData)
	<-results
}

// The guest gets credit as the host reads, and no more than the buffer is.
func TestCreditForTheGuest(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(1 << 16)
	chunk := make([]byte, bufferSize/8)
	for i := range chunk {
		chunk[i] = byte(i * i >> 3)
	}
	for range 8 {
		p.send(opData, chunk...)
	}
	g.quiet()
	got := make([]byte, len(chunk))
	for i := range 8 {
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, chunk) {
			t.Fatal(err)
		}
		if i%2 == 1 {
			if u := g.want(opCreditUpdate); u.bufAlloc != bufferSize || int(u.fwdCnt) != (i+1)*len(chunk) {
				t.Fatalf("credit %+v", u.header)
			}
		}
	}
	g.quiet()
	p.send(opCreditRequest)
	if u := g.want(opCreditUpdate); u.fwdCnt != bufferSize {
		t.Fatalf("credit %+v", u.header)
	}
	// The end of a longer buffer is padding.
	g.send(p.header(opData, 2), []byte("hi there"))
	p.shutdown(shutSend)
	var b bytes.Buffer
	if n, err := c.WriteTo(&b); n != 2 || err != nil || b.String() != "hi" {
		t.Fatal(n, err, b.String())
	}
}

func TestHalfClose(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(1 << 16)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s := g.want(opShutdown); s.flags != shutSend {
		t.Fatalf("shutdown %+v", s.header)
	}
	_, err := c.Write([]byte{1})
	wantErr(t, "write", err, syscall.EPIPE)
	p.send(opData, []byte("answer")...)
	p.shutdown(shutSend)
	if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
		t.Fatal(string(b), err)
	}
	// Hints are permanent: flags that are clear take nothing back.
	p.shutdown(0)
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	p.shutdown(shutReceive)
	g.want(opReset)
	g.quiet()

	// The guest does not receive any more: its data is read to the end, which is orderly although data was left.
	c, p = g.dialed(1 << 16)
	p.send(opData, []byte("last words")...)
	p.shutdown(shutBoth)
	g.want(opReset)
	_, err = c.Write([]byte{1})
	wantErr(t, "write", err, syscall.EPIPE)
	if b, err := io.ReadAll(c); err != nil || string(b) != "last words" {
		t.Fatal(string(b), err)
	}

	// After Close what is under way is dropped, and the guest's own shutdown answered.
	c, p = g.dialed(1 << 16)
	c.Close()
	g.want(opShutdown)
	p.send(opData, 1, 2, 3)
	p.shutdown(shutBoth)
	g.want(opReset)
	g.quiet()
}

// A guest that does not answer the end gets RST.
func TestLinger(t *testing.T) {
	g := newGuest(t, Config{})
	c, _ := g.dialed(1 << 16)
	c.Close()
	g.want(opShutdown)
	c.mu.Lock()
	c.linger.Reset(0)
	c.mu.Unlock()
	g.want(opReset)
	g.quiet()
	if g.dev.live != 0 {
		t.Errorf("%d connections are left", g.dev.live)
	}
}

func TestTooMany(t *testing.T) {
	g := newGuest(t, Config{})
	l := g.listen(80)
	for i := range uint32(maxConns) {
		c, p := g.connected(l, i)
		if i%2 == 0 {
			// Gone, but not closed: what it holds counts.
			p.send(opData, 1)
			p.shutdown(shutBoth)
			g.want(opReset)
		}
		if i == 0 {
			t.Cleanup(func() { c.Close() })
		}
	}
	(&peer{g: g, src: 1000, dst: 80}).send(opRequest)
	g.want(opReset)
	_, err := g.dev.Dial(5)
	wantErr(t, "dial", err, ErrTooMany)
	g.dev.mu.Lock()
	var c *Conn
	for _, c = range g.dev.conns {
		break
	}
	g.dev.mu.Unlock()
	c.Close()
	g.want(opShutdown)
	g.send(header{srcCID: testCID, dstCID: hostCID, srcPort: c.key.guestPort, dstPort: c.key.hostPort, typ: typeStream, op: opReset})
	g.connected(l, 1000)
}

// The transmit queue is served although nothing can be received, until there is no room for answers.
func TestTransmitWithoutReceive(t *testing.T) {
	dev, drv := newDevice(t, Config{})
	var posted []*virtiotest.Pending
	post := func(n int) {
		for i := range n {
			h := header{srcCID: testCID, dstCID: hostCID, srcPort: uint32(i), dstPort: 1, typ: typeStream, op: opData}
			b := h.bytes()
			posted = append(posted, drv.Post(queueTransmit, [][]byte{b[:]}))
		}
	}
	post(maxRefusals)
	for _, p := range posted {
		p.Wait()
	}
	posted = nil
	post(5)
	g := &guest{t: t, dev: dev, drv: drv}
	g.receive()
	t.Cleanup(g.halt)
	for i := range maxRefusals + 5 {
		if p := g.want(opReset); int(p.dstPort) != i%maxRefusals {
			t.Fatalf("refusal %d is for %d", i, p.dstPort)
		}
	}
	for _, p := range posted {
		p.Wait()
	}
}

func TestTransportReset(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(1 << 16)
	event := g.drv.Post(queueEvent, nil, 4)
	if err := g.dev.TransportReset(77); err != nil {
		t.Fatal(err)
	}
	if u := event.Wait(); u.Len != 4 || binary.LittleEndian.Uint32(u.Data[0]) != eventTransportReset {
		t.Fatalf("event %+v", u)
	}
	if got := binary.LittleEndian.Uint64(g.drv.Config(0, 8)); got != 77 {
		t.Errorf("guest_cid is %d", got)
	}
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "read", err, ErrReset)
	// The old address is nobody's.
	p.send(opData, 1)
	g.want(opReset)
	g.quiet()
	g.send(header{srcCID: 77, dstCID: hostCID, srcPort: 1, dstPort: 1, typ: typeStream, op: opRequest})
	if r := g.want(opReset); r.dstCID != 77 {
		t.Errorf("refusal %+v", r.header)
	}
}

func TestDriverReset(t *testing.T) {
	g := newGuest(t, Config{})
	c, _ := g.dialed(1 << 16)
	read, dial := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	go func() {
		_, err := g.dev.Dial(1)
		dial <- err
	}()
	g.want(opRequest)
	g.halt()
	g.drv.Reset()
	wantErr(t, "read", <-read, ErrReset)
	wantErr(t, "dial", <-dial, ErrReset)
	_, err := c.Write([]byte{1})
	wantErr(t, "write", err, ErrReset)
	_, err = g.dev.Dial(1)
	wantErr(t, "dial", err, ErrNotReady)
	g.drv.Start()
	g.receive()
	g.dialed(1 << 16)
}

func TestDeadlines(t *testing.T) {
	g := newGuest(t, Config{})
	c, p := g.dialed(0)
	c.SetDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "read", err, os.ErrDeadlineExceeded)
	n, err := c.Write([]byte{1})
	if wantErr(t, "write", err, os.ErrDeadlineExceeded); n != 0 {
		t.Errorf("%d bytes written without credit", n)
	}
	if e, ok := err.(net.Error); !ok || !e.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	c.SetDeadline(time.Now().Add(time.Hour))
	c.SetDeadline(time.Time{})
	p.send(opData, 1)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// Broken buffers cost the device its driver.
func TestBrokenBuffers(t *testing.T) {
	for name, post := range map[string]func(drv *virtiotest.Driver){
		"receive buffer without room": func(drv *virtiotest.Driver) { drv.Post(queueReceive, nil, headerSize) },
		"readable receive buffer":     func(drv *virtiotest.Driver) { drv.Post(queueReceive, [][]byte{{1}}, rxSize) },
		"half a header":               func(drv *virtiotest.Driver) { drv.Post(queueTransmit, [][]byte{make([]byte, headerSize-1)}) },
		"short event": func(drv *virtiotest.Driver) {
			drv.Post(queueEvent, nil, 3)
			drv.Instance.Device().(*Device).TransportReset(testCID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, drv := newDevice(t, Config{})
			post(drv)
			wantErr(t, "failure", drv.Failure(), virtio.ErrProtocol)
			drv.Reset()
			drv.Start()
		})
	}
	dev, err := New(Config{CID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	defer func() {
		if recover() == nil {
			t.Error("a device without its event queue has started")
		}
	}()
	drv := virtiotest.NewWith(nil, dev, 4*memmap.MiB, virtiotest.Options{Skip: []int{queueEvent}})
	drv.Close()
}
