package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// Size of a terminal, in characters.
type Size = wire.Size

// Command is a process to be run in the guest.
type Command struct {
	Args []string // the program, found by the guest's PATH, and its arguments
	Env  []string // NAME=VALUE, beside the defaults PATH, HOME and, on a terminal, TERM
	Dir  string   // working directory; "" is the user's home, or / if that is not there
	User string   // USER[:GROUP], names from the guest's /etc/passwd and /etc/group, or numbers; "" is root
	TTY  bool     // its standard files are a terminal; everything comes out of Stdout
	Size Size     // of the terminal

	Stdin  io.Reader // nil is no input
	Stdout io.Writer // nil drops the output
	Stderr io.Writer
}

// Exit is how a process ended: by itself with Code, or by a signal.
type Exit struct {
	Code   int
	Signal syscall.Signal // 0: by itself
}

// Status is the exit status that a shell would show: 128 and the signal's number for a process ended by one.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Process is a running Command.
type Process struct {
	PID int // in the guest

	call    *call
	command Command

	mu      sync.Mutex // below
	window  int        // bytes of standard input that may be sent
	credits *sync.Cond // window grew, or the end came
	ended   bool
}

// Exec runs a command to its end and returns its exit status as a shell would show it (Exit.Status). Cancelling ctx kills the
// command. A goroutine that reads c.Stdin may go on, until a Read that it is in returns.
func (c *Client) Exec(ctx context.Context, cmd Command) (int, error) {
	p, err := c.Start(ctx, cmd)
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait()
	return exit.Status(), err
}

// Start runs a command. Its error is fs.ErrNotExist if there is no such program, fs.ErrPermission if it cannot be executed. Wait
// must be called; until then no output is taken. Cancelling ctx kills the command.
func (c *Client) Start(ctx context.Context, cmd Command) (*Process, error) {
	m := &wire.ExecMessage{Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User, Stdin: cmd.Stdin != nil, TTY: cmd.TTY, Size: cmd.Size}
	l, err := c.start(ctx, wire.Exec, m)
	if err != nil {
		return nil, err
	}
	var started wire.StartedMessage
	if err := l.await(wire.Started, &started); err != nil {
		l.done()
		return nil, err
	}
	p := &Process{PID: int(started.PID), call: l, command: cmd, window: wire.Window}
	p.credits = sync.NewCond(&p.mu)
	if cmd.Stdin != nil {
		go p.input()
	}
	return p, nil
}

// Signal sends a signal to the process and all of its process group.
func (p *Process) Signal(s syscall.Signal) error {
	return p.call.explain(p.call.SendMessage(wire.Signal, &wire.SignalMessage{Number: uint8(s)}))
}

// Resize tells the terminal's new size.
func (p *Process) Resize(s Size) error {
	return p.call.explain(p.call.SendMessage(wire.Resize, &s))
}

// Wait passes the output on and returns when the process has ended. What processes it left behind write later is lost.
func (p *Process) Wait() (Exit, error) {
	defer p.finish()
	for {
		k, payload, err := p.call.Receive()
		if err != nil {
			return Exit{}, p.call.explain(err)
		}
		switch k {
		case wire.Stdout:
			err = output(p.command.Stdout, payload)
		case wire.Stderr:
			err = output(p.command.Stderr, payload)
		case wire.Credit:
			err = p.credit(payload)
		case wire.Exit:
			var m wire.ExitMessage
			err := m.Parse(payload)
			return Exit{int(m.Code), syscall.Signal(m.Signal)}, p.call.explain(err)
		default:
			err = p.call.explain(wire.Unexpected(k, payload))
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

func output(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

func (p *Process) credit(payload []byte) error {
	var m wire.CreditMessage
	if err := m.Parse(payload); err != nil {
		return p.call.explain(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if uint64(m.Bytes) > uint64(wire.Window-p.window) {
		return p.call.explain(fmt.Errorf("%w: the guest has taken more standard input than there was", wire.ErrFrame))
	}
	p.window += int(m.Bytes)
	p.credits.Signal()
	return nil
}

// finish ends the connection and the sending of input.
func (p *Process) finish() {
	p.call.done()
	p.mu.Lock()
	p.ended = true
	p.credits.Signal()
	p.mu.Unlock()
}

// input sends standard input until it ends. Errors of the connection are found by Wait.
func (p *Process) input() {
	b := make([]byte, wire.Chunk)
	for {
		n, err := p.command.Stdin.Read(b)
		for sent := 0; sent < n; {
			room := p.room(n - sent)
			if room == 0 || p.call.Send(wire.Stdin, b[sent:sent+room]) != nil {
				return
			}
			sent += room
		}
		if err != nil {
			p.call.Send(wire.StdinEnd, nil)
			return
		}
	}
}

// room waits until some of n bytes may be sent and takes that much from the window; 0 is the end.
func (p *Process) room(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.window == 0 && !p.ended {
		p.credits.Wait()
	}
	if p.ended {
		return 0
	}
	n = min(n, p.window)
	p.window -= n
	return n
}
