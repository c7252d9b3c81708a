package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Forward makes a port of the guest one of the host: whoever connects to Host is connected to the guest's address, and comes from Router.
type Forward struct {
	Proto string         // "tcp" or "udp"
	Host  netip.AddrPort // port 0: any free one
	Guest uint16         // port, not 0
}

// Forwards are those of the configuration, with the ports that were found free.
func (g *Gateway) Forwards() []Forward { return g.forwards }

// listen opens the ports of the host.
func (g *Gateway) listen() error {
	for _, fw := range g.config.Forwards {
		if !fw.Host.Addr().IsValid() || fw.Guest == 0 {
			return fmt.Errorf("usernet: forwarding %s %v to the guest's port %d: an address on the host and a port are needed", fw.Proto, fw.Host, fw.Guest)
		}
		var err error
		switch fw.Proto {
		case "tcp":
			var l *net.TCPListener
			if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(fw.Host)); err == nil && g.flows.keep(l) {
				fw.Host = l.Addr().(*net.TCPAddr).AddrPort()
				g.flows.start(func() { g.flows.acceptAll(l, fw.Guest) })
			}
		case "udp":
			var c *net.UDPConn
			if c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(fw.Host)); err == nil && g.flows.keep(c) {
				fw.Host = c.LocalAddr().(*net.UDPAddr).AddrPort()
				g.flows.start(func() { g.flows.sessions(c, fw.Guest) })
			}
		default:
			err = errors.New(`only "tcp" and "udp" are possible`)
		}
		if err != nil {
			return fmt.Errorf("usernet: forwarding %s %v to the guest's port %d: %w", fw.Proto, fw.Host, fw.Guest, err)
		}
		g.forwards = append(g.forwards, fw)
	}
	return nil
}

// atGuest is a port of the guest, as the stack has it.
func atGuest(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(Guest.As4()), Port: port}
}

// atRouter is where forwarded flows come from.
func atRouter() tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(Router.As4())}
}

// acceptAll connects those who connect to l with the guest, until l is closed.
func (f *flows) acceptAll(l *net.TCPListener, port uint16) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !f.pause() {
				return
			}
			continue
		}
		if f.tcpNow.Add(1) > maxTCP || !f.start(func() {
			defer f.tcpNow.Add(-1)
			f.toGuest(c, port)
		}) {
			f.tcpNow.Add(-1)
			f.refused.Add(1)
			c.SetLinger(0)
			c.Close()
		}
	}
}

// pause waits after an error that nobody tells the end of, such as too few file descriptors; it says false if the gateway closes.
func (f *flows) pause() bool {
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-f.ctx.Done():
		return false
	}
}

// toGuest carries a connection of the host on to the guest; it is reset if the guest does not take it.
func (f *flows) toGuest(out *net.TCPConn, port uint16) {
	if !f.keep(out) {
		return
	}
	defer f.drop(out)
	ctx, cancel := context.WithTimeout(f.ctx, connectTimeout)
	defer cancel()
	ep, wq, err := f.dialGuest(ctx, port)
	if err != nil {
		out.SetLinger(0)
		return
	}
	f.splice(out, ep, wq)
}

// dialGuest makes a connection to a port of the guest.
func (f *flows) dialGuest(ctx context.Context, port uint16) (tcpip.Endpoint, *waiter.Queue, error) {
	wq := new(waiter.Queue)
	ep, terr := f.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if terr != nil {
		return nil, nil, errors.New(terr.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr = ep.Bind(atRouter()); terr == nil {
		terr = ep.Connect(atGuest(port))
	}
	if _, ok := terr.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, nil, ctx.Err()
		case <-connected:
			terr = ep.LastError()
		}
	}
	if terr != nil {
		ep.Close()
		return nil, nil, errors.New(terr.String())
	}
	return ep, wq, nil
}

// session is one of the host's programs that sends datagrams to a forwarded port.
type session struct {
	*gonet.UDPConn              // to the guest
	last           atomic.Int64 // see carry
}

// sessions passes datagrams that come to c on to the guest, and the guest's answers back, until c is closed. What is beyond the limit of flows is dropped.
func (f *flows) sessions(c *net.UDPConn, port uint16) {
	var mu sync.Mutex
	peers := map[netip.AddrPort]*session{} // guarded by mu
	start := time.Now()
	buf := make([]byte, maxDatagram)
	for {
		n, peer, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !f.pause() {
				return
			}
			continue
		}
		mu.Lock()
		s := peers[peer]
		mu.Unlock()
		if s == nil {
			if s = f.newSession(port); s == nil {
				f.refused.Add(1)
				continue
			}
			s.last.Store(int64(time.Since(start)))
			mu.Lock()
			peers[peer] = s
			mu.Unlock()
			if !f.start(func() {
				carry(s, answer{c, peer}, &s.last, start)
				mu.Lock()
				delete(peers, peer)
				mu.Unlock()
				f.drop(s)
				f.udpNow.Add(-1)
			}) {
				f.udpNow.Add(-1)
				return
			}
		}
		s.last.Store(int64(time.Since(start)))
		s.Write(buf[:n]) // a datagram may get lost
	}
}

// newSession makes a flow to the guest, counted in udpNow, or returns nil if there are too many.
func (f *flows) newSession(port uint16) *session {
	if f.udpNow.Add(1) <= maxUDP {
		from, to := atRouter(), atGuest(port)
		if c, err := gonet.DialUDP(f.stack, &from, &to, header.IPv4ProtocolNumber); err == nil {
			if s := (&session{UDPConn: c}); f.keep(s) {
				return s
			}
		}
	}
	f.udpNow.Add(-1)
	return nil
}

// answer writes datagrams to a peer.
type answer struct {
	c    *net.UDPConn
	peer netip.AddrPort
}

func (a answer) Write(b []byte) (int, error) { return a.c.WriteToUDPAddrPort(b, a.peer) }
