package vsock

import "io"

// bufferSize is how many bytes of a connection, sent by the guest, can wait to be read.
const bufferSize = 256 << 10

const firstBuffer = 4 << 10

// ring holds bytes in their order, up to bufferSize. Its storage grows as it is needed.
type ring struct {
	buf   []byte
	start int // of the oldest byte in buf
	n     int // bytes held
}

// free returns how many more bytes fit.
func (r *ring) free() int { return bufferSize - r.n }

// fill appends n bytes, which fit, from src, which has them.
func (r *ring) fill(src io.Reader, n int) error {
	if size := r.n + n; size > len(r.buf) {
		grown := max(firstBuffer, len(r.buf))
		for grown < size {
			grown *= 2
		}
		buf := make([]byte, grown)
		held := copy(buf, r.head())
		copy(buf[held:], r.buf[:r.n-held])
		r.buf, r.start = buf, 0
	}
	for n > 0 {
		end := r.start + r.n
		if end >= len(r.buf) {
			end -= len(r.buf)
		}
		k, err := io.ReadFull(src, r.buf[end:min(end+n, len(r.buf))])
		r.n, n = r.n+k, n-k
		if err != nil {
			return err
		}
	}
	return nil
}

// head returns the oldest bytes, as many as lie together: none only if the ring is empty. They stay as they are until consume.
func (r *ring) head() []byte { return r.buf[r.start:min(r.start+r.n, len(r.buf))] }

// consume removes the n oldest bytes.
func (r *ring) consume(n int) {
	r.n -= n
	if r.start += n; r.start >= len(r.buf) {
		r.start -= len(r.buf)
	}
	if r.n == 0 {
		r.start = 0
	}
}
