package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
)

// MaxPairs is how many queues a Port can have in each direction.
const MaxPairs = 8

const (
	queueBytes = 16 << 20 // of frames that wait for the guest in one queue
	steerSlots = 256      // flows told apart, a power of two
)

// ErrStopped is what Receive returns after Stop.
var ErrStopped = errors.New("usernet: the port is stopped")

// Port is a gateway for a network card that segments TCP and fills in checksums: frames of up to 64 KiB with a vnethdr.Header in front,
// taken from the card's memory and put there without a stop in between. There may be one Transmit and one Receive at a time for each pair of queues.
type Port struct {
	*Gateway
	queues  [MaxPairs]fifo
	steer   [steerSlots]atomic.Uint32 // the pair on which the guest sent last, by flow
	pairs   atomic.Uint32             // in use
	give    atomic.Uint32             // vnethdr.Offloads of the driver
	dropped atomic.Uint64

	mu   sync.Mutex
	stop chan struct{} // closed by Stop; guarded by mu; nil if stopped
}

// Open makes a gateway with a port. It is stopped.
func Open(config Config) (*Port, error) {
	p := &Port{Gateway: &Gateway{}}
	for i := range p.queues {
		p.queues[i].wake = make(chan struct{}, 1)
	}
	p.pairs.Store(1)
	// The cable is a copy in memory, which breaks nothing: whether the guest left a checksum to do or not, there is none to verify.
	l := &link{caps: stack.CapabilityRXChecksumOffload, send: p.queue}
	if err := p.open(config, l); err != nil {
		return nil, err
	}
	return p, nil
}

// Offloads says what the guest may leave undone in the frames it sends, and what the port would leave to the guest.
func (p *Port) Offloads() (take, give vnethdr.Offloads) {
	return vnethdr.Csum | vnethdr.TSO4, vnethdr.Csum | vnethdr.TSO4
}

// MTU is that of the network, in bytes of an IP packet.
func (p *Port) MTU() int { return p.config.MTU }

// MaxPairs says how many pairs of queues are possible.
func (p *Port) MaxPairs() int { return MaxPairs }

// Start lets frames pass. The guest does the given offloads.
func (p *Port) Start(give vnethdr.Offloads) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		return errors.New("usernet: the port is started already")
	}
	p.stop = make(chan struct{})
	p.give.Store(uint32(give))
	p.link.gso.Store(uint32(give))
	for i := range p.queues {
		p.queues[i].open(true)
	}
	return nil
}

// Stop ends all calls of Receive and forgets the frames that wait; others for the guest are dropped until Start.
func (p *Port) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil {
		return
	}
	close(p.stop)
	p.stop = nil
	p.pairs.Store(1)
	for i := range p.queues {
		p.queues[i].open(false)
	}
}

// SetPairs says how many pairs of queues the guest uses: 1 after Start.
func (p *Port) SetPairs(n int) error {
	if n < 1 || n > MaxPairs {
		return fmt.Errorf("usernet: %d pairs of queues; 1 to %d are possible", n, MaxPairs)
	}
	p.pairs.Store(uint32(n))
	return nil
}

// Close ends the port and all flows.
func (p *Port) Close() error {
	p.Stop()
	p.Gateway.Close()
	return nil
}

// Dropped counts the frames for the guest that were dropped since Open, for want of room in a queue or of an offload.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// Transmit takes a frame of the guest with a header that has been checked for it; views are read once and not kept. Frames that make no
// sense are dropped.
func (p *Port) Transmit(pair int, views [][]byte) error {
	var head [vnethdr.Size]byte
	size := -vnethdr.Size
	for _, v := range views {
		size += len(v)
	}
	views = skim(head[:], views)
	h := vnethdr.Parse(&head)
	if size < minFrame || size > vnethdr.MaxFrame || h.GSO == vnethdr.GSONone && size > int(p.link.mtu) {
		return nil
	}
	frame := buffer.NewView(size)
	for _, v := range views {
		frame.Write(v)
	}
	b := frame.AsSlice()
	if p.pairs.Load() > 1 && header.Ethernet(b).Type() == header.IPv4ProtocolNumber {
		p.steer[flowOf(b[minFrame:])].Store(uint32(pair))
	}
	p.input(frame)
	return nil
}

// skim moves the beginning of views to head, and returns the rest.
func skim(head []byte, views [][]byte) [][]byte {
	for len(head) > 0 && len(views) > 0 {
		n := copy(head, views[0])
		head = head[n:]
		if n < len(views[0]) {
			return append([][]byte{views[0][n:]}, views[1:]...)
		}
		views = views[1:]
	}
	return views
}

// Receive waits for a frame and puts it into views behind its header. It returns the number of bytes, which is more than fits if the frame
// was cut. Before it waits it calls idle.
func (p *Port) Receive(pair int, views [][]byte, idle func()) (int, error) {
	p.mu.Lock()
	stop := p.stop
	p.mu.Unlock()
	if stop == nil {
		return 0, ErrStopped
	}
	q := &p.queues[pair]
	for {
		if pkt := q.pop(); pkt != nil {
			n, ok := p.copyOut(pkt, views)
			pkt.DecRef()
			if ok {
				return n, nil
			}
			p.dropped.Add(1)
			continue
		}
		idle()
		select {
		case <-q.wake:
		case <-stop:
			return 0, ErrStopped
		}
	}
}

