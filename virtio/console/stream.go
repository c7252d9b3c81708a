package console

import (
	"context"
	"io"
	"sync"

	"github.com/qenex/qenex-kernel/virtio"
)

// maxWaiting bounds the output that waits for the writer, in bytes.
const maxWaiting = 64 << 10

// sink writes from a goroutine of its own, which is there only while there is something to write: a Write that blocks blocks nobody else.
type sink struct {
	w    io.Writer
	room chan struct{} // has room for one: buf was taken

	mu   sync.Mutex
	buf  []byte        // protected by mu; waits to be written
	busy bool          // protected by mu; drain runs
	idle chan struct{} // protected by mu; closed when the drain that runs, or ran last, has ended; nil before the first
}

func newSink(w io.Writer) *sink {
	if w == nil {
		w = io.Discard
	}
	return &sink{w: w, room: make(chan struct{}, 1)}
}

// put waits until p is taken, and says false if the queue stops first.
func (s *sink) put(p []byte, q *virtio.Queue) bool {
	for {
		s.mu.Lock()
		n := min(len(p), maxWaiting-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
		if !s.busy {
			s.busy, s.idle = true, make(chan struct{})
			go s.drain()
		}
		s.mu.Unlock()
		if len(p) == 0 {
			return true
		}
		q.Flush()
		select {
		case <-s.room:
		case <-q.Stopping():
			return false
		}
	}
}

// flush waits until all is written, or ctx ends.
func (s *sink) flush(ctx context.Context) error {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sink) drain() {
	var spare []byte
	for {
		s.mu.Lock()
		p := s.buf
		if s.busy = len(p) > 0; !s.busy {
			close(s.idle)
			s.mu.Unlock()
			return
		}
		s.buf = spare[:0]
		s.mu.Unlock()
		signal(s.room)
		s.w.Write(p) // an error is the writer's, who drops what it cannot take
		spare = p
	}
}

// source reads in a goroutine of its own, which is there only while a Read is on its way.
type source struct {
	r     io.Reader
	ready chan struct{} // has room for one: a Read has ended

	mu   sync.Mutex
	buf  []byte // protected by mu; read, and not with the guest yet
	busy bool   // protected by mu; fill runs
	end  bool   // protected by mu; there is no more
}

func newSource(r io.Reader) *source {
	return &source{r: r, end: r == nil, ready: make(chan struct{}, 1)}
}

// get waits until there is something, writes it to c, and says false if the queue stops first.
func (s *source) get(c *virtio.Chain, q *virtio.Queue) bool {
	for {
		s.mu.Lock()
		if len(s.buf) > 0 {
			n, _ := c.Write(s.buf) // what does not fit is for the next
			s.buf = s.buf[n:]
			s.mu.Unlock()
			return true
		}
		if !s.busy && !s.end {
			s.busy = true
			go s.fill()
		}
		s.mu.Unlock()
		select {
		case <-s.ready:
		case <-q.Stopping():
			return false
		}
	}
}

func (s *source) fill() {
	buf := make([]byte, chunk)
	n, err := s.r.Read(buf)
	s.mu.Lock()
	s.buf, s.end, s.busy = buf[:n], err != nil, false
	s.mu.Unlock()
	signal(s.ready)
}

// signal wakes whoever waits for c, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
