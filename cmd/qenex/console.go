package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/qenex/qenex-kernel/device/terminal"
)

// console is the process's standard input as the input of one machine after another.
type console struct {
	raw    *terminal.Raw    // nil in the background of a terminal
	reader *terminal.Reader // nil in the background, and after close
	chunks chan []byte      // what was read; closed at the end of the input
	closed chan struct{}    // ends pump
}

// openConsole makes a terminal raw and begins to read. cancel is called with errQuit when Ctrl-A x is typed.
func openConsole(cancel context.CancelCauseFunc) (*console, error) {
	fd := int(os.Stdin.Fd())
	c := &console{chunks: make(chan []byte), closed: make(chan struct{})}
	var err error
	if c.raw, err = terminal.MakeRaw(fd); errors.Is(err, terminal.ErrBackground) {
		return c, nil // no input, as for any background job
	} else if err != nil {
		return nil, err
	}
	if c.reader, err = terminal.NewReader(fd); err != nil {
		return nil, errors.Join(err, c.raw.Restore())
	}
	var input io.Reader = c.reader
	if terminal.IsTerminal(fd) {
		input = terminal.NewEscape(c.reader, os.Stderr)
	}
	go c.pump(input, cancel)
	return c, nil
}

// pump hands what it reads to whichever machine wants it.
func (c *console) pump(input io.Reader, cancel context.CancelCauseFunc) {
	defer c.raw.Guard()
	defer close(c.chunks)
	for {
		buf := make([]byte, 512)
		n, err := input.Read(buf)
		if n > 0 {
			select {
			case c.chunks <- buf[:n]:
			case <-c.closed:
				return
			}
		}
		if errors.Is(err, terminal.ErrQuit) {
			cancel(errQuit)
		}
		if err != nil {
			return
		}
	}
}

// forMachine returns the input for one machine and what ends it; the next machine goes on reading behind it.
func (c *console) forMachine() (io.Reader, context.CancelFunc) {
	ctx, stop := context.WithCancel(context.Background())
	return &machineInput{ctx: ctx, chunks: c.chunks}, stop
}

// machineInput reads chunks until they end or its machine does.
type machineInput struct {
	ctx    context.Context
	chunks <-chan []byte
	rest   []byte
}

func (m *machineInput) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		select {
		case chunk, ok := <-m.chunks:
			if !ok {
				return 0, io.EOF
			}
			m.rest = chunk
		case <-m.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// close ends reading and gives the terminal back. It may be called more than once.
func (c *console) close() error {
	var errs []error
	if c.reader != nil {
		close(c.closed)
		c.reader.Stop()
		for range c.chunks { // pump has ended when they do
		}
		errs = append(errs, c.reader.Close())
		c.reader = nil
	}
	if c.raw != nil {
		errs = append(errs, c.raw.Restore())
	}
	return errors.Join(errs...)
}