// copyOut puts a packet into views, unless it needs an offload that the guest does not do (any more).
func (p *Port) copyOut(pkt *stack.PacketBuffer, views [][]byte) (int, bool) {
	give := vnethdr.Offloads(p.give.Load())
	var h vnethdr.Header
	if gso := &pkt.GSOOptions; gso.Type != stack.GSONone {
		if gso.NeedsCsum {
			h.Flags, h.CsumStart, h.CsumOffset = vnethdr.NeedsCsum, header.EthernetMinimumSize+gso.L3HdrLen, gso.CsumOffset
		}
		if pkt.Data().Size() > int(gso.MSS) {
			h.GSO, h.HdrLen, h.GSOSize = vnethdr.GSOTCPv4, uint16(pkt.HeaderSize()), gso.MSS
		}
	}
	if h.Check(pkt.Size(), give) != nil {
		return 0, false
	}
	if h.Flags == 0 && give&vnethdr.Csum != 0 {
		h.Flags = vnethdr.DataValid
	}
	var head [vnethdr.Size]byte
	h.Put(&head)
	at := cursor{views: views}
	at.write(head[:])
	list, skip := pkt.AsViewList()
	for v := list.Front(); v != nil; v = v.Next() {
		if b := v.AsSlice(); skip < len(b) {
			at.write(b[skip:])
			skip = 0
		} else {
			skip -= len(b)
		}
	}
	n := pkt.Size()
	p.toGuest.Add(uint64(n))
	return vnethdr.Size + n, true
}

// cursor writes to views, one after the other.
type cursor struct {
	views [][]byte
	off   int // in views[0]
}

// write writes as much of b as there is room for.
func (c *cursor) write(b []byte) {
	for len(b) > 0 && len(c.views) > 0 {
		n := copy(c.views[0][c.off:], b)
		b = b[n:]
		if c.off += n; c.off == len(c.views[0]) {
			c.views, c.off = c.views[1:], 0
		}
	}
}

// queue puts a packet of the stack into the queue of its flow.
func (p *Port) queue(pkt *stack.PacketBuffer) bool {
	pair := uint32(0)
	if p.pairs.Load() > 1 && pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		var heads [header.IPv4MaximumHeaderSize + header.TCPHeaderMaximumSize]byte
		n := copy(heads[:], pkt.NetworkHeader().Slice())
		n += copy(heads[n:], pkt.TransportHeader().Slice())
		if pair = p.steer[flowOf(heads[:n])].Load(); pair >= p.pairs.Load() {
			pair = 0
		}
	}
	if !p.queues[pair].push(pkt) {
		p.dropped.Add(1)
		return false
	}
	return true
}

// flowOf tells flows apart that pass in an IPv4 packet; a flow has the same number in both directions.
func flowOf(packet []byte) uint32 {
	ip := header.IPv4(packet)
	if len(ip) < header.IPv4MinimumSize {
		return 0
	}
	h := binary.BigEndian.Uint32(ip[12:]) ^ binary.BigEndian.Uint32(ip[16:])
	if n := int(ip.HeaderLength()); n >= header.IPv4MinimumSize && len(ip) >= n+4 && !ip.More() && ip.FragmentOffset() == 0 {
		h ^= uint32(binary.BigEndian.Uint16(ip[n:]) ^ binary.BigEndian.Uint16(ip[n+2:]))
	}
	return h * 0x9e3779b1 >> 24 % steerSlots
}

// fifo holds packets that wait for the guest, up to queueBytes.
type fifo struct {
	wake chan struct{} // gets a value when there may be packets

	mu      sync.Mutex
	packets []*stack.PacketBuffer // guarded by mu
	next    int                   // of packets, to be popped; guarded by mu
	bytes   int                   // guarded by mu
	up      bool                  // packets are taken; guarded by mu
}

// open says whether packets are taken. Those in the queue go.
func (q *fifo) open(up bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, pkt := range q.packets[q.next:] {
		pkt.DecRef()
	}
	q.packets, q.next, q.bytes, q.up = nil, 0, 0, up
}

func (q *fifo) push(pkt *stack.PacketBuffer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := pkt.MemSize(); !q.up || q.bytes+n > queueBytes {
		return false
	}
	if q.next > 0 && len(q.packets) == cap(q.packets) { // rather than grow
		q.packets = slices.Delete(q.packets, 0, q.next)
		q.next = 0
	}
	q.packets = append(q.packets, pkt.IncRef())
	q.bytes += pkt.MemSize()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// pop returns a packet, which is the caller's, or nil.
func (q *fifo) pop() *stack.PacketBuffer {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next == len(q.packets) {
		return nil
	}
	pkt := q.packets[q.next]
	q.packets[q.next] = nil
	if q.next++; q.next == len(q.packets) {
		q.packets, q.next = q.packets[:0], 0
	}
	q.bytes -= pkt.MemSize()
	return pkt
}
