package sentry

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	// The kinds of socket beside those of the network stack.
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/uevent"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"

	"github.com/qenex/qenex-kernel/usernet"
)

// stackMaker makes the network stack of a new network namespace: loopback only.
//
// +stateify savable
type stackMaker struct {
	clock tcpip.Clock
	ids   uniqueid.Provider
}

// newNetwork makes the guest's first network namespace, and the gateway that joins it with the host's network, if it has one.
func newNetwork(spec *Spec, tk *kernel.Timekeeper, userns *auth.UserNamespace, k *kernel.Kernel) (*inet.Namespace, *usernet.Gateway, error) {
	m := &stackMaker{clock: tk, ids: k}
	s, err := m.newStack()
	if err != nil {
		return nil, nil, err
	}
	var g *usernet.Gateway
	if spec.Net != NetNone {
		if g, err = plug(s.Stack, spec.Net == NetHostLoopback); err != nil {
			return nil, nil, err
		}
	}
	return inet.NewRootNamespace(s, m, userns), g, nil
}

// CreateStack implements inet.NetworkStackCreator.
func (m *stackMaker) CreateStack() (inet.Stack, error) { return m.newStack() }

// newStack makes a stack with a loopback interface that is up.
func (m *stackMaker) newStack() (*netstack.Stack, error) {
	s := netstack.NewStack(stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              m.clock,
		Stats:              netstack.Metrics,
		HandleLocal:        true,
		RawFactory:         raw.EndpointFactory{},
		DefaultIPTables:    netfilter.DefaultLinuxTables,
	}), m.ids.UniqueID())

	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate} {
		if err := s.Stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("setting up TCP (%T): %s", o, err)
		}
	}
	ttl := tcpip.DefaultTTLOption(netstack.DefaultTTL)
	for _, p := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.Stack.SetNetworkProtocolOption(p, &ttl); err != nil {
			return nil, fmt.Errorf("setting the TTL of protocol %d: %s", p, err)
		}
	}
	if err := configureLoopback(s); err != nil {
		return nil, err
	}
	return s, nil
}

// configureLoopback gives a stack its loopback interface.
func configureLoopback(s *netstack.Stack) error {
	lo := ethernet.New(loopback.New())
	if err := s.Stack.CreateNICWithOptions(linux.LOOPBACK_IFINDEX, lo, stack.NICOptions{Name: "lo", DeliverLinkPackets: true}); err != nil {
		return fmt.Errorf("making the loopback interface: %s", err)
	}
	for _, a := range []tcpip.ProtocolAddress{
		{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{127, 0, 0, 1}), PrefixLen: 8}},
		{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom16([16]byte{15: 1}), PrefixLen: 128}},
	} {
		if err := s.Stack.AddProtocolAddress(linux.LOOPBACK_IFINDEX, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("giving the loopback interface its address: %s", err)
		}
	}
	s.Stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet([]byte{127, 0, 0, 0}, 8), NIC: linux.LOOPBACK_IFINDEX},
		{Destination: subnet([]byte{15: 1}, 128), NIC: linux.LOOPBACK_IFINDEX},
	})
	return nil
}

// subnet makes a destination from an address of 4 or 16 bytes.
func subnet(addr []byte, prefix int) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(addr), PrefixLen: prefix}.Subnet()
}
