package usernet

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// leaseTime never ends (RFC 2131, 3.3): nobody else wants the address.
const leaseTime = math.MaxUint32 * time.Second

// checkHostname refuses what is no name of a host (RFC 1123, 2.1), dots allowed.
func checkHostname(name string) error {
	if len(name) > 253 {
		return fmt.Errorf("usernet: a host name of %d bytes; at most 253 are possible", len(name))
	}
	for _, c := range []byte(name) {
		if c != '-' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return fmt.Errorf("usernet: the host name %q: only letters, digits, - and . are possible", name)
		}
	}
	return nil
}

// dhcpMessage is what a client says to a DHCP server in a frame, or nil if that is something else.
func dhcpMessage(frame []byte) []byte {
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.TransportProtocol() != header.UDPProtocolNumber || ip.More() || ip.FragmentOffset() != 0 {
		return nil
	}
	u := header.UDP(ip.Payload())
	if len(u) < header.UDPMinimumSize || u.DestinationPort() != dhcpv4.ServerPort || u.SourcePort() != dhcpv4.ClientPort {
		return nil
	}
	if dst := netip.AddrFrom4(ip.DestinationAddress().As4()); dst != Router && dst != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return nil
	}
	if n := int(u.Length()); n >= header.UDPMinimumSize && n <= len(u) {
		return u[header.UDPMinimumSize:n]
	}
	return nil
}

// dhcp answers a client's message with a frame (RFC 2131, 4.3), or with nil if there is nothing to say.
func (g *Gateway) dhcp(message []byte) []byte {
	m, err := dhcpv4.FromBytes(message)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != header.EthernetAddressSize || !m.GatewayIPAddr.IsUnspecified() {
		return nil
	}
	if id := m.ServerIdentifier(); id != nil && !id.Equal(Router.AsSlice()) {
		return nil // to another server
	}
	kind := dhcpv4.MessageTypeAck
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		want := m.RequestedIPAddress()
		if want == nil {
			want = m.ClientIPAddr
		}
		if !want.Equal(Guest.AsSlice()) {
			return g.dhcpReply(m, dhcpv4.MessageTypeNak)
		}
	case dhcpv4.MessageTypeInform:
	default:
		return nil // a declined or released address stays the guest's
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithNetmask(net.CIDRMask(Subnet.Bits(), 32)),
		dhcpv4.WithOption(dhcpv4.OptRouter(Router.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptDNS(DNS.AsSlice())),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(g.config.MTU >> 8), byte(g.config.MTU)}),
	}
	if g.config.Hostname != "" {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptHostName(g.config.Hostname)))
	}
	if m.MessageType() != dhcpv4.MessageTypeInform {
		options = append(options, dhcpv4.WithYourIP(Guest.AsSlice()), dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(leaseTime)))
	}
	return g.dhcpReply(m, kind, options...)
}

// dhcpReply makes the frame with an answer to m.
func (g *Gateway) dhcpReply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, options ...dhcpv4.Modifier) []byte {
	options = append(options,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(Router.AsSlice())),
		dhcpv4.WithOptionCopied(m, dhcpv4.OptionClientIdentifier), // RFC 6842
	)
	r, err := dhcpv4.NewReplyFromRequest(m, options...)
	if err != nil {
		return nil
	}
	// Where it goes: RFC 2131, 4.1.
	to, ip := tcpip.LinkAddress(m.ClientHWAddr), Guest
	switch {
	case kind == dhcpv4.MessageTypeNak || m.IsBroadcast() && m.ClientIPAddr.IsUnspecified():
		to, ip = header.EthernetBroadcastAddress, netip.AddrFrom4([4]byte{255, 255, 255, 255})
	case !m.ClientIPAddr.IsUnspecified():
		ip, _ = netip.AddrFromSlice(m.ClientIPAddr.To4())
	}
	return udpFrame(to, ip, dhcpv4.ServerPort, dhcpv4.ClientPort, r.ToBytes())
}

// udpFrame makes a frame with a datagram from the router.
func udpFrame(to tcpip.LinkAddress, ip netip.Addr, srcPort, dstPort uint16, payload []byte) []byte {
	const heads = header.EthernetMinimumSize + header.IPv4MinimumSize + header.UDPMinimumSize
	frame := append(make([]byte, heads, heads+len(payload)), payload...)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(MAC[:]), DstAddr: to, Type: header.IPv4ProtocolNumber})
	p := header.IPv4(frame[header.EthernetMinimumSize:])
	src, dst := tcpip.AddrFrom4(Router.As4()), tcpip.AddrFrom4(ip.As4())
	p.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: src, DstAddr: dst})
	p.SetChecksum(^p.CalculateChecksum())
	u := header.UDP(p[header.IPv4MinimumSize:])
	u.Encode(&header.UDPFields{SrcPort: srcPort, DstPort: dstPort, Length: uint16(len(u))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(u)))
	u.SetChecksum(^checksum.Checksum(u, sum))
	return frame
}
