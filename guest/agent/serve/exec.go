package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// execution is a command that runs.
type execution struct {
	server *Server
	c      *wire.Conn
	stdio  stdio
	pid    int
	status <-chan syscall.WaitStatus
	input  *inbox
	lost   chan struct{} // closed when the host is gone, or has sent nonsense
}

// exec runs a command and sends what it writes and how it ends.
func (s *Server) exec(c *wire.Conn, stream io.Closer, m *wire.ExecMessage) error {
	x := &execution{server: s, c: c, input: newInbox(), lost: make(chan struct{})}
	if err := x.start(m); err != nil {
		return err
	}
	defer x.stdio.close()
	if err := c.SendMessage(wire.Started, &wire.StartedMessage{PID: uint32(x.pid)}); err != nil {
		s.Children.Signal(x.pid, syscall.SIGKILL)
		<-x.status
		return err
	}
	received := make(chan error, 1)
	go func() {
		defer close(x.lost)
		received <- protect(x.receive)
	}()
	var workers sync.WaitGroup
	if m.Stdin {
		workers.Go(func() { protect(x.feed) })
	}
	workers.Go(func() { protect(func() error { return x.pump(x.stdio.out, wire.Stdout) }) })
	if x.stdio.err != nil {
		workers.Go(func() { protect(func() error { return x.pump(x.stdio.err, wire.Stderr) }) })
	}
	status, ended := x.wait()
	x.input.close()
	x.stdio.interrupt()
	workers.Wait()
	if !ended {
		return <-received
	}
	err := c.SendMessage(wire.Exit, exit(status))
	stream.Close()
	<-received
	return err
}

// protect makes an error of a panic.
func protect(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("this is a bug in the agent: %v", p)
		}
	}()
	return f()
}

// exit is how a process ended, for the host.
func exit(s syscall.WaitStatus) *wire.ExitMessage {
	if s.Signaled() {
		return &wire.ExitMessage{Signal: uint8(s.Signal())}
	}
	return &wire.ExitMessage{Code: uint8(s.ExitStatus())}
}

// start starts the process.
func (x *execution) start(m *wire.ExecMessage) error {
	if len(m.Args) == 0 {
		return fmt.Errorf("%w: a command without a program", wire.ErrMessage)
	}
	if fault := x.server.System.Info().Fault; fault != "" {
		return fmt.Errorf("nothing can be run, for the guest is not complete: %s", fault)
	}
	who, err := x.server.lookup(m.User)
	if err != nil {
		return err
	}
	dir, err := workingDirectory(m, who)
	if err != nil {
		return err
	}
	env := x.server.environment(m, who)
	program, err := find(m.Args[0], dir, env)
	if err != nil {
		return err
	}
	files, err := x.stdio.open(m, who)
	if err != nil {
		return err
	}
	defer closeAll(files)
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: m.TTY, Credential: who.credential}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if x.pid, x.status, err = x.server.Children.Start(program, m.Args, attr); err != nil {
		x.stdio.close()
	}
	return err
}

// wait waits for the end of the process, or of the connection, with which the process is ended.
func (x *execution) wait() (status syscall.WaitStatus, ended bool) {
	select {
	case status = <-x.status:
		return status, true
	case <-x.lost:
	}
	x.server.Children.Signal(x.pid, syscall.SIGKILL)
	return <-x.status, false
}

// receive takes what the host sends while the process runs.
func (x *execution) receive() error {
	for {
		k, p, err := x.c.Receive()
		if err != nil {
			return errLost
		}
		switch k {
		case wire.Stdin:
			err = x.input.put(p)
		case wire.StdinEnd:
			x.input.end()
		case wire.Signal:
			var m wire.SignalMessage
			if err = m.Parse(p); err == nil {
				err = x.server.Children.Signal(x.pid, syscall.Signal(m.Number))
			}
		case wire.Resize:
			var m wire.Size
			if err = m.Parse(p); err == nil {
				err = x.stdio.resize(m)
			}
		default:
			err = wire.Unexpected(k, p)
		}
		if err != nil {
			return err
		}
	}
}

// feed gives the process its input.
func (x *execution) feed() error {
	for {
		b, end := x.input.take()
		for len(b) > 0 {
			part := b[:min(len(b), wire.Chunk)]
			b = b[len(part):]
			x.stdio.in.Write(part) // a process that wants no input is no error; the host is to be rid of it all the same
			if err := x.c.SendMessage(wire.Credit, &wire.CreditMessage{Bytes: uint32(len(part))}); err != nil {
				return err
			}
		}
		if end {
			return x.stdio.endInput()
		}
	}
}

// pump sends what the process writes, until it and all others have closed the other end, or the process has ended and all that
// is there has been read.
func (x *execution) pump(f *os.File, k wire.Kind) error {
	b := make([]byte, wire.Chunk)
	for {
		n, err := f.Read(b)
		if n > 0 {
			if err := x.c.Send(k, b[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return x.rest(f, k, b)
		case err != nil: // io.EOF, EIO of a terminal
			return nil
		}
	}
}

// mostRest is how much a pipe can hold: what comes after that is of processes that were left behind.
const mostRest = 1 << 20

// rest sends what is left in a pipe or terminal, without waiting for more.
func (x *execution) rest(f *os.File, k wire.Kind, b []byte) error {
	for total := 0; total < mostRest; {
		n := readNow(f, b)
		if n <= 0 {
			return nil
		}
		if err := x.c.Send(k, b[:n]); err != nil {
			return err
		}
		total += n
	}
	return nil
}
