package nic

import (
	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio"
)

const minFrame = 14 // bytes: an Ethernet header

// sender passes the frames of a transmit queue to the backend.
type sender struct {
	d    *Device
	q    *virtio.Queue
	pair int
	take vnethdr.Offloads

	head  [vnethdr.Size]byte
	views [][]byte
	flat  []byte // for frames in too many pieces
	quiet int    // frames since the last Flush
}

// send is for Queue.Serve.
func (x *sender) send(c *virtio.Chain) error {
	if n := int(c.ReadLen()) - vnethdr.Size; !x.pass(c, n) {
		x.d.sentDropped.Add(1)
	} else {
		x.d.sent.Add(1)
		x.d.sentBytes.Add(uint64(n))
	}
	x.q.Done(c, 0)
	if x.quiet++; x.quiet == flushEvery { // lest the driver's queue fills up while ours does not get empty
		x.quiet = 0
		x.q.Flush()
	}
	return nil
}

// pass gives the backend a frame of n bytes, if it has a header that is possible.
func (x *sender) pass(c *virtio.Chain, n int) bool {
	if n < minFrame || n > vnethdr.MaxFrame || x.pair >= int(x.d.pairs.Load()) || x.d.down.Load() {
		return false
	}
	c.Read(x.head[:])
	h := vnethdr.Parse(&x.head)
	if h.Check(n, x.take) != nil {
		return false
	}
	h.Put(&x.head)
	x.views = append(x.views[:0], x.head[:])
	if len(c.Readable()) > maxViews {
		if x.flat == nil {
			x.flat = make([]byte, vnethdr.MaxFrame)
		}
		k, _ := c.Read(x.flat)
		x.views = append(x.views, x.flat[:k])
	} else {
		skip := vnethdr.Size
		for _, v := range c.Readable() {
			k := min(skip, len(v))
			skip -= k
			if k < len(v) {
				x.views = append(x.views, v[k:])
			}
		}
	}
	if err := x.d.backend.Transmit(x.pair, x.views); err != nil {
		x.d.lose(err)
		return false
	}
	return true
}
