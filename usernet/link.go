package usernet

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
)

// link is the gateway's end of the cable: the link endpoint below the stack's Ethernet layer.
type link struct {
	mtu  uint32 // bytes of a frame
	caps stack.LinkEndpointCapabilities
	gso  atomic.Uint32                  // vnethdr.Offloads that the guest does for frames sent from now on
	send func(*stack.PacketBuffer) bool // gives the guest a frame; the packet is the caller's. It says false if there is no room.

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher // guarded by mu; nil before Attach and after the end
}

// receive gives the stack a frame of the guest.
func (l *link) receive(pkt *stack.PacketBuffer) {
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(0, pkt) // the Ethernet layer finds the protocol
	}
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		if !l.send(pkt) {
			return i, &tcpip.ErrNoBufferSpace{}
		}
	}
	return list.Len(), nil
}

// Attach implements stack.NetworkLinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	l.dispatcher = d
	l.mu.Unlock()
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// SupportedGSO implements stack.GSOEndpoint; a TCP connection asks when it begins.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if vnethdr.Offloads(l.gso.Load())&vnethdr.TSO4 != 0 {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize implements stack.GSOEndpoint.
func (*link) GSOMaxSize() uint32 { return maxGSO }

// The rest of stack.NetworkLinkEndpoint.
func (l *link) MTU() uint32                                  { return l.mtu }
func (l *link) SetMTU(uint32)                                {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return l.caps }
func (*link) MaxHeaderLength() uint16                        { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress                 { return tcpip.LinkAddress(MAC[:]) }
func (*link) SetLinkAddress(tcpip.LinkAddress)               {}
func (*link) ARPHardwareType() header.ARPHardwareType        { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)                  {}
func (*link) ParseHeader(*stack.PacketBuffer) bool           { return true }
func (*link) Wait()                                          {}
func (*link) Close()                                         {}
func (*link) SetOnCloseAction(func())                        {}
