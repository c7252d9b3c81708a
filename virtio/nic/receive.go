package nic

import (
	"encoding/binary"
	"fmt"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio"
)

const (
	etherHeader = 14 + 4 // bytes, with a VLAN tag
	flushEvery  = 8      // frames: the driver hears of them though more are on their way
	maxViews    = 1000   // given to a backend at a time, which may have to pass them to readv(2) or writev(2)
)

// receiver puts frames into the chains of a receive queue. The backend writes to the driver's buffers themselves, of which there is a window
// as large as the largest frame may be. If the driver has not made that many available, what is too much goes to spill, and from there
// into the chains that come next.
type receiver struct {
	d     *Device
	q     *virtio.Queue
	pair  int
	r     *run
	merge bool // frames may take several chains
	need  int  // bytes of the largest frame, with its header
	give  vnethdr.Offloads

	window []*virtio.Chain // to be filled, in order
	room   int             // bytes in them
	views  [][]byte        // of window, then spill
	spill  []byte
	done   []uint32 // bytes written to the first chains of window
	quiet  int      // frames since the last Flush
}

func newReceiver(d *Device, r *run, q *virtio.Queue, pair int, give vnethdr.Offloads) *receiver {
	x := &receiver{d: d, q: q, pair: pair, r: r, give: give, merge: r.features&featureMrgRxbuf != 0}
	x.need = vnethdr.Size + etherHeader + d.backend.MTU()
	if give&(vnethdr.TSO4|vnethdr.TSO6) != 0 {
		x.need = vnethdr.Size + vnethdr.MaxFrame
	}
	x.spill = make([]byte, x.need)
	return x
}

// serve passes frames until the device stops.
func (x *receiver) serve() {
	for {
		err := x.fill()
		if err != nil {
			return
		}
		n, err := x.d.backend.Receive(x.pair, x.gather(), x.q.Flush)
		select {
		case <-x.r.stop:
			return
		default:
		}
		if err != nil {
			x.d.lose(err)
			return
		}
		if err := x.put(n); err != nil {
			return
		}
	}
}

// fill waits for at least one chain, and takes as many as a frame may need.
func (x *receiver) fill() error {
	for x.room < x.need && (x.merge || len(x.window) == 0) {
		ok, err := x.next()
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if len(x.window) > 0 {
			return nil
		}
		x.q.Flush()
		if err := x.q.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// next takes a chain, if there is one.
func (x *receiver) next() (bool, error) {
	c, err := x.q.Next()
	if c == nil || err != nil {
		return false, err
	}
	if c.WriteLen() < vnethdr.Size { // virtio 1.2, 5.1.6.3.1
		err := fmt.Errorf("virtio/nic: receive queue %d: a buffer of %d bytes has no room for a header", x.pair, c.WriteLen())
		x.r.env.Fail(err)
		return false, err
	}
	x.window = append(x.window, c)
	x.room += int(c.WriteLen())
	return true, nil
}

// gather returns the views of the window, not too many, and spill.
func (x *receiver) gather() [][]byte {
	x.views = x.views[:0]
	for _, c := range x.window {
		w := c.Writable()
		x.views = append(x.views, w[:min(len(w), maxViews-len(x.views))]...)
	}
	x.views = append(x.views, x.spill)
	return x.views
}

// put gives the driver the frame of n bytes, header included, that was written to the views.
func (x *receiver) put(n int) error {
	direct := 0
	for _, v := range x.views[:len(x.views)-1] {
		direct += len(v)
	}
	if n < vnethdr.Size || n > x.need || !x.merge && n > x.room || !x.fits(n) {
		x.d.receivedDropped.Add(1)
		return nil
	}
	for n > x.room {
		if len(x.window) == int(x.q.Size()) { // all that the driver can ever give
			x.d.receivedDropped.Add(1)
			return nil
		}
		ok, err := x.next()
		if err == nil && !ok {
			x.q.Flush()
			err = x.q.Wait()
		}
		if err != nil {
			return err
		}
	}
	if n > direct {
		x.write(direct, x.spill[:n-direct])
	}
	if x.give&vnethdr.Csum == 0 {
		x.write(0, []byte{0}) // flags (virtio 1.2, 5.1.6.4.1)
	}
	// The driver may not get frames on a queue any more once it knows that this is so (5.1.6.5.6.1).
	x.d.steer.RLock()
	defer x.d.steer.RUnlock()
	if x.pair >= int(x.d.pairs.Load()) {
		x.d.receivedDropped.Add(1)
		return nil
	}
	x.done = x.done[:0]
	for left := n; left > 0; {
		c := x.window[len(x.done)]
		k := min(left, int(c.WriteLen()))
		x.done = append(x.done, uint32(k))
		left -= k
		x.room -= int(c.WriteLen())
	}
	var count [2]byte
	binary.LittleEndian.PutUint16(count[:], uint16(len(x.done)))
	x.write(vnethdr.NumBuffers, count[:])
	x.q.DoneAll(x.window[:len(x.done)], x.done)
	rest := copy(x.window, x.window[len(x.done):])
	clear(x.window[rest:])
	x.window = x.window[:rest]
	if x.quiet++; x.quiet == flushEvery {
		x.quiet = 0
		x.q.Flush()
	}
	x.d.received.Add(1)
	x.d.receivedBytes.Add(uint64(n - vnethdr.Size))
	return nil
}

// fits says whether the driver may get a frame of n bytes of the kind that its header says: only what is to be segmented is larger than the
// MTU (virtio 1.2, 5.1.4.1), and that has to be negotiated (5.1.6.4.1).
func (x *receiver) fits(n int) bool {
	switch x.gso() {
	case vnethdr.GSONone:
		return n <= vnethdr.Size+etherHeader+x.d.backend.MTU()
	case vnethdr.GSOTCPv4:
		return x.give&vnethdr.TSO4 != 0
	case vnethdr.GSOTCPv6:
		return x.give&vnethdr.TSO6 != 0
	}
	return false
}

// write writes to the window, from byte off on.
func (x *receiver) write(off int, b []byte) {
	for _, c := range x.window {
		if off >= int(c.WriteLen()) {
			off -= int(c.WriteLen())
			continue
		}
		for _, v := range c.Writable() {
			if off >= len(v) {
				off -= len(v)
				continue
			}
			if b = b[copy(v[off:], b):]; len(b) == 0 {
				return
			}
			off = 0
		}
	}
}

// gso reads gso_type in the first chain; the driver may have changed it.
func (x *receiver) gso() byte {
	off := 1
	for _, v := range x.window[0].Writable() {
		if off < len(v) {
			return v[off]
		}
		off -= len(v)
	}
	return vnethdr.GSONone
}
