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
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
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
	maxTCP        = 4096  // connections at a time
	maxUDP        = 1024  // flows at a time
	maxConnecting = 512   // connections being made
	queueFrames   = 4096  // frames waiting for the guest
	minFrame      = 14    // an Ethernet header
	MaxMTU        = 65520 // bytes
	MinMTU        = 576   // bytes
)

// Config says what a Gateway does.
type Config struct {
	MTU      int              // bytes of an IP packet, MinMTU-MaxMTU; 0 means 1500
	Loopback bool             // connections to Router go to the host's 127.0.0.1
	Resolver []netip.AddrPort // DNS servers of the host; nil: those of /etc/resolv.conf, read by New
}

// Stats are what passed since New.
type Stats struct {
	FromGuest, ToGuest uint64 // bytes of frames
	Refused            uint64 // flows that the policy or a limit refused
}

// Gateway is the router. Its methods may be called from any goroutine.
type Gateway struct {
	config Config
	stack  *stack.Stack
	link   *channel.Endpoint
	flows  *flows

	deliver   func(frame []byte)
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
	if config.MTU == 0 {
		config.MTU = 1500
	}
	if config.MTU < MinMTU || config.MTU > MaxMTU {
		return nil, fmt.Errorf("usernet: an MTU of %d; %d to %d bytes are possible", config.MTU, MinMTU, MaxMTU)
	}
	if config.Resolver == nil {
		config.Resolver = hostResolvers()
	}
	g := &Gateway{config: config, deliver: deliver}
	g.flows = newFlows(&g.config)
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	g.link = channel.New(queueFrames, uint32(config.MTU)+header.EthernetMinimumSize, tcpip.LinkAddress(MAC[:]))
	g.link.AddNotify(g)
	if err := g.configure(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// nic is the number of the only interface.
const nic = 1

// configure brings the interface up and puts the forwarders in.
func (g *Gateway) configure() error {
	if err := g.stack.CreateNIC(nic, ethernet.New(g.link)); err != nil {
		return fmt.Errorf("usernet: making the interface: %s", err)
	}
	for _, a := range []netip.Addr{Router, DNS} {
		pa := tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(a.As4()), PrefixLen: Subnet.Bits()},
		}
		if err := g.stack.AddProtocolAddress(nic, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("usernet: setting address %v: %s", a, err)
		}
	}
	// Every address of the world is answered for, and answered from.
	if err := g.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("usernet: taking all packets: %s", err)
	}
	if err := g.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("usernet: answering for all addresses: %s", err)
	}
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
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
	if len(frame) < minFrame || len(frame) > g.config.MTU+header.EthernetMinimumSize || !wanted(frame) {
		return
	}
	g.fromGuest.Add(uint64(len(frame)))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	g.link.InjectInbound(0, pkt) // the Ethernet layer finds the protocol
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

// WriteNotify implements channel.Notification: frames for the guest are waiting.
func (g *Gateway) WriteNotify() {
	for {
		pkt := g.link.Read()
		if pkt == nil {
			return
		}
		frame := pkt.ToView().AsSlice()
		out := make([]byte, len(frame))
		copy(out, frame)
		pkt.DecRef()
		g.toGuest.Add(uint64(len(out)))
		g.deliver(out)
	}
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
		g.link.Close()
		g.stack.Wait()
	})
}
