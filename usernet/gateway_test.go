package usernet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// guest is a network stack at the other end of the cable.
type guest struct {
	*stack.Stack
	link *channel.Endpoint
	g    *Gateway
	icmp chan []byte // ICMP messages for the guest, as far as there is room
}

// WriteNotify implements channel.Notification.
func (h *guest) WriteNotify() {
	for pkt := h.link.Read(); pkt != nil; pkt = h.link.Read() {
		h.g.FromGuest(pkt.ToView().AsSlice())
		pkt.DecRef()
	}
}

func newGuest(t *testing.T, config Config) *guest {
	t.Helper()
	h := &guest{
		Stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		link: channel.New(4096, 1500+header.EthernetMinimumSize, tcpip.LinkAddress(MACPeer[:])),
		icmp: make(chan []byte, 16),
	}
	h.link.AddNotify(h)
	var err error
	h.g, err = New(config, func(frame []byte) {
		if ip := header.IPv4(frame[header.EthernetMinimumSize:]); len(ip) > header.IPv4MinimumSize && ip.TransportProtocol() == header.ICMPv4ProtocolNumber {
			select {
			case h.icmp <- ip.Payload():
			default:
			}
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		h.link.InjectInbound(0, pkt)
		pkt.DecRef()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CreateNIC(1, ethernet.New(h.link)); err != nil {
		t.Fatal(err)
	}
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(Guest.As4()), PrefixLen: 24}}
	if err := h.AddProtocolAddress(1, addr, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	h.SetRouteTable([]tcpip.Route{
		{Destination: addr.AddressWithPrefix.Subnet(), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(Router.As4()), NIC: 1},
	})
	t.Cleanup(func() {
		h.g.Close()
		h.Close()
		h.Wait()
	})
	return h
}

func (h *guest) dialTCP(ip netip.Addr, port int) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return gonet.DialContextTCP(ctx, h.Stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(ip.As4()), Port: uint16(port)}, ipv4.ProtocolNumber)
}

func (h *guest) dialUDP(t *testing.T, ip netip.Addr, port int) *gonet.UDPConn {
	t.Helper()
	c, err := gonet.DialUDP(h.Stack, nil, &tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(ip.As4()), Port: uint16(port)}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(time.Minute))
	return c
}

// listen serves each connection on the host's loopback with fn.
func listen(t *testing.T, fn func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fn(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// udpEcho answers each datagram with prefix and the datagram.
func udpEcho(t *testing.T, prefix string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(append([]byte(prefix), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestTCPBothWaysAndHalfClose(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) {
		h := sha256.New()
		n, err := io.Copy(h, c) // ends with the guest's half-close
		if err != nil {
			return
		}
		binary.Write(c, binary.BigEndian, n)
		c.Write(h.Sum(nil))
		io.Copy(c, io.LimitReader(zeros{}, 3<<20))
	})
	h := newGuest(t, Config{Loopback: true})
	c, err := h.dialTCP(Router, port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18) // 4 MiB
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(data)
	if len(back) != 8+32+3<<20 || binary.BigEndian.Uint64(back) != uint64(len(data)) || !bytes.Equal(back[8:40], want[:]) {
		t.Fatalf("%d bytes back, the host saw %d", len(back), binary.BigEndian.Uint64(back))
	}
	if s := h.g.Stats(); s.FromGuest < uint64(len(data)) || s.ToGuest < 3<<20 || s.Refused != 0 {
		t.Fatalf("stats %+v", s)
	}
}

// zeros reads as zeros for ever.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestManyConnections(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
	h := newGuest(t, Config{Loopback: true})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c, err := h.dialTCP(Router, port)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			msg := []byte{byte(i), 1, 2, 3}
			got := make([]byte, len(msg))
			c.Write(msg)
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("connection %d: %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestRefused(t *testing.T) {
	port := listen(t, func(*net.TCPConn) { t.Error("the guest got through") })
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().(*net.TCPAddr).Port
	l.Close()
	for name, c := range map[string]struct {
		loopback bool
		ip       string
		port     int
	}{
		"the router without loopback": {false, "10.0.2.2", port},
		"the host's loopback":         {true, "127.0.0.1", port},
		"a closed port":               {true, "10.0.2.2", free},
		"the metadata service":        {true, "169.254.169.254", 80},
		"a neighbour":                 {true, "10.0.2.77", port},
		"DNS, another port":           {true, "10.0.2.3", port},
		"reserved":                    {true, "240.0.0.1", port},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait for answers that do not come
			h := newGuest(t, Config{Loopback: c.loopback})
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			conn, err := gonet.DialContextTCP(ctx, h.Stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(netip.MustParseAddr(c.ip).As4()), Port: uint16(c.port)}, ipv4.ProtocolNumber)
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
		})
	}
}

