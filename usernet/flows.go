package usernet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	connectTimeout = 30 * time.Second
	udpIdle        = 90 * time.Second // a flow without a datagram for so long is forgotten
	maxDatagram    = 65535
)

// flows are the guest's connections, each between a TCP or UDP endpoint of ours and a socket of the host.
type flows struct {
	config  *Config
	stack   *stack.Stack
	dialer  net.Dialer
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	tcpNow  atomic.Int64
	udpNow  atomic.Int64
	refused atomic.Uint64

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{} // closed by close
}

func newFlows(config *Config, s *stack.Stack) *flows {
	f := &flows{config: config, stack: s, open: map[io.Closer]struct{}{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// start runs fn, unless the gateway is closing.
func (f *flows) start(fn func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		fn()
	}()
	return true
}

// keep remembers c to close it with the gateway; it says false, having closed c, if that is closed already.
func (f *flows) keep(c io.Closer) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		c.Close()
		return false
	}
	f.open[c] = struct{}{}
	return true
}

// drop closes c and forgets it.
func (f *flows) drop(c io.Closer) {
	f.mu.Lock()
	delete(f.open, c)
	f.mu.Unlock()
	c.Close()
}

// close ends all flows.
func (f *flows) close() {
	f.mu.Lock()
	f.closed = true
	for c := range f.open {
		c.Close()
	}
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
}

// destination is where the guest wants the flow to go.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(ip, id.LocalPort)
}

// admit counts a flow in, if the policy and the limit allow it.
func (f *flows) admit(now *atomic.Int64, limit int64, to netip.AddrPort) (netip.AddrPort, bool) {
	target, ok := f.config.target(to)
	if ok && now.Add(1) > limit {
		now.Add(-1)
		ok = false
	}
	if !ok {
		f.refused.Add(1)
	}
	return target, ok
}

// tcp handles the first segment of a connection. The guest's connection is accepted once the host's is made, and refused if that fails.
func (f *flows) tcp(r *tcp.ForwarderRequest) {
	target, ok := f.admit(&f.tcpNow, maxTCP, destination(r.ID()))
	if !ok {
		r.Complete(true)
		return
	}
	if !f.start(func() {
		defer f.tcpNow.Add(-1)
		f.connect(r, target)
	}) {
		f.tcpNow.Add(-1)
		r.Complete(true)
	}
}

// connect makes the host's connection, then the guest's, and carries data until both directions have ended.
func (f *flows) connect(r *tcp.ForwarderRequest, target netip.AddrPort) {
	ctx, cancel := context.WithTimeout(f.ctx, connectTimeout)
	defer cancel()
	c, err := f.dialer.DialContext(ctx, "tcp", target.String())
	if err != nil {
		r.Complete(true)
		return
	}
	out := c.(*net.TCPConn)
	if !f.keep(out) {
		r.Complete(true)
		return
	}
	defer f.drop(out)
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	f.splice(out, ep, &wq)
}

// splice carries data between the host's connection and the guest's until both directions have ended.
func (f *flows) splice(out *net.TCPConn, ep tcpip.Endpoint, wq *waiter.Queue) {
	ep.SocketOptions().SetKeepAlive(true)
	in := gonet.NewTCPConn(wq, ep)
	if !f.keep(in) {
		return
	}
	defer f.drop(in)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := pump(out, in); err != nil {
			out.SetLinger(0) // an aborted connection is aborted on the other side too
			out.Close()
			return
		}
		out.CloseWrite()
	}()
	if err := pump(in, out); err != nil {
		ep.Abort()
	} else {
		in.CloseWrite()
	}
	<-done
}

// pump copies until the end.
func pump(to io.Writer, from io.Reader) error {
	buf := pumpBuffers.Get().(*[pumpBuffer]byte)
	defer pumpBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

const pumpBuffer = 64 << 10

var pumpBuffers = sync.Pool{New: func() any { return new([pumpBuffer]byte) }}

// udp handles the first datagram of a flow.
func (f *flows) udp(r *udp.ForwarderRequest) bool {
	target, ok := f.admit(&f.udpNow, maxUDP, destination(r.ID()))
	if !ok {
		return false // the stack answers that the port is unreachable
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		f.udpNow.Add(-1)
		return true
	}
	in := gonet.NewUDPConn(&wq, ep)
	if !f.keep(in) || !f.start(func() {
		defer f.udpNow.Add(-1)
		defer f.drop(in)
		f.datagrams(in, target)
	}) {
		f.udpNow.Add(-1)
		f.drop(in)
	}
	return true
}

// datagrams carries a flow until it has been idle for long.
func (f *flows) datagrams(in *gonet.UDPConn, target netip.AddrPort) {
	network := "udp4"
	if target.Addr().Is6() {
		network = "udp6" // a resolver of the host
	}
	c, err := f.dialer.DialContext(f.ctx, network, target.String())
	if err != nil || !f.keep(c) {
		return
	}
	defer f.drop(c)
	var last atomic.Int64 // of a datagram in either direction, in ns
	start := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(in, c, &last, start)
		c.Close()
	}()
	carry(c, in, &last, start)
	in.Close()
	<-done
}

// deadliner is a connection with a deadline for reading.
type deadliner interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

// carry copies datagrams until reading fails or the flow is idle. A refused datagram (the port is closed) ends it too.
func carry(from deadliner, to io.Writer, last *atomic.Int64, start time.Time) {
	buf := make([]byte, maxDatagram)
	for {
		idle := time.Since(start) - time.Duration(last.Load())
		if idle >= udpIdle {
			return
		}
		if err := from.SetReadDeadline(time.Now().Add(udpIdle - idle)); err != nil {
			return
		}
		n, err := from.Read(buf)
		if err != nil {
			if te, ok := err.(net.Error); ok && te.Timeout() {
				continue
			}
			return
		}
		last.Store(int64(time.Since(start)))
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
