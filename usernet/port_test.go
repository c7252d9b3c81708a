package usernet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
)

const offloads = vnethdr.Csum | vnethdr.TSO4

// card is a guest's stack with a network card that offloads what it can.
type card struct {
	*stack.Stack
	port     *Port
	biggest  atomic.Int64 // frame, in bytes, with its header
	received atomic.Int64 // frames
}

// newCard plugs a guest into a port by so many pairs of queues. Each flow of the guest uses the pair that its number says.
func newCard(t testing.TB, config Config, pairs int) *card {
	t.Helper()
	port, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &card{port: port, Stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})}
	var mus [MaxPairs]sync.Mutex
	l := &link{mtu: uint32(port.MTU()) + header.EthernetMinimumSize, caps: stack.CapabilityRXChecksumOffload}
	l.gso.Store(uint32(offloads))
	l.send = func(pkt *stack.PacketBuffer) bool {
		var h vnethdr.Header
		if g := pkt.GSOOptions; g.Type != stack.GSONone {
			h = vnethdr.Header{Flags: vnethdr.NeedsCsum, CsumStart: 14 + g.L3HdrLen, CsumOffset: g.CsumOffset}
			if pkt.Data().Size() > int(g.MSS) {
				h.GSO, h.GSOSize, h.HdrLen = vnethdr.GSOTCPv4, g.MSS, uint16(pkt.HeaderSize())
			}
		}
		var head [vnethdr.Size]byte
		h.Put(&head)
		pair := 0
		if pkt.NetworkProtocolNumber == ipv4.ProtocolNumber {
			pair = int(flowOf(bytes.Join([][]byte{pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()}, nil))) % pairs
		}
		mus[pair].Lock()
		defer mus[pair].Unlock()
		port.Transmit(pair, append([][]byte{head[:]}, pkt.AsSlices()...))
		return true
	}
	if err := c.CreateNIC(1, ethernet.New(l)); err != nil {
		t.Fatal(err)
	}
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(Guest.As4()), PrefixLen: 24}}
	if err := c.AddProtocolAddress(1, addr, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	c.SetRouteTable([]tcpip.Route{
		{Destination: addr.AddressWithPrefix.Subnet(), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(Router.As4()), NIC: 1},
	})
	sack := tcpip.TCPSACKEnabled(true)
	c.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	if err := port.Start(offloads); err != nil {
		t.Fatal(err)
	}
	if err := port.SetPairs(pairs); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for pair := range pairs {
		wg.Go(func() {
			buf := make([]byte, vnethdr.Size+vnethdr.MaxFrame)
			for {
				n, err := port.Receive(pair, [][]byte{buf[:5], buf[5:100], buf[100:]}, func() {})
				if err != nil {
					return
				}
				h := vnethdr.Parse((*[vnethdr.Size]byte)(buf))
				if err := h.Check(n-vnethdr.Size, offloads); err != nil {
					t.Errorf("a frame for the guest: %v", err)
				}
				if h.GSO != 0 && h.GSOSize > 1460 {
					t.Errorf("segments of %d bytes for an MTU of 1500", h.GSOSize)
				}
				c.biggest.Store(max(c.biggest.Load(), int64(n)))
				c.received.Add(1)
				pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[vnethdr.Size:n])})
				l.receive(pkt)
				pkt.DecRef()
			}
		})
	}
	t.Cleanup(func() {
		port.Close()
		wg.Wait()
		c.Close()
		c.Wait()
	})
	return c
}

