package vsock

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"github.com/qenex/qenex-kernel/virtio"
)

// String implements net.Addr.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// errNonsense is why a connection was reset for what the guest sent.
var errNonsense = errors.New("the guest's driver broke the vsock protocol")

func nonsense(format string, args ...any) error {
	return fmt.Errorf("%w: %w: "+format, append([]any{syscall.ECONNRESET, errNonsense}, args...)...)
}

// receive takes a packet of the guest, whose payload is what is left to read of chain. It says false if the connection
// is gone, and the packet is one for a connection that does not exist.
func (c *Conn) receive(h *header, chain *virtio.Chain) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == gone {
		return false
	}
	if err := c.accept(h, chain); err != nil {
		c.reset(err)
	}
	return true
}

// accept does what a packet says. An error ends the connection. c.mu is held.
func (c *Conn) accept(h *header, chain *virtio.Chain) error {
	if h.op == opReset {
		if c.state == dialing {
			c.end(syscall.ECONNREFUSED)
		} else if c.closed {
			c.end(nil)
		} else {
			c.end(syscall.ECONNRESET)
		}
		return nil
	}
	if h.op != opData && h.len != 0 {
		return nonsense("operation %d with a payload of %d bytes", h.op, h.len)
	}
	if c.state == dialing {
		if h.op != opResponse {
			return nonsense("operation %d as the answer to a request", h.op)
		}
		c.state = open
	} else if h.op == opResponse {
		return nonsense("a response without a request")
	}
	if err := c.credited(h); err != nil {
		return err
	}
	switch h.op {
	case opResponse:
		c.write.Broadcast()
	case opShutdown:
		return c.peerShutdown(h.flags)
	case opData:
		return c.deliver(int64(h.len), chain)
	case opCreditUpdate:
	case opCreditRequest:
		c.credit = true
		c.d.enqueue(c)
	default:
		return nonsense("operation %d on an open connection", h.op)
	}
	return nil
}

// credited takes the guest's word for its buffer, which every packet has (virtio 1.2, 5.10.6.3), within bounds. c.mu is held.
func (c *Conn) credited(h *header) error {
	moved := h.fwdCnt - c.peerFwd
	if moved > math.MaxInt32 {
		return nil // older than what we have: packets of several threads can be queued out of order
	}
	if underWay := c.txCnt - c.peerFwd; moved > underWay {
		return nonsense("%d bytes received of %d sent", moved, underWay)
	}
	c.peerFwd = h.fwdCnt
	c.peerAlloc = min(h.bufAlloc, maxPeerBuffer)
	if c.room() > 0 {
		c.asked = false
		if len(c.out) > 0 {
			c.d.enqueue(c)
		}
	}
	return nil
}

// room returns how many bytes the guest can take now. c.mu is held.
func (c *Conn) room() int {
	underWay := c.txCnt - c.peerFwd
	if underWay >= c.peerAlloc {
		return 0
	}
	return int(c.peerAlloc - underWay)
}

func (c *Conn) peerShutdown(flags uint32) error {
	if flags&^shutBoth != 0 {
		return nonsense("shutdown with flags %#x", flags)
	}
	c.peerShut |= flags
	if c.peerShut == shutBoth {
		// The answer to a clean end is RST, after which the guest can use the port again.
		c.reset(nil)
		return nil
	}
	c.read.Broadcast()
	c.write.Broadcast()
	return nil
}

// deliver puts payload of the guest into the buffer. c.mu is held.
func (c *Conn) deliver(n int64, chain *virtio.Chain) error {
	if left := int64(chain.ReadLen()) - headerSize; n > left {
		return nonsense("a payload of %d bytes in %d", n, left)
	}
	if c.peerShut&shutSend != 0 {
		return nonsense("data after the end")
	}
	if c.closed {
		return nil // was under way
	}
	if free := c.in.free(); n > int64(free) {
		return nonsense("%d bytes with credit for %d", n, free)
	}
	if err := c.in.fill(chain, int(n)); err != nil {
		return nonsense("%v", err)
	}
	c.read.Broadcast()
	return nil
}

// send puts the next packet that is due into chain, which has room for a header and a byte at least, and returns its size, 0 if none is
// due, and whether another one is.
func (c *Conn) send(chain *virtio.Chain) (size uint32, more bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == gone {
		return 0, false, nil
	}
	out := c.out
	if c.closed {
		out = nil // its Write is about to say so
	}
	h := header{
		srcCID: hostCID, dstCID: uint64(c.guest.CID), srcPort: c.key.hostPort, dstPort: c.key.guestPort,
		typ: typeStream, bufAlloc: bufferSize, fwdCnt: c.fwdCnt,
	}
	var payload []byte
	switch {
	case c.request:
		h.op, c.request = opRequest, false
	case c.response:
		h.op, c.response = opResponse, false
	case c.state == dialing:
		return 0, false, nil
	case len(out) > 0 && c.room() > 0:
		h.op = opData
		payload = out[:min(uint64(len(out)), uint64(c.room()), chain.WriteLen()-headerSize)]
		h.len = uint32(len(payload))
	case len(out) > 0 && !c.asked:
		h.op, c.asked = opCreditRequest, true
	case c.credit:
		h.op = opCreditUpdate
	case c.shutdown && len(out) == 0:
		h.op, h.flags, c.shutdown = opShutdown, c.shut, false
	default:
		return 0, false, nil
	}
	// Every packet tells of credit.
	c.credit, c.told = false, c.fwdCnt
	b := h.bytes()
	if _, err := chain.Write(b[:]); err != nil {
		return 0, false, fmt.Errorf("vsock header into a receive buffer: %w", err)
	}
	if _, err := chain.Write(payload); err != nil {
		return 0, false, fmt.Errorf("vsock payload into a receive buffer: %w", err)
	}
	if len(payload) > 0 {
		c.txCnt += h.len
		out = out[len(payload):]
		if c.out = out; len(out) == 0 {
			c.write.Broadcast()
		}
	}
	more = len(out) > 0 && (c.room() > 0 || !c.asked) || c.shutdown && len(out) == 0
	return chain.Written(), more, nil
}
