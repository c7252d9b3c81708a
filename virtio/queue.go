package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/memmap"
)

// A split virtqueue (virtio 1.2, 2.7): the descriptor table, the available ring, in which the driver puts heads of chains, and
// the used ring, in which the device gives them back. Sizes for a queue of n descriptors, and alignments:
//
//	descriptors  16*n     16
//	available    6 + 2*n  2    flags, idx, ring[n], used_event
//	used         6 + 8*n  4    flags, idx, ring[n] of {id, len}, avail_event
//
// Barriers. The driver writes an entry, then idx: we load idx with acquire, then the entry. We write an entry, then idx with
// release. Both sides write what they want to be woken for and then look at the other's idx once more; between them
// a store must not pass a load, so idx and avail_event are stored with a full barrier (memmap.StoreUint16).
const (
	availHeader, availEntry = 4, 2
	usedHeader, usedEntry   = 4, 8

	availNoInterrupt = 1
	usedNoNotify     = 1
)

// Queue is the device's side of a virtqueue while the driver has it enabled. Next, Wait and Serve are for one goroutine
// at a time, the others for any.
type Queue struct {
	index              int
	size               uint16
	eventIdx, indirect bool
	desc, avail, used  []byte // views; immutable
	mem                *memmap.Memory
	bell               *bell
	env                *Instance

	next    uint16 // available index of the chain that Next returns next
	silent  bool   // without EVENT_IDX: the driver was told not to notify
	stopped atomic.Bool
	stop    chan struct{} // closed when stopped is set

	mu        sync.Mutex
	taken     []bool   // protected by mu; by head: between Next and Done
	free      []*Chain // protected by mu; the one used last is on top, as its storage is warm
	usedIdx   uint16   // protected by mu
	signalled uint16   // protected by mu; usedIdx when the driver was last interrupted or did not want to be
	dead      bool     // protected by mu; the device's Stop has returned
}

// Size returns the number of descriptors, as the driver chose it.
func (q *Queue) Size() uint16 { return q.size }

// Index returns the queue's number within its device.
func (q *Queue) Index() int { return q.index }

// Stopping is closed when the device is to stop.
func (q *Queue) Stopping() <-chan struct{} { return q.stop }

// Wait blocks until the driver has rung since the last Wait. It returns early at times; ErrStopped when the device is to stop.
func (q *Queue) Wait() error {
	if err := q.bell.wait(); err != nil {
		return err
	}
	if q.stopped.Load() {
		return ErrStopped
	}
	return nil
}

// Next returns the next chain that the driver made available, or nil if there is none: then the driver will ring for the next. A
// broken rule is an error that wraps ErrProtocol, and Fail has been called; ErrStopped when the device is to stop.
func (q *Queue) Next() (*Chain, error) {
	if q.stopped.Load() {
		return nil, ErrStopped
	}
	idx := memmap.LoadUint16(q.avail[2:])
	if idx == q.next {
		// Ask to be rung, then look again, for the driver may have looked before.
		q.arm()
		if idx = memmap.LoadUint16(q.avail[2:]); idx == q.next {
			return nil, nil
		}
	}
	if n := idx - q.next; n > q.size {
		return nil, q.violation(fmt.Errorf("available index runs away: %d chains in a queue of %d", n, q.size))
	}
	if !q.eventIdx && !q.silent {
		memmap.StoreUint16(q.used, usedNoNotify)
		q.silent = true
	}
	// Acquired with idx.
	head := binary.LittleEndian.Uint16(q.avail[availHeader+availEntry*int(q.next&(q.size-1)):])
	if head >= q.size {
		return nil, q.violation(fmt.Errorf("%w: head %d of %d", errIndex, head, q.size))
	}
	c := q.take(head)
	if c == nil {
		return nil, q.violation(fmt.Errorf("head %d is available again before it was used", head))
	}
	if err := c.fill(q.mem, q.desc, head, q.indirect); err != nil {
		return nil, q.violation(fmt.Errorf("chain at head %d: %w", head, err))
	}
	q.next++
	return c, nil
}

// take marks a head as taken and returns a chain's storage, nil if the head is taken.
func (q *Queue) take(head uint16) *Chain {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken[head] {
		return nil
	}
	q.taken[head] = true
	if n := len(q.free); n > 0 {
		c := q.free[n-1]
		q.free = q.free[:n-1]
		return c
	}
	return new(Chain)
}

// arm asks the driver to ring when it makes the next chain available.
func (q *Queue) arm() {
	if q.eventIdx {
		memmap.StoreUint16(q.used[usedHeader+usedEntry*int(q.size):], q.next)
	} else if q.silent {
		memmap.StoreUint16(q.used, 0)
		q.silent = false
	}
}

func (q *Queue) violation(err error) error {
	err = fmt.Errorf("%w: queue %d: %w", ErrProtocol, q.index, err)
	q.env.Fail(err)
	return err
}

// Done gives a chain back with the number of bytes written to its writable part, from its beginning. c must not be used
// afterwards. The driver is interrupted by Flush only.
func (q *Queue) Done(c *Chain, written uint32) {
	q.DoneAll([]*Chain{c}, []uint32{written})
}

// DoneAll is Done for each of chains with as many bytes as written says. The driver finds all of them used, or none: a frame in several buffers
// has to come whole (virtio 1.2, 5.1.6.4).
func (q *Queue) DoneAll(chains []*Chain, written []uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return
	}
	for i, c := range chains {
		q.taken[c.head] = false // before the driver can make it available again
		q.free = append(q.free, c)
		e := q.used[usedHeader+usedEntry*int(q.usedIdx&(q.size-1)):][:usedEntry]
		binary.LittleEndian.PutUint32(e, uint32(c.head))
		binary.LittleEndian.PutUint32(e[4:], uint32(min(uint64(written[i]), c.writeLen)))
		q.usedIdx++
	}
	memmap.StoreUint16(q.used[2:], q.usedIdx)
}

// Flush interrupts the driver if chains were given back since the last Flush and it asked for that.
func (q *Queue) Flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.usedIdx == q.signalled || q.dead {
		return
	}
	// The barrier behind the store of idx stands before these loads.
	var wanted bool
	if q.eventIdx {
		event := memmap.LoadUint16(q.avail[availHeader+availEntry*int(q.size):])
		wanted = q.usedIdx-event-1 < q.usedIdx-q.signalled // virtio 1.2, 2.7.7.2
	} else {
		wanted = memmap.LoadUint16(q.avail)&availNoInterrupt == 0
	}
	q.signalled = q.usedIdx
	if wanted {
		q.env.host.Interrupt(q.index)
	}
}

// Serve calls f for each chain as it becomes available, and Flush whenever there are no more. f calls Done itself, now or later,
// in any order. It ends with ErrStopped, or with another error, after Fail was called with it.
func (q *Queue) Serve(f func(c *Chain) error) error {
	for {
		c, err := q.Next()
		switch {
		case err != nil:
			return err
		case c != nil:
			err = f(c)
		default:
			q.Flush()
			err = q.Wait()
		}
		if err != nil {
			if !errors.Is(err, ErrStopped) {
				q.env.Fail(err)
			}
			return err
		}
	}
}

// halt makes Wait and Next return ErrStopped.
func (q *Queue) halt() error {
	if q.stopped.Swap(true) {
		return nil
	}
	close(q.stop)
	return q.bell.stop()
}

// kill makes Done and Flush do nothing.
func (q *Queue) kill() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dead = true
}
