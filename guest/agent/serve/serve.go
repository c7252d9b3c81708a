// Package serve is what the agent in a guest does for its host: it answers one stream of package wire at a time, each with a
// command, a copy, or something for the system.
//
// It runs as root inside a guest and does what the host says; nothing is kept from the host. It knows no vsock and nothing of
// how the guest came up, so that the same code runs in tests on any Linux.
package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/agent/wire"
)

// System is what the guest as a whole can do.
type System interface {
	Info() wire.InfoMessage
	SetTime(time.Time) error
	Reseed(seed []byte) error
	Network(want wire.NetworkMessage) (wire.NetworkMessage, error) // see wire.NetworkMessage
	Shutdown(reboot bool, grace time.Duration)                     // begins it
}

// Server answers requests. Its fields are set before the first one, and not changed.
type Server struct {
	System   System
	Children *Children
	Etc      string   // directory of passwd and group
	Env      []string // NAME=VALUE for every command
}

// Handle answers the request of one stream and closes it. It never panics.
func (s *Server) Handle(stream io.ReadWriteCloser) {
	defer stream.Close()
	c := wire.NewConn(stream)
	if err := s.protected(c, stream); err != nil {
		c.SendMessage(wire.Error, wire.NewError(err)) // the host may be gone
		drain(c)
	}
}

// drain takes what the host still sends, until it closes: it is to find our last word, not a broken connection.
func drain(c *wire.Conn) {
	for {
		if _, _, err := c.Receive(); err != nil {
			return
		}
	}
}

// protected makes an error of a panic: the end of the agent would be the end of the guest.
func (s *Server) protected(c *wire.Conn, stream io.Closer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("this is a bug in the agent: %v", p)
		}
	}()
	k, p, err := c.Receive()
	if err != nil {
		return err
	}
	if len(p) == 0 || p[0] != wire.Version {
		return fmt.Errorf("%w: the guest's agent speaks version %d; use an initramfs of the same QENEX", wire.ErrFrame, wire.Version)
	}
	return s.request(c, stream, k, p[1:])
}

func (s *Server) request(c *wire.Conn, stream io.Closer, k wire.Kind, p []byte) error {
	switch k {
	case wire.Ping:
		m := s.System.Info()
		return c.SendMessage(wire.Info, &m)
	case wire.Exec:
		var m wire.ExecMessage
		if err := m.Parse(p); err != nil {
			return err
		}
		return s.exec(c, stream, &m)
	case wire.CopyIn:
		var m wire.CopyMessage
		if err := m.Parse(p); err != nil {
			return err
		}
		return copyIn(c, m.Path)
	case wire.CopyOut:
		var m wire.CopyMessage
		if err := m.Parse(p); err != nil {
			return err
		}
		return copyOut(c, m.Path)
	default:
		return s.system(c, k, p)
	}
}

// system answers the requests that are about the guest as a whole.
func (s *Server) system(c *wire.Conn, k wire.Kind, p []byte) error {
	var err error
	switch k {
	case wire.SyncTime:
		var m wire.TimeMessage
		if err = m.Parse(p); err == nil {
			err = s.System.SetTime(time.Unix(0, int64(m.Unix)))
		}
	case wire.Reseed:
		var m wire.SeedMessage
		if err = m.Parse(p); err == nil {
			err = s.System.Reseed(m.Seed[:])
		}
	case wire.Shutdown:
		var m wire.ShutdownMessage
		if err = m.Parse(p); err == nil {
			c.Send(wire.Done, nil)
			drain(c) // the host closes when it has the answer
			s.System.Shutdown(m.Reboot, time.Duration(m.Grace)*time.Millisecond)
			return nil
		}
	case wire.Network:
		var m wire.NetworkMessage
		if err = m.Parse(p); err == nil {
			m, err = s.System.Network(m)
		}
		if err == nil {
			return c.SendMessage(wire.NetworkState, &m)
		}
	default:
		err = fmt.Errorf("%w: unknown request %d", wire.ErrFrame, k)
	}
	if err != nil {
		return err
	}
	return c.Send(wire.Done, nil)
}

// copyIn unpacks the stream's tree into dir.
func copyIn(c *wire.Conn, dir string) error {
	if !path.IsAbs(dir) {
		return fmt.Errorf("copy to %q: the path in the guest must begin with /", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := tree.Unpack(c.Reader(), dir, tree.Options{Trusted: true}); err != nil {
		return err
	}
	return c.Send(wire.Done, nil)
}

// copyOut sends the tree at name.
func copyOut(c *wire.Conn, name string) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("copy from %q: the path in the guest must begin with /", name)
	}
	if err := tree.Pack(c.Writer(wire.Data), path.Clean(name), tree.Base(name), true); err != nil {
		return err
	}
	return c.Send(wire.End, nil)
}

// errLost is why a command whose host has gone away is killed.
var errLost = errors.New("the connection to the host is lost")
