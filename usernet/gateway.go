// Package usernet is a network for one guest without any privilege on the host: a router at the other end of the guest's Ethernet
// cable that ends the guest's TCP and UDP flows and carries them on with ordinary sockets of the host.
//
// It takes and gives Ethernet frames and knows nothing of who sends them: no Sentry, no virtio. gVisor's TCP/IP is inside, and no type
// of it is exported. What a guest may reach is decided here (Policy) and nowhere else.
package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The network as the guest sees it.
var (
	Subnet  = netip.MustParsePrefix("10.0.2.0/24")
	Router  = netip.MustParseAddr("10.0.2.2")  // default route; with Loopback, the host's 127.0.0.1
	DNS     = netip.MustParseAddr("10.0.2.3")  // forwards to the host's resolver
	Guest   = netip.MustParseAddr("10.0.2.15") // what the guest has to call itself
	MAC     = [6]byte{0x52, 0x54, 0, 0x12, 0x35, 0x02}
	MACPeer = [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} // a free address for the guest
)

// Limits of one guest.
const (
	maxTCP        = 4096    // connections at a time
	maxUDP        = 1024    // flows at a time
	maxConnecting = 512     // connections being made
	maxGSO        = 1 << 16 // bytes of a TCP packet to be segmented
	minFrame      = 14      // an Ethernet header
	MaxMTU        = 65520   // bytes
	MinMTU        = 576     // bytes
)

// Config says what a gateway does.
type Config struct {
	MTU      int              // bytes of an IP packet, MinMTU-MaxMTU; 0 means 1500
	Loopback bool             // connections to Router go to the host's 127.0.0.1
	Resolver []netip.AddrPort // DNS servers of the host; nil: those of /etc/resolv.conf, read by New
	Hostname string           // the guest's by DHCP; "" means none
	Forwards []Forward        // ports of the host that lead to the guest
}

// Stats are what passed since New.
type Stats struct {
	FromGuest, ToGuest uint64 // bytes of frames
	Refused            uint64 // flows that the policy or a limit refused
}

// Gateway is the router. Its methods may be called from any goroutine.
type Gateway struct {
	config   Config
	stack    *stack.Stack
	link     *link
	flows    *flows
	forwards []Forward

	fromGuest atomic.Uint64
	toGuest   atomic.Uint64
	closeOnce sync.Once
}

// New makes a gateway that gives the guest its frames by calling deliver, possibly from several goroutines and from
// within FromGuest. The frame is deliver's to keep.
func New(config Config, deliver func(frame []byte)) (*Gateway, error) {
	if deliver == nil {
		return nil, errors.New("usernet: nobody to give frames to")
	}
	g := &Gateway{}
	err := g.open(config, &link{send: func(pkt *stack.PacketBuffer) bool {
		frame := slices.Concat(pkt.AsSlices()...)
		g.toGuest.Add(uint64(len(frame)))
		deliver(frame)
		return true
	}})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// open starts the gateway at its end of the cable.
func (g *Gateway) open(config Config, l *link) error {
	if config.MTU == 0 {
		config.MTU = 1500
	}
	if config.MTU < MinMTU || config.MTU > MaxMTU {
		return fmt.Errorf("usernet: an MTU of %d; %d to %d bytes are possible", config.MTU, MinMTU, MaxMTU)
	}
	if err := checkHostname(config.Hostname); err != nil {
		return err
	}
	if config.Resolver == nil {
		config.Resolver = hostResolvers()
	}
	l.mtu = uint32(config.MTU + header.EthernetMinimumSize)
	g.config, g.link = config, l
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	g.flows = newFlows(&g.config, g.stack)
	err := g.configure()
	if err == nil {
		err = g.listen()
	}
	if err != nil {
		g.Close()
	}
	return err
}

// nicID is the number of the only interface.
const nicID = 1

// configure brings the interface up and puts the forwarders in.
func (g *Gateway) configure() error {
	if err := g.stack.CreateNIC(nicID, ethernet.New(g.link)); err != nil {
		return fmt.Errorf("usernet: making the interface: %s", err)
	}
	for _, a := range []netip.Addr{Router, DNS} {
		pa := tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(a.As4()), PrefixLen: Subnet.Bits()},
		}
		if err := g.stack.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("usernet: setting address %v: %s", a, err)
		}
	}
	// Every address of the world is answered for, and answered from.
	if err := g.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("usernet: taking all packets: %s", err)
	}
	if err := g.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("usernet: answering for all addresses: %s", err)
	}
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	sack := tcpip.TCPSACKEnabled(true)
	if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("usernet: setting up TCP: %s", err)
	}
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(g.stack, 0, maxConnecting, g.flows.tcp).HandlePacket)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(g.stack, g.flows.udp).HandlePacket)
	return nil
}

// FromGuest takes a frame that the guest sent; it is not kept. Frames that make no sense are dropped, as a network does.
func (g *Gateway) FromGuest(frame []byte) {
	if len(frame) >= minFrame && len(frame) <= int(g.link.mtu) {
		g.input(buffer.NewViewWithData(frame))
	}
}

// input takes a frame of the guest and owns it.
func (g *Gateway) input(view *buffer.View) {
	frame := view.AsSlice()
	if !wanted(frame) {
		view.Release()
		return
	}
	g.fromGuest.Add(uint64(len(frame)))
	if m := dhcpMessage(frame); m != nil {
		if reply := g.dhcp(m); reply != nil {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(reply)})
			g.link.send(pkt)
			pkt.DecRef()
		}
		view.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	g.link.receive(pkt)
	pkt.DecRef()
}

// wanted drops what the stack would answer in the name of others: ICMP for any address but the router's own.
func wanted(frame []byte) bool {
	eth := header.Ethernet(frame)
	switch eth.Type() {
	case header.ARPProtocolNumber:
		return arpForUs(frame[header.EthernetMinimumSize:])
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(frame[header.EthernetMinimumSize:])
		if len(ip) < header.IPv4MinimumSize {
			return false
		}
		if ip.TransportProtocol() != header.ICMPv4ProtocolNumber {
			return true
		}
		dst := netip.AddrFrom4(ip.DestinationAddress().As4())
		return dst == Router || dst == DNS
	}
	return false
}

// arpForUs says whether a request asks for one of the gateway's addresses; a guest asking for its own must hear nothing.
func arpForUs(b []byte) bool {
	a := header.ARP(b)
	if !a.IsValid() {
		return false
	}
	if a.Op() != header.ARPRequest {
		return true
	}
	target := netip.AddrFrom4([4]byte(a.ProtocolAddressTarget()))
	return target == Router || target == DNS
}

// Stats reads the counters.
func (g *Gateway) Stats() Stats {
	return Stats{FromGuest: g.fromGuest.Load(), ToGuest: g.toGuest.Load(), Refused: g.flows.refused.Load()}
}

// Close ends all flows and waits for them.
func (g *Gateway) Close() {
	g.closeOnce.Do(func() {
		g.flows.close()
		g.stack.Close()
		g.stack.Wait()
	})
}
