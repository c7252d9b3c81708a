package virtiotest

import (
	"fmt"
	"sync"
	"time"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// Flags of a descriptor (virtio 1.2, 2.7.5).
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

// queue is the driver's side of a queue. Requests of more than one part use an indirect table if that was accepted.
type queue struct {
	d     *Driver
	index int
	irq   chan struct{} // holds one when the device interrupted

	size               uint16
	eventIdx, indirect bool
	desc, avail, used  []byte
	stop               chan struct{} // closed to end reap; nil while the queue is off
	done               sync.WaitGroup

	mu      sync.Mutex
	room    *sync.Cond          // signalled when descriptors become free, or stop
	free    []uint16            // protected by mu
	pending map[uint16]*Pending // protected by mu; by head
	idx     uint16              // protected by mu; available index
	seen    uint16              // protected by mu; used index up to which answers were taken
}

// Pending is a request that may not have been answered.
type Pending struct {
	q      *queue
	heads  []uint16 // descriptors in the queue
	parts  []part
	table  part // indirect table, if any
	len    uint32
	answer chan struct{} // closed when answered
}

type part struct {
	gpa, size uint64
	write     bool
}

func (q *queue) setup() {
	d, in := q.d, q.d.Instance
	i := uint32(q.index)
	q.size = min(in.QueueMax(i), 256)
	if d.opts.QueueSize != 0 {
		q.size = min(in.QueueMax(i), d.opts.QueueSize)
	}
	q.eventIdx = in.Accepted()&virtio.FeatureEventIdx != 0
	q.indirect = in.Accepted()&virtio.FeatureIndirectDesc != 0
	n := uint64(q.size)
	in.SetQueueSize(i, uint32(n))
	for r, at := range map[virtio.Ring]struct {
		view *[]byte
		size uint64
	}{
		virtio.Descriptors: {&q.desc, 16 * n},
		virtio.Available:   {&q.avail, 6 + 2*n},
		virtio.Used:        {&q.used, 6 + 8*n},
	} {
		gpa := d.alloc(at.size)
		*at.view = d.view(gpa, at.size)
		clear(*at.view)
		in.SetQueueAddr(i, r, gpa, ^uint64(0))
	}
	in.EnableQueue(i)
	q.room = sync.NewCond(&q.mu)
	q.pending = map[uint16]*Pending{}
	q.free = q.free[:0]
	for k := range q.size {
		q.free = append(q.free, k)
	}
	q.idx, q.seen = 0, 0
	q.stop = make(chan struct{})
	q.done.Add(1)
	go q.reap(q.stop)
}

// halt ends the goroutine that takes answers, and everybody who waits for room.
func (q *queue) halt() {
	if q.stop == nil {
		return
	}
	q.mu.Lock()
	close(q.stop)
	q.room.Broadcast()
	q.mu.Unlock()
	q.done.Wait()
	q.stop = nil
}

func (q *queue) post(readable [][]byte, writable []int) *Pending {
	d := q.d
	p := &Pending{q: q, answer: make(chan struct{})}
	for _, b := range readable {
		gpa := d.alloc(uint64(len(b)))
		copy(d.view(gpa, uint64(len(b))), b)
		p.parts = append(p.parts, part{gpa, uint64(len(b)), false})
	}
	for _, n := range writable {
		gpa := d.alloc(uint64(n))
		clear(d.view(gpa, uint64(n)))
		p.parts = append(p.parts, part{gpa, uint64(n), true})
	}
	need := len(p.parts)
	if q.indirect && need > 1 {
		p.table = part{gpa: d.alloc(16 * uint64(need)), size: 16 * uint64(need)}
		table := d.view(p.table.gpa, p.table.size)
		for i, part := range p.parts {
			putDescriptor(table[16*i:], part, i+1 < need, uint16(i+1))
		}
		need = 1
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if need == 0 || need > int(q.size) {
		d.fatal(fmt.Errorf("a request of %d parts in a queue of %d", need, q.size))
	}
	for len(q.free) < need {
		q.room.Wait()
	}
	p.heads = append(p.heads, q.free[len(q.free)-need:]...)
	q.free = q.free[:len(q.free)-need]
	if p.table.size > 0 {
		b := q.desc[16*int(p.heads[0]):]
		putDescriptor(b, p.table, false, 0)
		le.PutUint16(b[12:], flagIndirect)
	} else {
		for i, part := range p.parts {
			more := i+1 < need
			var next uint16
			if more {
				next = p.heads[i+1]
			}
			putDescriptor(q.desc[16*int(p.heads[i]):], part, more, next)
		}
	}
	q.pending[p.heads[0]] = p
	le.PutUint16(q.avail[4+2*int(q.idx%q.size):], p.heads[0])
	q.idx++
	memmap.StoreUint16(q.avail[2:], q.idx)
	// The barrier behind the store of idx: what the device wants is looked at afterwards.
	ring := memmap.LoadUint16(q.used)&1 == 0
	if q.eventIdx {
		ring = memmap.LoadUint16(q.used[4+8*int(q.size):]) == q.idx-1
	}
	if ring {
		d.Instance.Ring(uint32(q.index))
	}
	return p
}

func putDescriptor(b []byte, p part, more bool, next uint16) {
	var flags uint16
	if p.write {
		flags |= flagWrite
	}
	if more {
		flags |= flagNext
	}
	le.PutUint64(b, p.gpa)
	le.PutUint32(b[8:], uint32(p.size))
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// reap takes answers when the device interrupts.
func (q *queue) reap(stop chan struct{}) {
	defer q.done.Done()
	for {
		q.mu.Lock()
		for {
			if q.seen == memmap.LoadUint16(q.used[2:]) {
				if !q.eventIdx {
					break
				}
				memmap.StoreUint16(q.avail[4+2*int(q.size):], q.seen)
				if q.seen == memmap.LoadUint16(q.used[2:]) {
					break
				}
			}
			e := q.used[4+8*int(q.seen%q.size):]
			head := le.Uint32(e)
			p := q.pending[uint16(head)]
			if p == nil || head >= uint32(q.size) {
				panic(fmt.Sprintf("virtiotest: queue %d: the device used head %d, which it does not have", q.index, head))
			}
			delete(q.pending, uint16(head))
			q.seen++
			p.len = le.Uint32(e[4:])
			q.free = append(q.free, p.heads...)
			q.room.Broadcast()
			close(p.answer)
		}
		q.mu.Unlock()
		select {
		case <-q.irq:
		case <-stop:
			return
		}
	}
}

// Done is closed when the device has answered.
func (p *Pending) Done() <-chan struct{} { return p.answer }

// Wait waits for the answer. It is called once.
func (p *Pending) Wait() Used {
	d := p.q.d
	select {
	case <-p.answer:
	case <-time.After(patience):
		d.fatal(fmt.Errorf("queue %d: no answer in %v; device status %#x", p.q.index, patience, d.Instance.Status()))
	}
	u := Used{Len: p.len}
	for _, part := range p.parts {
		if part.write {
			u.Data = append(u.Data, append([]byte(nil), d.view(part.gpa, part.size)...))
		}
		d.release(part.gpa, part.size)
	}
	if p.table.size > 0 {
		d.release(p.table.gpa, p.table.size)
	}
	return u
}
