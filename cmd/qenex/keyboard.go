package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/fleet"
)

// keyboard is the process's standard input as what is typed at a machine's console.
type keyboard struct {
	raw    *terminal.Raw    // nil in the background of a terminal, and if standard input is not the console's
	reader *terminal.Reader // nil likewise, and after close
	cancel context.CancelFunc
	pumped chan struct{} // closed when pump has ended
}

// openKeyboard makes a terminal raw and begins to read, if standard input is the console's. quit is called with errQuit when Ctrl-A x is typed.
func openKeyboard(to *fleet.Console, mine bool, quit context.CancelCauseFunc) (*keyboard, error) {
	c := &keyboard{pumped: make(chan struct{})}
	if !mine {
		return c, nil
	}
	fd := int(os.Stdin.Fd())
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
	if err := to.Own(); err != nil {
		return nil, errors.Join(err, c.reader.Close(), c.raw.Restore())
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.pump(ctx, input, to, quit)
	return c, nil
}

// pump hands what it reads to the console. When there is no more, others may type.
func (c *keyboard) pump(ctx context.Context, input io.Reader, to *fleet.Console, quit context.CancelCauseFunc) {
	defer c.raw.Guard()
	defer close(c.pumped)
	defer to.Disown()
	for {
		buf := make([]byte, 512)
		n, err := input.Read(buf)
		if n > 0 && to.Type(ctx, buf[:n]) != nil {
			return
		}
		if errors.Is(err, terminal.ErrQuit) {
			quit(errQuit)
		}
		if err != nil {
			return
		}
	}
}

// close ends reading and gives the terminal back. It may be called more than once.
func (c *keyboard) close() error {
	var errs []error
	if c.reader != nil {
		c.cancel()
		c.reader.Stop()
		<-c.pumped
		errs = append(errs, c.reader.Close())
		c.reader = nil
	}
	if c.raw != nil {
		errs = append(errs, c.raw.Restore())
	}
	return errors.Join(errs...)
}
