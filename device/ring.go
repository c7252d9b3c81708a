package device

// ring is a bounded first-in, first-out byte queue. Its owner locks it.
type ring struct {
	buf  []byte
	head int // index of the oldest byte
	n    int // bytes held
}

func newRing(size int) ring { return ring{buf: make([]byte, size)} }

// push appends as much of p as fits and returns how much that was.
func (r *ring) push(p ...byte) int {
	p = p[:min(len(p), len(r.buf)-r.n)]
	tail := (r.head + r.n) % len(r.buf)
	copy(r.buf, p[copy(r.buf[tail:], p):])
	r.n += len(p)
	return len(p)
}

// pop removes the oldest byte; an empty ring gives 0.
func (r *ring) pop() byte {
	if r.n == 0 {
		return 0
	}
	v := r.buf[r.head]
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	return v
}

func (r *ring) clear() { r.head, r.n = 0, 0 }

// bytes returns a copy of what the ring holds, oldest first; nil if that is nothing.
func (r *ring) bytes() []byte {
	var p []byte
	for i := range r.n {
		p = append(p, r.buf[(r.head+i)%len(r.buf)])
	}
	return p
}
