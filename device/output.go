package device

import (
	"context"
	"io"
	"sync"
)

const (
	outputMax  = 64 << 10 // bytes that wait for the writer
	outputRoom = 16       // bytes that must be free for the queue to count as having room: one UART FIFO
)

// output carries bytes from a device to an io.Writer without ever blocking a vCPU.
//
// A byte put into an idle output starts a goroutine that writes it straight away;
// bytes that arrive while the writer is busy are queued and leave together in its
// next Write. So a lone byte appears at once, a burst costs few writes, and there is
// neither a timer nor, when nothing is to be written, a goroutine. What does not fit
// the queue, and what the writer refuses, is dropped and counted.
type output struct {
	w    io.Writer // nil discards
	room func()    // called without mu held when a queue that had no room has it again; may be nil

	mu      sync.Mutex
	queue   []byte        // at most outputMax
	spare   []byte        // the other buffer, nil while drain writes from it
	idle    chan struct{} // closed when drain ends; nil when no drain runs
	dropped uint64        // bytes
}

// put queues one byte and reports whether the queue has room left.
func (o *output) put(v byte) bool {
	if o.w == nil {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == outputMax {
		o.dropped++
		return false
	}
	o.queue = append(o.queue, v)
	if o.idle == nil {
		o.idle = make(chan struct{})
		go o.drain()
	}
	return o.hasRoomLocked()
}

func (o *output) hasRoomLocked() bool { return len(o.queue) <= outputMax-outputRoom }

func (o *output) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hasRoomLocked()
}

// drain writes until the queue is empty. At most one runs.
func (o *output) drain() {
	for {
		o.mu.Lock()
		if len(o.queue) == 0 {
			close(o.idle)
			o.idle = nil
			o.mu.Unlock()
			return
		}
		p, was := o.queue, o.hasRoomLocked()
		o.queue, o.spare = o.spare[:0], nil
		o.mu.Unlock()

		if !was && o.room != nil {
			o.room()
		}
		n, err := o.w.Write(p)

		o.mu.Lock()
		o.spare = p
		if n = max(n, 0); err != nil && n < len(p) {
			o.dropped += uint64(len(p) - n)
		}
		o.mu.Unlock()
	}
}

// flush waits until everything put so far has been handed to the writer.
func (o *output) flush(ctx context.Context) error {
	o.mu.Lock()
	idle := o.idle
	o.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *output) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}
