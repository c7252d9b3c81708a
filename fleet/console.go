package fleet

import (
	"context"
	"errors"
	"io"
	"sync"
)

// ErrWriter says that somebody else writes to the console.
var ErrWriter = errors.New("somebody else types at this console")

// viewerBuffer bounds what is kept for a viewer that does not read, in bytes. When there is more, it loses the viewer.
const viewerBuffer = 256 << 10

// Console joins a machine's console with those who look at it: any number of viewers, of whom one at a time may type.
type Console struct {
	out io.Writer // the process's own output; may make the guest wait
	log *Log

	typed chan []byte   // what was typed; the machine takes it
	done  chan struct{} // closed by Close

	mu      sync.Mutex
	viewers map[*Viewer]bool // protected by mu; nil after Close
	writer  any              // protected by mu; who may type: nil, a *Viewer, or the Console itself for the process's own terminal
}

// NewConsole makes a console that writes to out, if that is not nil, and to log.
func NewConsole(out io.Writer, log *Log) *Console {
	return &Console{out: out, log: log, typed: make(chan []byte), done: make(chan struct{}), viewers: map[*Viewer]bool{}}
}

// Write gets what the guest says. Its errors are those of the process's own output; viewers cannot make it fail, or wait.
func (c *Console) Write(p []byte) (n int, err error) {
	n = len(p)
	if c.out != nil {
		n, err = c.out.Write(p)
	}
	if c.log != nil {
		_, _ = c.log.Write(p) // never fails
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for v := range c.viewers {
		if !v.offer(p) {
			c.drop(v)
		}
	}
	return n, err
}

// Input is what was typed, for one machine, until ctx is done. The next machine goes on behind it.
func (c *Console) Input(ctx context.Context) io.Reader { return &consoleInput{c: c, ctx: ctx} }

type consoleInput struct {
	c    *Console
	ctx  context.Context
	rest []byte
}

func (r *consoleInput) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		select {
		case r.rest = <-r.c.typed:
		case <-r.ctx.Done():
			return 0, io.EOF
		case <-r.c.done:
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Own makes the process's own terminal the one that types, until Disown. It fails if a viewer does.
func (c *Console) Own() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != nil {
		return ErrWriter
	}
	c.writer = c
	return nil
}

// Disown lets viewers type, after Own.
func (c *Console) Disown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer == c {
		c.writer = nil
	}
}

// Type gives p, which the console keeps, to the machine and waits until it has taken it, or ctx is done, or the console is closed.
func (c *Console) Type(ctx context.Context, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	select {
	case c.typed <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return io.ErrClosedPipe
	}
}

// Attach adds a viewer, who may type if input is set. Close it.
func (c *Console) Attach(input bool) (*Viewer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.viewers == nil {
		return nil, io.ErrClosedPipe
	}
	v := &Viewer{c: c, more: make(chan struct{}, 1)}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if input {
		if c.writer != nil {
			return nil, ErrWriter
		}
		c.writer = v
	}
	c.viewers[v] = true
	return v, nil
}

// drop removes a viewer, who reads what is kept for it and then the end. mu is held.
func (c *Console) drop(v *Viewer) {
	delete(c.viewers, v)
	if c.writer == v {
		c.writer = nil
	}
	v.end()
}

// Close ends the console for all viewers and the machine's input. What they were sent they can still read.
func (c *Console) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.viewers == nil {
		return
	}
	for v := range c.viewers {
		c.drop(v)
	}
	c.viewers = nil
	close(c.done)
}

// Viewer is one who looks at a console. One goroutine may read while another writes.
type Viewer struct {
	c      *Console
	ctx    context.Context // done: no more typing
	cancel context.CancelFunc
	more   chan struct{} // holds one: buf or ended have changed

	mu    sync.Mutex
	buf   []byte // protected by mu
	ended bool   // protected by mu
}

// offer keeps p for the viewer, and says whether there was room.
func (v *Viewer) offer(p []byte) bool {
	v.mu.Lock()
	ok := len(v.buf)+len(p) <= viewerBuffer
	if ok {
		v.buf = append(v.buf, p...)
	}
	v.mu.Unlock()
	v.wake()
	return ok
}

func (v *Viewer) end() {
	v.mu.Lock()
	v.ended = true
	v.mu.Unlock()
	v.cancel()
	v.wake()
}

func (v *Viewer) wake() {
	select {
	case v.more <- struct{}{}:
	default:
	}
}

// Read waits for what the guest says.
func (v *Viewer) Read(p []byte) (int, error) {
	for {
		v.mu.Lock()
		n := copy(p, v.buf)
		v.buf = v.buf[n:]
		if len(v.buf) == 0 {
			v.buf = nil
		}
		ended := v.ended
		v.mu.Unlock()
		switch {
		case n > 0 || len(p) == 0:
			return n, nil
		case ended:
			return 0, io.EOF
		}
		<-v.more
	}
}

// Write types p. Viewers that may not type get ErrWriter.
func (v *Viewer) Write(p []byte) (int, error) {
	v.c.mu.Lock()
	may := v.c.writer == v
	v.c.mu.Unlock()
	if !may {
		return 0, ErrWriter
	}
	if err := v.c.Type(v.ctx, append([]byte(nil), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite lets others type. The viewer goes on reading.
func (v *Viewer) CloseWrite() error {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	if v.c.writer == v {
		v.c.writer = nil
	}
	return nil
}

// Close takes the viewer away from the console: Read returns what is left, then io.EOF.
func (v *Viewer) Close() error {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	if v.c.viewers[v] {
		v.c.drop(v)
	}
	return nil
}
