package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"path/filepath"
	"time"

	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/agent/wire"
)

// Port is where the agent listens in the guest; its Ready comes to the same port of the host.
const Port = wire.Port

// Client speaks to one guest's agent. Its methods may be called at the same time; each has a connection of its own.
type Client struct {
	dial func(port uint32) (net.Conn, error)
}

// New makes a Client that gets its connections from dial, which connects to a port of the guest.
func New(dial func(port uint32) (net.Conn, error)) *Client { return &Client{dial} }

// Info says who answers.
type Info = wire.InfoMessage

// Network is the configuration of the guest's first network interface.
type Network = wire.NetworkMessage

// Error is what the guest says has failed. errors.Is knows it as fs.ErrNotExist or fs.ErrPermission where it is one of these.
type Error = wire.ErrorMessage

// call is one connection. It is closed when the context ends, or by done.
type call struct {
	*wire.Conn
	conn net.Conn
	ctx  context.Context
	stop func() bool
}

// start connects and sends a request.
func (c *Client) start(ctx context.Context, k wire.Kind, m wire.Message) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := c.dial(wire.Port)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest's agent: %w", err)
	}
	l := &call{wire.NewConn(conn), conn, ctx, context.AfterFunc(ctx, func() { conn.Close() })}
	if err := l.Request(k, m); err != nil {
		l.done()
		return nil, l.explain(err)
	}
	return l, nil
}

func (l *call) done() {
	l.stop()
	l.conn.Close()
}

// explain makes of an error of the connection the context's, if that is what ended it.
func (l *call) explain(err error) error {
	var said *wire.ErrorMessage
	switch {
	case err == nil:
		return nil
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case errors.As(err, &said):
		return fmt.Errorf("guest: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the guest's agent closed the connection; is the guest still running?")
	default:
		return fmt.Errorf("guest's agent: %w", err)
	}
}

// await receives the frame of kind k that must come next.
func (l *call) await(k wire.Kind, m wire.Message) error {
	got, p, err := l.Receive()
	switch {
	case err != nil:
		return l.explain(err)
	case got != k:
		return l.explain(wire.Unexpected(got, p))
	case m != nil:
		return l.explain(m.Parse(p))
	case len(p) > 0:
		return l.explain(fmt.Errorf("%w: a frame of kind %d has a payload of %d bytes", wire.ErrFrame, k, len(p)))
	}
	return nil
}

// ask makes a request that has one frame as its answer.
func (c *Client) ask(ctx context.Context, k wire.Kind, m wire.Message, want wire.Kind, answer wire.Message) error {
	l, err := c.start(ctx, k, m)
	if err != nil {
		return err
	}
	defer l.done()
	return l.await(want, answer)
}

// Ping asks the agent who it is.
func (c *Client) Ping(ctx context.Context) (Info, error) {
	var m Info
	err := c.ask(ctx, wire.Ping, nil, wire.Info, &m)
	return m, err
}

// SyncTime sets the guest's wall clock to the host's.
func (c *Client) SyncTime(ctx context.Context) error {
	return c.ask(ctx, wire.SyncTime, &wire.TimeMessage{Unix: uint64(time.Now().UnixNano())}, wire.Done, nil)
}

// Reseed gives the guest's kernel new randomness and has it used at once: two guests that were one must not have the same.
func (c *Client) Reseed(ctx context.Context) error {
	var m wire.SeedMessage
	rand.Read(m.Seed[:]) // never fails
	return c.ask(ctx, wire.Reseed, &m, wire.Done, nil)
}

// Shutdown has the guest switch itself off, or reboot: its init does it, or the agent, which lets processes have grace to end,
// writes what is not written yet, and turns off. It returns when the guest has agreed.
func (c *Client) Shutdown(ctx context.Context, reboot bool, grace time.Duration) error {
	m := wire.ShutdownMessage{Reboot: reboot, Grace: uint32(max(0, min(grace.Milliseconds(), 1<<32-1)))}
	return c.ask(ctx, wire.Shutdown, &m, wire.Done, nil)
}

// Network configures the guest's first network interface. The zero value waits for the configuration that the kernel command
// line asks for, by default DHCP. The answer is what is in force; no Address means that there is no interface.
func (c *Client) Network(ctx context.Context, want Network) (Network, error) {
	var m Network
	err := c.ask(ctx, wire.Network, &want, wire.NetworkState, &m)
	return m, err
}

// CopyIn unpacks a tar stream in the guest's directory dir, which is made if need be, with the stream's owners and modes.
func (c *Client) CopyIn(ctx context.Context, dir string, stream io.Reader) error {
	l, err := c.start(ctx, wire.CopyIn, &wire.CopyMessage{Path: dir})
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() {
		answer <- l.await(wire.Done, nil)
		l.done() // ends the sending, if the guest wants no more
	}()
	from := &failing{r: stream}
	if _, err = io.Copy(l.Writer(wire.Data), from); err == nil {
		err = l.Send(wire.End, nil)
	}
	if from.err != nil {
		l.done()
		<-answer
		return from.err
	}
	if said := <-answer; said != nil || err == nil {
		return said
	}
	return l.explain(err)
}

// CopyOut writes the guest's file or directory as a tar stream, whose entries begin with tree.Base of its path. The bytes are
// the guest's: Download unpacks them with care.
func (c *Client) CopyOut(ctx context.Context, name string, stream io.Writer) error {
	l, err := c.start(ctx, wire.CopyOut, &wire.CopyMessage{Path: name})
	if err != nil {
		return err
	}
	defer l.done()
	from := &failing{r: l.Reader()}
	if _, err := io.Copy(stream, from); err != nil {
		if from.err == nil {
			return err // the writer's
		}
		return l.explain(err)
	}
	return nil
}

// failing remembers whether it was the reader that failed.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != io.EOF {
		f.err = err
	}
	return n, err
}

// Upload copies the host's file or directory into the guest, as guestPath. With owners, numeric owners are kept; else root owns
// it all.
func (c *Client) Upload(ctx context.Context, hostPath, guestPath string, owners bool) error {
	guestPath = path.Clean(guestPath)
	r, w := io.Pipe()
	defer r.Close()
	go func() { w.CloseWithError(tree.Pack(w, filepath.Clean(hostPath), path.Base(guestPath), owners)) }()
	return c.CopyIn(ctx, path.Dir(guestPath), r)
}

// Download copies the guest's file or directory to hostPath, whose directory is there already. Entries of other names, which
// nobody asked for, are refused. Of o only Limit and Skipped count: owners, devices and set-user-ID bits are never taken over.
func (c *Client) Download(ctx context.Context, guestPath, hostPath string, o tree.Options) error {
	o = tree.Options{Limit: o.Limit, Skipped: o.Skipped, Name: tree.Base(guestPath), As: filepath.Base(hostPath)}
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := tree.Unpack(r, filepath.Dir(hostPath), o)
		r.CloseWithError(err)
		unpacked <- err
	}()
	err := c.CopyOut(ctx, guestPath, w)
	w.CloseWithError(err)
	if u := <-unpacked; u != nil && !errors.Is(u, err) {
		return u
	}
	return err
}
