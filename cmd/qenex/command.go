package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/device/terminal"
)

// running is a command in a guest whose standard files and signals are this process's.
type running struct{ p *agent.Process }

// signal hands a signal on. It fails when the command has ended.
func (r *running) signal(s syscall.Signal) {
	if s == unix.SIGWINCH {
		_ = r.p.Resize(terminalSize())
	} else {
		_ = r.p.Signal(s)
	}
}

// terminalSize is that of standard input, if it is a terminal.
func terminalSize() agent.Size {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return agent.Size{}
	}
	return agent.Size{Rows: ws.Row, Columns: ws.Col}
}

// follow runs a command of a guest on this process's standard files and returns its exit code. started is called with the command once it runs,
// to send it signals.
func follow(ctx context.Context, client *agent.Client, cmd agent.Command, started func(*running)) (code int, err error) {
	if cmd.TTY {
		raw, failed := terminal.MakeRaw(0)
		if failed != nil {
			return 0, failed
		}
		defer func() { err = errors.Join(err, raw.Restore()) }()
		defer raw.Guard()
		cmd.Size = terminalSize()
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if !isTerminal(0) || inForeground(0) { // a job in the background would be stopped by reading
		stdin, failed := terminal.NewReader(0)
		if failed != nil {
			return 0, failed
		}
		defer func() { err = errors.Join(err, stdin.Close()) }()
		cmd.Stdin = stdin
	}
	p, err := client.Start(ctx, cmd)
	if err != nil {
		return 0, err
	}
	started(&running{p})
	exit, err := p.Wait()
	return exit.Status(), err
}

// commandEnd is how the command of qenex run --image has ended.
type commandEnd struct {
	code int
	err  error
}

// commandCode returns the exit code for an error of the agent when it was to start a command.
func commandCode(err error) int {
	var e *agent.Error
	switch {
	case !errors.As(err, &e):
		return exitNative
	case errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, fs.ErrPermission):
		return exitNotExecutable
	}
	return exitNative
}

// command runs the command of the machine when the agent answers. If it is in the foreground, the machine ends with it.
func (c *runCmd) command(ctx context.Context, g *guest, reg *registered, cmd *agent.Command) {
	if g.await(ctx, true) != nil {
		return // whoever ends the machine says why
	}
	code, err := c.runCommand(ctx, g, reg, *cmd)
	g.setProcess(nil)
	var refused *agent.Error
	if err != nil && !errors.As(err, &refused) {
		// The connection is gone. Mostly the guest is too, and how it ended says more.
		select {
		case <-g.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(goneTime):
		}
	}
	if err != nil {
		code = commandCode(err)
	}
	g.setCommandEnd(&commandEnd{code, err})
	if c.Detach {
		if err != nil {
			_, _ = io.WriteString(reg.output, "qenex: "+oneLine(err)+"\n") // a log never fails
		}
		return
	}
	if g.dev.keep {
		stop, cancel := context.WithTimeout(ctx, stopTime)
		defer cancel()
		if g.Shutdown(stop) == nil {
			select {
			case <-g.done:
			case <-stop.Done():
			}
		}
	}
	g.cancel(errors.New("the command has ended"))
}

const (
	goneTime = 5 * time.Second  // for a machine to end behind its agent's connection
	stopTime = 30 * time.Second // for a guest to power off when it was asked to
)

func (c *runCmd) runCommand(ctx context.Context, g *guest, reg *registered, cmd agent.Command) (int, error) {
	if c.Net != "none" {
		if _, err := g.client.Network(ctx, agent.Network{}); err != nil {
			return 0, err
		}
	}
	if c.Detach {
		cmd.Stdout, cmd.Stderr = reg.output, reg.output
		return g.client.Exec(ctx, cmd)
	}
	return follow(ctx, g.client, cmd, g.setProcess)
}