// dial connects the guest to a port of the router.
func (c *card) dial(t testing.TB, port int) *gonet.TCPConn {
	t.Helper()
	conn, err := gonet.DialTCP(c.Stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(Router.As4()), Port: uint16(port)}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPortTCP(t *testing.T) {
	for _, pairs := range []int{1, 3} {
		port := listen(t, func(c *net.TCPConn) {
			h := sha256.New()
			if _, err := io.Copy(h, c); err == nil {
				c.Write(h.Sum(nil))
				c.Write(bytes.Repeat([]byte("from the host.. "), 1<<18))
			}
		})
		c := newCard(t, Config{Loopback: true}, pairs)
		data := bytes.Repeat([]byte("from the guest. "), 1<<18) // 4 MiB
		want := sha256.Sum256(data)
		var wg sync.WaitGroup
		for range 5 {
			conn := c.dial(t, port)
			wg.Go(func() {
				if _, err := conn.Write(data); err != nil {
					t.Error(err)
				}
				conn.CloseWrite()
				back, err := io.ReadAll(conn)
				if err != nil || !bytes.HasPrefix(back, want[:]) || !bytes.Equal(back[len(want):], bytes.Repeat([]byte("from the host.. "), 1<<18)) {
					t.Errorf("%d bytes back, %v", len(back), err)
				}
			})
		}
		wg.Wait()
		if n := c.biggest.Load(); n < 30_000 {
			t.Errorf("the largest frame had %d bytes: no offload", n)
		}
		if n := c.port.Dropped(); n != 0 {
			t.Errorf("%d frames dropped", n)
		}
		used := 0
		for i := range c.port.steer {
			if c.port.steer[i].Load() != 0 {
				used++
			}
		}
		if (used > 0) != (pairs > 1) {
			t.Errorf("%d flows steered with %d pairs", used, pairs)
		}
	}
}

// TestPortSteers: answers come by the pair of queues that the guest's frames took last.
func TestPortSteers(t *testing.T) {
	echo := udpEcho(t, "")
	p, err := Open(Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Start(offloads); err != nil {
		t.Fatal(err)
	}
	if err := p.SetPairs(4); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	arp := append(append(append([]byte{}, header.EthernetBroadcastAddress...), MACPeer[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	arp = append(append(append(append(arp, MACPeer[:]...), 10, 0, 2, 15), 0, 0, 0, 0, 0, 0), 10, 0, 2, 2)
	p.Transmit(0, [][]byte{make([]byte, vnethdr.Size), arp})
	if n, err := p.Receive(0, [][]byte{buf}, func() {}); err != nil || n != vnethdr.Size+42 {
		t.Fatalf("no answer to ARP: %d, %v", n, err)
	}
	for _, pair := range []int{2, 3, 0, 1} {
		frame := udpFrame(tcpip.LinkAddress(MAC[:]), Router, 1000, echo.Port(), []byte("hello"))
		copy(frame[6:], MACPeer[:])
		ip := header.IPv4(frame[14:])
		ip.SetSourceAddressWithChecksumUpdate(tcpip.AddrFrom4(Guest.As4()))
		p.Transmit(pair, [][]byte{make([]byte, vnethdr.Size), frame})
		if n, err := p.Receive(pair, [][]byte{buf}, func() {}); err != nil || string(buf[vnethdr.Size+42:n]) != "hello" {
			t.Fatalf("pair %d: %d bytes, %v", pair, n, err)
		}
	}
	for _, n := range []int{-1, 0, MaxPairs + 1} {
		if p.SetPairs(n) == nil {
			t.Errorf("%d pairs are possible", n)
		}
	}
}

// TestPortStops: a stopped port lets nobody wait and keeps nothing; a started one without a reader keeps no more than it may.
func TestPortStops(t *testing.T) {
	p, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	buf := [][]byte{make([]byte, 2000)}
	if _, err := p.Receive(0, buf, func() {}); !errors.Is(err, ErrStopped) {
		t.Fatalf("receiving from a port not started: %v", err)
	}
	frame := func(n int) *stack.PacketBuffer {
		return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, n))})
	}
	small := frame(60)
	defer small.DecRef()
	if p.queue(small) {
		t.Fatal("a stopped port takes frames")
	}
	for range 2 {
		if err := p.Start(0); err != nil {
			t.Fatal(err)
		}
		if p.Start(0) == nil {
			t.Fatal("started twice")
		}
		waits, done := make(chan struct{}), make(chan error)
		go func() {
			_, err := p.Receive(0, buf, func() { close(waits) })
			done <- err
		}()
		<-waits
		p.Stop()
		p.Stop()
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Fatalf("receiving from a port that stops: %v", err)
		}
	}
	if err := p.Start(0); err != nil {
		t.Fatal(err)
	}
	big := frame(60_000)
	defer big.DecRef()
	n := 0
	for p.queue(big) {
		n++
	}
	if n != queueBytes/big.MemSize() {
		t.Fatalf("%d frames of %d bytes wait", n, big.MemSize())
	}
	for range 3 * cap(p.queues[0].packets) { // the room is used again
		p.queues[0].pop().DecRef()
		if !p.queue(big) {
			t.Fatal("no room for a frame after one went")
		}
	}
	if c := cap(p.queues[0].packets); c > 4*n {
		t.Fatalf("a queue for %d frames", c)
	}
}

