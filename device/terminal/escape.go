package terminal

import (
	"errors"
	"io"
)

// ErrQuit is what Escape.Read returns when the user has typed Ctrl-A x.
var ErrQuit = errors.New("terminal: quit by Ctrl-A x")

// Help is what Ctrl-A h prints.
const Help = "\r\n" +
	"Ctrl-A x       quit\r\n" +
	"Ctrl-A h       this help\r\n" +
	"Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"

const ctrlA = 0x01

// Escape filters the Ctrl-A commands out of what is typed:
//
//	Ctrl-A x       Read returns ErrQuit; what was typed before is delivered first,
//	               what was typed behind is dropped
//	Ctrl-A h       Help is written to the help writer
//	Ctrl-A Ctrl-A  one Ctrl-A is delivered
//
// Ctrl-A and any other key are both dropped. A Ctrl-A at the end of the input is
// delivered. Use it only on a terminal: in a pipe or a file, Ctrl-A is a byte like any
// other. One goroutine at a time may read.
type Escape struct {
	r    io.Reader
	help io.Writer

	pending bool  // the last byte was Ctrl-A
	err     error // returned from now on, once what came before it is delivered
}

// NewEscape returns a filter of r; help may be nil.
func NewEscape(r io.Reader, help io.Writer) *Escape { return &Escape{r: r, help: help} }

// Read implements io.Reader.
func (e *Escape) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for e.err == nil {
		n, err := e.r.Read(p)
		out := e.filter(p[:n])
		if e.err == nil && err != nil {
			e.err = err
			if e.pending && err == io.EOF {
				e.pending = false
				out = append(out, ctrlA) // p has room: the Ctrl-A is not in out
			}
		}
		if len(out) > 0 || err == nil && n == 0 {
			return len(out), nil
		}
	}
	return 0, e.err
}

// filter shortens p, in place, to what is for the guest. It sets err at Ctrl-A x.
func (e *Escape) filter(p []byte) []byte {
	out := p[:0]
	for _, c := range p {
		switch {
		case !e.pending && c == ctrlA:
			e.pending = true
			continue
		case !e.pending, c == ctrlA:
			out = append(out, c)
		case c == 'x':
			e.err = ErrQuit
			return out
		case c == 'h' && e.help != nil:
			// The help is a courtesy: nothing is to be done if it cannot be shown.
			_, _ = io.WriteString(e.help, Help)
		}
		e.pending = false
	}
	return out
}