func TestUDPAndDNS(t *testing.T) {
	echo, dns := udpEcho(t, "echo "), udpEcho(t, "dns ")
	h := newGuest(t, Config{Loopback: true, Resolver: []netip.AddrPort{dns}})
	for _, c := range []struct {
		ip     netip.Addr
		port   int
		prefix string
	}{{Router, int(echo.Port()), "echo "}, {DNS, 53, "dns "}} {
		conn := h.dialUDP(t, c.ip, c.port)
		for _, msg := range []string{"one", strings.Repeat("x", 1400), ""} {
			if _, err := conn.Write([]byte(msg)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2000)
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) != c.prefix+msg {
				t.Fatalf("%v: %q, %v", c.ip, buf[:n], err)
			}
		}
	}
}

func TestUDPRefused(t *testing.T) {
	echo := udpEcho(t, "")
	h := newGuest(t, Config{})
	c := h.dialUDP(t, Router, int(echo.Port()))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if m := header.ICMPv4(<-h.icmp); m.Type() != header.ICMPv4DstUnreachable || m.Code() != header.ICMPv4PortUnreachable {
		t.Fatalf("ICMP type %d, code %d", m.Type(), m.Code())
	}
	if s := h.g.Stats(); s.Refused != 1 {
		t.Fatalf("stats %+v", s)
	}
}

func TestCloseEndsFlows(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	h := newGuest(t, Config{Loopback: true})
	c, err := h.dialTCP(Router, port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.g.Close()
	h.g.Close()
	if n := h.g.flows.tcpNow.Load(); n != 0 {
		t.Fatalf("%d flows left", n)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, mtu := range []int{1, MinMTU - 1, MaxMTU + 1, -5} {
		if g, err := New(Config{MTU: mtu}, func([]byte) {}); err == nil {
			g.Close()
			t.Errorf("an MTU of %d is taken", mtu)
		}
	}
	if g, err := New(Config{}, nil); err == nil {
		g.Close()
		t.Error("nobody to deliver to is taken")
	}
}

func TestTarget(t *testing.T) {
	dns := netip.MustParseAddrPort("192.0.2.1:53")
	for _, c := range []struct {
		loopback bool
		in, want string
	}{
		{false, "93.184.216.34:443", "93.184.216.34:443"},
		{false, "192.168.1.1:80", "192.168.1.1:80"},
		{false, "10.0.2.3:53", "192.0.2.1:53"},
		{false, "10.0.2.3:80", ""},
		{false, "10.0.2.2:80", ""},
		{true, "10.0.2.2:80", "127.0.0.1:80"},
		{true, "10.0.2.15:80", ""},
		{true, "127.0.0.1:80", ""},
		{true, "127.9.9.9:80", ""},
		{true, "0.0.0.0:80", ""},
		{true, "0.1.2.3:80", ""},
		{true, "224.0.0.251:5353", ""},
		{true, "255.255.255.255:67", ""},
		{true, "169.254.169.254:80", ""},
		{true, "8.8.8.8:0", ""},
		{true, "[::1]:80", ""},
	} {
		got, ok := (&Config{Loopback: c.loopback, Resolver: []netip.AddrPort{dns}}).target(netip.MustParseAddrPort(c.in))
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s (loopback %v): %v, %v; want %q", c.in, c.loopback, got, ok, c.want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	got := parseResolvConf(strings.NewReader("# comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver  ::1\nnameserver bad\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n"))
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("[::1]:53"), netip.MustParseAddrPort("1.1.1.1:53")}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatal(got)
		}
	}
}

// FuzzFromGuest sends frames of any content; none may do harm, and none may make the gateway answer for another host.
func FuzzFromGuest(f *testing.F) {
	eth := func(kind uint16, payload ...byte) []byte {
		b := append(append([]byte{}, MAC[:]...), MACPeer[:]...)
		return append(binary.BigEndian.AppendUint16(b, kind), payload...)
	}
	f.Add([]byte{})
	f.Add(eth(0x0800))
	f.Add(eth(0x0800, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 2, 15, 8, 8, 8, 8))
	f.Add(eth(0x0806, 0, 1, 8, 0, 6, 4, 0, 1, 2, 3, 4, 5, 6, 7, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 15))
	f.Add(eth(0x86dd, 0x60))
	g, err := New(Config{Resolver: []netip.AddrPort{}}, func(frame []byte) {
		if len(frame) < minFrame {
			f.Errorf("a frame of %d bytes for the guest", len(frame))
		}
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(g.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > minFrame+20 && b[12] == 8 && b[13] == 0 {
			copy(b[minFrame+16:], []byte{127, 0, 0, 1}) // a flow to the network at large would leave this machine
		}
		g.FromGuest(b)
	})
}

// FuzzParseResolvConf takes any file.
func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\n")
	f.Add("nameserver fe80::1%eth0\nnameserver")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range parseResolvConf(strings.NewReader(text)) {
			if !a.IsValid() || a.Port() != 53 {
				t.Fatalf("%q: %v", text, a)
			}
		}
	})
}