// TestPortOffloads: frames that need what the driver does not do are dropped, and short views hold what fits.
func TestPortOffloads(t *testing.T) {
	p, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Repeat([]byte{7}, 100))})
	defer pkt.DecRef()
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, L3HdrLen: 20, CsumOffset: 16, MSS: 10}
	for give, ok := range map[vnethdr.Offloads]bool{0: false, vnethdr.Csum: false, offloads: true} {
		p.give.Store(uint32(give))
		views := [][]byte{make([]byte, 20), make([]byte, 30)}
		if n, got := p.copyOut(pkt, views); got != ok || ok && (n != 112 || views[0][0] != 1 || views[1][29] != 7) {
			t.Errorf("offloads %#x: %d, %v", give, n, got)
		}
	}
}

// TestPortDataValid: the guest hears that checksums are right, if it wants to know.
func TestPortDataValid(t *testing.T) {
	p, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, 100))})
	defer pkt.DecRef()
	for give, want := range map[vnethdr.Offloads]byte{0: 0, vnethdr.Csum: vnethdr.DataValid} {
		p.give.Store(uint32(give))
		b := make([]byte, 200)
		if n, ok := p.copyOut(pkt, [][]byte{b}); !ok || n != 112 || b[0] != want || b[vnethdr.NumBuffers] != 1 {
			t.Errorf("offloads %#x: %d bytes, %v, % x", give, n, ok, b[:12])
		}
	}
}

// FuzzTransmit sends frames with any header that passes its check, in any pieces.
func FuzzTransmit(f *testing.F) {
	f.Add([]byte{1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 1, 0, 0x52, 0x54, 0, 0x12, 0x35, 2, 1, 1, 1, 1, 1, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2, 0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2}, uint8(3))
	f.Add(make([]byte, 70000), uint8(0))
	p, err := Open(Config{Resolver: nil})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { p.Close() })
	p.Start(offloads)
	p.SetPairs(MaxPairs)
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		if len(b) > vnethdr.Size+minFrame+20 && b[vnethdr.Size+12] == 8 && b[vnethdr.Size+13] == 0 {
			copy(b[vnethdr.Size+minFrame+16:], []byte{127, 0, 0, 1}) // a flow to the network at large would leave this machine
		}
		var views [][]byte
		for rest := b; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			views = append(views, rest[:n])
			rest = rest[n:]
		}
		p.Transmit(int(cut)%MaxPairs, views)
	})
}

// BenchmarkPortTCP moves data between a guest's stack with offloads and a socket of the host: both stacks, the gateway and the host's loopback are in it.
func BenchmarkPortTCP(b *testing.B) {
	const chunk = 1 << 20
	for _, fromGuest := range []bool{true, false} {
		name := "guest-to-host"
		if !fromGuest {
			name = "host-to-guest"
		}
		b.Run(name, func(b *testing.B) {
			accepted := make(chan *net.TCPConn)
			done := make(chan struct{})
			b.Cleanup(func() { close(done) })
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				if c, err := l.Accept(); err == nil {
					accepted <- c.(*net.TCPConn)
				}
			}()
			c := newCard(b, Config{Loopback: true}, 1)
			inside := c.dial(b, l.Addr().(*net.TCPAddr).Port)
			outside := <-accepted
			defer outside.Close()
			var to io.Writer = inside
			var from io.Reader = outside
			if !fromGuest {
				to, from = outside, inside
			}
			b.SetBytes(chunk)
			b.ResetTimer()
			start := time.Now()
			go func() {
				data := make([]byte, chunk)
				for range b.N {
					if _, err := to.Write(data); err != nil {
						return
					}
				}
			}()
			if _, err := io.CopyBuffer(io.Discard, io.LimitReader(from, int64(b.N)*chunk), make([]byte, chunk)); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)*chunk*8/time.Since(start).Seconds()/1e9, "Gbit/s")
		})
	}
}
