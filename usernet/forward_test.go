package usernet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

func TestForwardTCP(t *testing.T) {
	h := newGuest(t, Config{Forwards: []Forward{{"tcp", anyPort, 80}, {"tcp", anyPort, 81}}})
	l, err := gonet.ListenTCP(h.Stack, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if from, _, _ := net.SplitHostPort(c.RemoteAddr().String()); from != Router.String() {
				t.Errorf("a connection from %v", from)
			}
			b, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%d bytes", len(b))
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	forwards := h.g.Forwards()
	if len(forwards) != 2 || forwards[0].Host.Port() == 0 || forwards[0].Guest != 80 {
		t.Fatalf("%v", forwards)
	}
	for _, n := range []int{0, 1, 3 << 20} {
		c, err := net.Dial("tcp", forwards[0].Host.String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != fmt.Sprintf("%d bytes", n) {
			t.Fatalf("%q, %v", b, err)
		}
		c.Close()
	}
	// Nobody listens there: the host's connection ends in a reset.
	c, err := net.Dial("tcp", forwards[1].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port that is closed in the guest: %v", err)
	}
}

func TestForwardUDP(t *testing.T) {
	h := newGuest(t, Config{Forwards: []Forward{{"udp", anyPort, 53}}})
	in, err := gonet.DialUDP(h.Stack, &tcpip.FullAddress{Port: 53}, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			in.WriteTo(append([]byte("guest "), buf[:n]...), from)
		}
	}()
	defer func() { in.Close(); <-done }()
	var conns []net.Conn
	for range 3 { // sessions of their own
		c, err := net.Dial("udp", h.g.Forwards()[0].Host.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		conns = append(conns, c)
	}
	for round := range 3 {
		for i, c := range conns {
			msg := bytes.Repeat([]byte{byte('a' + i + round)}, 1+1000*round)
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 4000)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "guest "+string(msg) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	}
	if n := h.g.flows.udpNow.Load(); n != 3 {
		t.Errorf("%d sessions", n)
	}
	// Beyond the limit nobody gets one.
	h.g.flows.udpNow.Add(maxUDP)
	c, err := net.Dial("udp", h.g.Forwards()[0].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for h.g.Stats().Refused == 0 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	h.g.flows.udpNow.Add(-maxUDP)
}

func TestForwardRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for name, c := range map[string]struct {
		fw   Forward
		want error
	}{
		"a taken TCP port":    {Forward{"tcp", l.Addr().(*net.TCPAddr).AddrPort(), 80}, syscall.EADDRINUSE},
		"a taken UDP port":    {Forward{"udp", u.LocalAddr().(*net.UDPAddr).AddrPort(), 80}, syscall.EADDRINUSE},
		"a foreign address":   {Forward{"tcp", netip.MustParseAddrPort("192.0.2.1:0"), 80}, syscall.EADDRNOTAVAIL},
		"no port":             {Forward{"tcp", anyPort, 0}, nil},
		"no address":          {Forward{"tcp", netip.AddrPort{}, 80}, nil},
		"an unknown protocol": {Forward{"sctp", anyPort, 80}, nil},
	} {
		g, err := New(Config{Forwards: []Forward{{"tcp", anyPort, 22}, c.fw}}, func([]byte) {})
		if err == nil {
			g.Close()
			t.Errorf("%s: taken", name)
		} else if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForwardClose: open connections, and such that the guest does not answer, end with the gateway.
func TestForwardClose(t *testing.T) {
	g, err := New(Config{Forwards: []Forward{{"tcp", anyPort, 80}, {"udp", anyPort, 80}}}, func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", g.Forwards()[0].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, err := net.Dial("udp", g.Forwards()[1].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for g.flows.tcpNow.Load() == 0 || g.flows.udpNow.Load() == 0 {
		u.Write([]byte("x"))
	}
	g.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
		t.Errorf("after Close: %v", err)
	}
	if g.flows.tcpNow.Load() != 0 || g.flows.udpNow.Load() != 0 {
		t.Error("flows left")
	}
}

// TestPing: the router and the name server answer an ICMP echo request; nobody else does.
func TestPing(t *testing.T) {
	answers := make(chan []byte, 10)
	g, err := New(Config{}, func(frame []byte) { answers <- frame })
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ping := func(to netip.Addr) {
		f := udpFrame(tcpip.LinkAddress(MAC[:]), Router, 0, 0, make([]byte, 20))
		copy(f[6:], MACPeer[:])
		ip := header.IPv4(f[14:])
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: tcpip.AddrFrom4(Guest.As4()), DstAddr: tcpip.AddrFrom4(to.As4())})
		ip.SetChecksum(^ip.CalculateChecksum())
		icmp := header.ICMPv4(ip.Payload())
		clear(icmp)
		icmp.SetType(header.ICMPv4Echo)
		icmp.SetIdent(7)
		icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
		g.FromGuest(f)
	}
	for _, to := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), Router, DNS} {
		ping(to)
	}
	for _, from := range []netip.Addr{Router, DNS} {
		f := <-answers
		if header.Ethernet(f).Type() == header.ARPProtocolNumber { // who is the guest?
			reply := bytes.Clone(f)
			copy(reply[0:], MAC[:])
			copy(reply[6:], MACPeer[:])
			a := header.ARP(reply[14:])
			a.SetOp(header.ARPReply)
			copy(a.HardwareAddressTarget(), MAC[:])
			copy(a.ProtocolAddressTarget(), header.ARP(f[14:]).ProtocolAddressSender())
			copy(a.HardwareAddressSender(), MACPeer[:])
			copy(a.ProtocolAddressSender(), Guest.AsSlice())
			g.FromGuest(reply)
			f = <-answers
		}
		ip := header.IPv4(f[14:])
		if icmp := header.ICMPv4(ip.Payload()); icmp.Type() != header.ICMPv4EchoReply || icmp.Ident() != 7 || ip.SourceAddress() != tcpip.AddrFrom4(from.As4()) {
			t.Fatalf("% x", f)
		}
	}
}
