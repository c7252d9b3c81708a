package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/fleet"
)

type consoleCmd struct {
	Watch bool   `help:"Only look."`
	Name  string `arg:"" name:"name" help:"Machine."`
}

// Help is the text behind the flags.
func (c *consoleCmd) Help() string {
	return `One at a time may type; the others look. Ctrl-A x ends looking, and the machine runs on; Ctrl-A h shows the other keys.

Example: qenex console web`
}

// Run joins the terminal to a machine's console until the machine ends or the user has seen enough.
func (c *consoleCmd) Run() error {
	vm, err := mustVM(c.Name)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	conn, err := vm.Attach(ctx, !c.Watch)
	var remote *fleet.RemoteError
	if errors.As(err, &remote) && remote.Status == http.StatusConflict {
		fmt.Fprintf(os.Stderr, "qenex: %s; you can look\n", remote.Text)
		conn, err = vm.Attach(ctx, false)
		c.Watch = true
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.join(ctx, conn)
}

func (c *consoleCmd) join(ctx context.Context, conn net.Conn) (err error) {
	raw, err := terminal.MakeRaw(0)
	if errors.Is(err, terminal.ErrBackground) {
		c.Watch = true
	} else if err != nil {
		return err
	}
	if raw != nil {
		defer func() { err = errors.Join(err, raw.Restore()) }()
		defer raw.Guard()
	}
	seen := make(chan error, 1)
	go func() {
		_, err := io.Copy(os.Stdout, conn)
		seen <- err
	}()
	quit := make(chan struct{})
	if raw != nil {
		reader, err := terminal.NewReader(0)
		if err != nil {
			return err
		}
		defer func() { reader.Stop() }()
		go c.typed(reader, conn, quit)
	}
	select {
	case err := <-seen:
		return err
	case <-quit:
	case <-ctx.Done():
	}
	return nil
}

// typed sends what is typed, and closes quit at Ctrl-A x.
func (c *consoleCmd) typed(reader io.Reader, conn net.Conn, quit chan<- struct{}) {
	if terminal.IsTerminal(0) {
		reader = terminal.NewEscape(reader, os.Stderr)
	}
	var to io.Writer = conn
	if c.Watch {
		to = io.Discard
	}
	_, err := io.Copy(to, reader)
	if errors.Is(err, terminal.ErrQuit) {
		close(quit)
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the end of the input is not that of looking
	}
}
