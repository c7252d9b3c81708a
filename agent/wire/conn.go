package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Errors of this package. ErrFrame is a bad frame, or a frame where it does not belong; ErrMessage a bad payload.
var (
	ErrFrame   = errors.New("agent protocol")
	ErrMessage = errors.New("agent message")
)

const headerSize = 5

// Conn sends and receives frames on a stream. Any goroutine may send; one receives. It closes nothing.
type Conn struct {
	r       *bufio.Reader
	payload []byte // of the last frame received

	mu  sync.Mutex // below: one frame goes out at a time
	w   io.Writer
	out []byte
}

// NewConn makes a Conn of a stream.
func NewConn(stream io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReaderSize(stream, headerSize+Chunk), w: stream}
}

// Send writes a frame, in one write. A payload longer than MaxPayload is refused.
func (c *Conn) Send(k Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: a frame of %d bytes is to be sent; at most %d fit", ErrFrame, len(payload), MaxPayload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = binary.LittleEndian.AppendUint32(c.out[:0], uint32(len(payload)))
	c.out = append(append(c.out, byte(k)), payload...)
	_, err := c.w.Write(c.out)
	return err
}

// Receive reads a frame. Its payload is good until the next Receive. A stream that ends between frames is io.EOF, one that
// ends inside a frame io.ErrUnexpectedEOF.
func (c *Conn) Receive() (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.r, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(header[:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("%w: the other side announces a frame of %d bytes; at most %d are allowed", ErrFrame, n, MaxPayload)
	}
	if uint32(cap(c.payload)) < n {
		c.payload = make([]byte, n)
	}
	c.payload = c.payload[:n]
	if _, err := io.ReadFull(c.r, c.payload); err != nil {
		return 0, nil, fmt.Errorf("frame of kind %d: %w", header[4], noEOF(err))
	}
	return Kind(header[4]), c.payload, nil
}

// noEOF makes of the end of a stream an end in the midst of something.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer sends what is written to it as frames of kind k, of at most Chunk bytes each.
func (c *Conn) Writer(k Kind) io.Writer { return &writer{c, k} }

type writer struct {
	c *Conn
	k Kind
}

func (w *writer) Write(p []byte) (n int, err error) {
	for len(p) > n {
		part := p[n:min(len(p), n+Chunk)]
		if err := w.c.Send(w.k, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Reader reads the payloads of Data frames up to End. An Error frame is an *ErrorMessage, any other an ErrFrame.
func (c *Conn) Reader() io.Reader { return &reader{c: c} }

type reader struct {
	c    *Conn
	left []byte // of the last frame
	err  error
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.left) == 0 && r.err == nil {
		r.left, r.err = r.c.data()
	}
	if len(r.left) == 0 {
		return 0, r.err
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// data receives a frame of a tar stream; its End is io.EOF.
func (c *Conn) data() ([]byte, error) {
	k, p, err := c.Receive()
	switch {
	case err != nil:
		return nil, noEOF(err)
	case k == Data:
		return p, nil
	case k == End && len(p) == 0:
		return nil, io.EOF
	default:
		return nil, Unexpected(k, p)
	}
}

// Unexpected is the error of a frame that is not the one awaited: what an Error says, or that the kind is wrong.
func Unexpected(k Kind, payload []byte) error {
	if k != Error {
		return fmt.Errorf("%w: a frame of kind %d does not belong here", ErrFrame, k)
	}
	var m ErrorMessage
	if err := m.Parse(payload); err != nil {
		return err
	}
	return &m
}
