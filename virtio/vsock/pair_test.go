package vsock

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// pair makes a guest that passes on what a connection sends as if another one's peer had sent it: two connections of the device, back to back.
// Only the context IDs have to be exchanged: port 1024 of the guest leads to port 1024 of the host.
func pair(t testing.TB) (d *Device, l net.Listener, stop func()) {
	g := newGuest(t, Config{})
	l = g.listen(1024)
	done := make(chan struct{})
	var once sync.Once
	quit := make(chan struct{})
	go func() {
		defer close(done)
		for {
			var p packet
			select {
			case p = <-g.packets:
			case <-quit:
				return
			}
			p.srcCID, p.dstCID = p.dstCID, p.srcCID
			b := p.bytes()
			// Post, not Send: the order is the queue's, and waiting for each would be half of the time.
			if len(p.payload) > 0 {
				g.post(b[:], p.payload)
			} else {
				g.post(b[:])
			}
		}
	}()
	return g.dev, l, func() { once.Do(func() { close(quit); <-done }) }
}

// post sends without waiting for the answer; buffers of answered packets are freed by a later one.
func (g *guest) post(parts ...[]byte) {
	g.sent = append(g.sent, g.drv.Post(queueTransmit, parts))
	for len(g.sent) > 0 {
		select {
		case <-g.sent[0].Done():
			g.sent[0].Wait()
			g.sent = g.sent[1:]
		default:
			return
		}
	}
}

// connect makes two connections, each the peer of the other.
func connect(t testing.TB, d *Device, l net.Listener) (a, b net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	a, err := d.Dial(1024)
	if err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	return a, b
}

// Bytes by chance, in pieces by chance, both ways on several connections at once, arrive as they were sent.
func TestTransfer(t *testing.T) {
	d, l, stop := pair(t)
	defer stop()
	var wg sync.WaitGroup
	send := func(c net.Conn, data []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		for len(data) > 0 {
			n, err := c.Write(data[:min(len(data), 1+r.IntN(100_000))])
			if err != nil {
				t.Error(err)
				return
			}
			data = data[n:]
		}
		if err := c.(*Conn).CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	receive := func(c net.Conn, want []byte, seed uint64) {
		var got bytes.Buffer
		r := rand.New(rand.NewPCG(seed, 2))
		var err error
		if seed%2 == 0 {
			_, err = c.(*Conn).WriteTo(&got)
		} else {
			for err == nil {
				buf := make([]byte, 1+r.IntN(100_000))
				var n int
				n, err = c.Read(buf)
				got.Write(buf[:n])
			}
		}
		if err != nil && err != io.EOF {
			t.Error(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("connection %d: %d bytes received of %d, or others", seed, got.Len(), len(want))
		}
	}
	for i := range uint64(4) {
		a, b := connect(t, d, l)
		there, back := make([]byte, 1<<20), make([]byte, 300_000)
		chance := rand.NewChaCha8([32]byte{byte(i)})
		chance.Read(there)
		chance.Read(back)
		wg.Go(func() { send(a, there, i) })
		wg.Go(func() { receive(b, there, i) })
		wg.Go(func() { send(b, back, i+100) })
		wg.Go(func() { receive(a, back, i+100) })
		defer a.Close()
		defer b.Close()
	}
	wg.Wait()
}

// BenchmarkThroughput is one connection through the driver and back: each byte crosses both queues.
func BenchmarkThroughput(b *testing.B) {
	d, l, stop := pair(b)
	defer stop()
	from, to := connect(b, d, l)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, to)
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	from.(*Conn).CloseWrite()
	<-done
	b.StopTimer()
	from.Close()
	to.Close()
}

// BenchmarkRoundTrip is a byte through the driver and back, and its answer likewise.
func BenchmarkRoundTrip(b *testing.B) {
	d, l, stop := pair(b)
	defer stop()
	from, to := connect(b, d, l)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(to, to)
	}()
	buf := make([]byte, 1)
	b.ResetTimer()
	for range b.N {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	from.(*Conn).CloseWrite()
	<-done
	from.Close()
	to.Close()
}
