package usernet

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// client asks a gateway for its address, without one of its own.
type client struct {
	t       *testing.T
	g       *Gateway
	answers chan []byte
}

func newClient(t *testing.T, config Config) *client {
	c := &client{t: t, answers: make(chan []byte, 10)}
	var err error
	if c.g, err = New(config, func(frame []byte) { c.answers <- frame }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.g.Close)
	return c
}

// frame makes a frame of the client's with a datagram for a server.
func (c *client) frame(dst tcpip.Address, payload []byte) []byte {
	f := udpFrame(header.EthernetBroadcastAddress, Router, dhcpv4.ClientPort, dhcpv4.ServerPort, payload)
	copy(f[6:], MACPeer[:])
	ip := header.IPv4(f[14:])
	ip.SetSourceAddressWithChecksumUpdate(tcpip.AddrFrom4([4]byte{}))
	ip.SetDestinationAddressWithChecksumUpdate(dst)
	return f
}

// say sends a message, which is to be answered at once or not at all, and returns the answer and its frame.
func (c *client) say(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, []byte) {
	c.t.Helper()
	c.g.FromGuest(c.frame(header.IPv4Broadcast, m.ToBytes()))
	select {
	case f := <-c.answers:
		ip := header.IPv4(f[14:])
		u := header.UDP(ip.Payload())
		sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(u)))
		if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || checksum.Checksum(u, sum) != 0xffff || u.SourcePort() != 67 || u.DestinationPort() != 68 {
			c.t.Fatalf("a bad answer: % x", f)
		}
		r, err := dhcpv4.FromBytes(u.Payload())
		if err != nil || r.TransactionID != m.TransactionID || !bytes.Equal(r.ClientHWAddr, m.ClientHWAddr) {
			c.t.Fatalf("a bad answer: %v, %v", r, err)
		}
		return r, f
	default:
		return nil, nil
	}
}

func (c *client) message(kind dhcpv4.MessageType, options ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	c.t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(MACPeer[:])}, options...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestDHCP(t *testing.T) {
	c := newClient(t, Config{MTU: 1400, Hostname: "box-1.example"})
	id := dhcpv4.OptClientIdentifier([]byte("me"))
	offer, frame := c.say(c.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(id)))
	if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
		t.Fatalf("no offer: %v", offer)
	}
	if !bytes.Equal(frame[:6], MACPeer[:]) || !bytes.Equal(frame[6:12], MAC[:]) || header.IPv4(frame[14:]).DestinationAddress() != tcpip.AddrFrom4(Guest.As4()) {
		t.Errorf("the offer goes to % x, %v", frame[:6], header.IPv4(frame[14:]).DestinationAddress())
	}
	ack, _ := c.say(c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(id),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))))
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("no acknowledgement: %v", ack)
	}
	for _, m := range []*dhcpv4.DHCPv4{offer, ack} {
		mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, m.Options)
		if !m.YourIPAddr.Equal(Guest.AsSlice()) || net.IP(m.SubnetMask()).String() != "255.255.255.0" || len(m.Router()) != 1 || !m.Router()[0].Equal(Router.AsSlice()) ||
			len(m.DNS()) != 1 || !m.DNS()[0].Equal(DNS.AsSlice()) || mtu != 1400 || err != nil || m.HostName() != "box-1.example" ||
			m.IPAddressLeaseTime(0) != 0xffffffff*time.Second || !m.ServerIdentifier().Equal(Router.AsSlice()) || string(m.Options.Get(dhcpv4.OptionClientIdentifier)) != "me" {
			t.Errorf("%v", m.Summary())
		}
	}
}

// TestDHCPAnswers: what else a client may say (RFC 2131, 4.3).
func TestDHCPAnswers(t *testing.T) {
	c := newClient(t, Config{})
	mine, other := dhcpv4.WithClientIP(Guest.AsSlice()), net.IPv4(192, 168, 1, 1)
	for _, x := range []struct {
		name string
		m    *dhcpv4.DHCPv4
		want dhcpv4.MessageType // none: silence
		ip   string             // of the answer's destination
		addr bool               // the answer assigns the address
	}{
		{"discover by broadcast", c.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true)), dhcpv4.MessageTypeOffer, "255.255.255.255", true},
		{"renewal", c.message(dhcpv4.MessageTypeRequest, mine), dhcpv4.MessageTypeAck, "10.0.2.15", true},
		{"after a reboot", c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(Guest.AsSlice()))), dhcpv4.MessageTypeAck, "10.0.2.15", true},
		{"another address", c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(other))), dhcpv4.MessageTypeNak, "255.255.255.255", false},
		{"another address renewed", c.message(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(other)), dhcpv4.MessageTypeNak, "255.255.255.255", false},
		{"no address", c.message(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak, "255.255.255.255", false},
		{"inform", c.message(dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(other)), dhcpv4.MessageTypeAck, "192.168.1.1", false},
		{"another server", c.message(dhcpv4.MessageTypeRequest, mine, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(other))), 0, "", false},
		{"release", c.message(dhcpv4.MessageTypeRelease, mine), 0, "", false},
		{"decline", c.message(dhcpv4.MessageTypeDecline), 0, "", false},
		{"an answer", c.message(dhcpv4.MessageTypeOffer), 0, "", false},
		{"BOOTP", c.message(dhcpv4.MessageTypeNone, dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType)), 0, "", false},
		{"relayed", c.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithRelay(other)), 0, "", false},
		{"no Ethernet", c.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{1, 2, 3})), 0, "", false},
	} {
		r, f := c.say(x.m)
		switch {
		case x.want == 0:
			if r != nil {
				t.Errorf("%s: %v", x.name, r.Summary())
			}
		case r == nil || r.MessageType() != x.want:
			t.Errorf("%s: %v", x.name, r)
		default:
			if got := header.IPv4(f[14:]).DestinationAddress().String(); got != x.ip || r.YourIPAddr.Equal(Guest.AsSlice()) != x.addr {
				t.Errorf("%s: an answer to %s: %v", x.name, got, r.Summary())
			}
		}
	}
}

func TestHostname(t *testing.T) {
	for name, ok := range map[string]bool{"": true, "a": true, "A-9.z": true, "a b": false, "a\x00": false, "ä": false, strings.Repeat("a", 253): true, strings.Repeat("a", 254): false} {
		if err := checkHostname(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if g, err := New(Config{Hostname: "no name"}, func([]byte) {}); err == nil {
		g.Close()
		t.Error("a bad host name is taken")
	}
}

// FuzzDHCP: no message does harm, and each answer can be read.
func FuzzDHCP(f *testing.F) {
	c := &client{}
	var err error
	if c.g, err = New(Config{Hostname: "box"}, func(frame []byte) {}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.g.Close)
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
		m, err := dhcpv4.New(dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(MACPeer[:]), dhcpv4.WithClientIP(Guest.AsSlice()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.ToBytes())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1400 {
			return
		}
		frame := c.frame(header.IPv4Broadcast, b)
		if got := dhcpMessage(frame); !bytes.Equal(got, b) || got == nil {
			t.Fatalf("the message in the frame is % x", got)
		}
		if r := c.g.dhcp(b); r != nil {
			if _, err := dhcpv4.FromBytes(header.UDP(header.IPv4(r[14:]).Payload()).Payload()); err != nil || len(r) > 1514 {
				t.Fatalf("%d bytes: %v", len(r), err)
			}
		}
		c.g.FromGuest(frame)
	})
}
