package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
	"github.com/qenex/qenex-kernel/internal/unixsock"
)

// Op is what a request asks for.
type Op string

// The requests. Each gets one Reply; OpExec and OpSignal on its connection are described there.
const (
	OpState  Op = "state"
	OpStart  Op = "start"
	OpSignal Op = "signal" // Signal, All, PID; on the connection of an exec, PID 0 is the program of that exec
	OpExec   Op = "exec"   // Exec and its three files; a second Reply with Exited comes when the program has ended, and the end of the connection kills it
	OpPIDs   Op = "ps"
	OpPause  Op = "pause"
	OpResume Op = "resume"
	OpSave   Op = "save" // into the one file that is passed; Stop
	OpStats  Op = "stats"
)

// Request is one message to a sandbox.
type Request struct {
	Op     Op               `json:"op"`
	Signal int              `json:"signal,omitempty"`
	All    bool             `json:"all,omitempty"`
	PID    int              `json:"pid,omitempty"`
	Stop   bool             `json:"stop,omitempty"`
	Exec   *sentry.ExecSpec `json:"exec,omitempty"`
}

// Reply is one message from a sandbox.
type Reply struct {
	Error     string           `json:"error,omitempty"`
	Code      int              `json:"code,omitempty"`   // of Error: what the process that asked is to exit with; 0: its own choice
	Status    string           `json:"status,omitempty"` // created, running, paused
	PID       int              `json:"pid,omitempty"`
	Exited    *sentry.Status   `json:"exited,omitempty"`
	Processes []sentry.Process `json:"processes,omitempty"`
	Stats     *sentry.Stats    `json:"stats,omitempty"`
}

// maxMessage bounds a message, in bytes. Arguments and environment of a program have to fit.
const maxMessage = 160 << 10

// maxFiles bounds the files passed with one message.
const maxFiles = 3

// Conn is one end of a control connection. One goroutine may read while another writes.
type Conn struct{ c *net.UnixConn }

// Listener takes control connections.
type Listener struct {
	l    *net.UnixListener
	euid uint32 // asked for once: a confined process may not
}

// Listen makes the container's control socket and returns it as a file, to be passed to the process that owns the sandbox.
func (c *Container) Listen() (*os.File, error) {
	path, release, err := unixsock.Short(c.dir, "control")
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("making the control socket of %s: %w", c.ID, err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}

// NewListener takes over what Listen returned.
func NewListener(f *os.File) (*Listener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("not a Unix socket")
	}
	return &Listener{u, uint32(os.Geteuid())}, nil
}

// Accept returns the next connection of a peer that may control the sandbox: root, or the user it runs as. Others are turned away.
func (l *Listener) Accept() (*Conn, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := unixsock.Peer(c); err != nil || uid != 0 && uid != l.euid {
			c.Close()
			continue
		}
		return &Conn{c}, nil
	}
}

// Close stops listening.
func (l *Listener) Close() error { return l.l.Close() }

// Dial connects to the sandbox of the container.
func (c *Container) Dial() (*Conn, error) {
	path, release, err := unixsock.Short(c.dir, "control")
	if err != nil {
		return nil, err
	}
	defer release()
	u, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("the sandbox of %s does not answer: %w", c.ID, err)
	}
	if uid, err := unixsock.Peer(u); err != nil || uid != 0 && uid != uint32(os.Geteuid()) {
		u.Close()
		return nil, fmt.Errorf("the control socket of %s belongs to user %d: %w", c.ID, uid, errors.Join(err, os.ErrPermission))
	}
	return &Conn{u}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends one message with files, which stay the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a control message of %d bytes is too long: %d are allowed; arguments and environment have to fit", len(b), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.c.WriteMsgUnix(b, oob, nil)
	return err
}

// Receive reads one message into v and returns the files that came with it, which the caller closes.
func (c *Conn) Receive(v any) ([]*os.File, error) {
	b, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	files, err := rights(oob[:oobn])
	if err == nil {
		err = decode(b[:n], flags, v)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return files, nil
}

func decode(b []byte, flags int, v any) error {
	if len(b) == 0 {
		return io.EOF
	}
	if len(b) > maxMessage || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return errors.New("a control message is too long")
	}
	return json.Unmarshal(b, v)
}

// rights takes the files out of a control buffer.
func rights(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // something else than files
		}
		for _, fd := range fds { // the net package asked for close-on-exec
			files = append(files, os.NewFile(uintptr(fd), "passed file"))
		}
	}
	return files, nil
}

// Call sends a request and waits for its reply; an error of the sandbox is a *RemoteError.
func (c *Conn) Call(r Request, files ...*os.File) (Reply, error) {
	var reply Reply
	if err := c.Send(r, files...); err != nil {
		return reply, fmt.Errorf("asking the sandbox (%s): %w", r.Op, err)
	}
	extra, err := c.Receive(&reply)
	for _, f := range extra {
		f.Close()
	}
	if err != nil {
		return reply, fmt.Errorf("the sandbox ended without an answer (%s): %w", r.Op, err)
	}
	if reply.Error != "" {
		return reply, &RemoteError{reply.Error, reply.Code}
	}
	return reply, nil
}

// RemoteError is what a sandbox answered.
type RemoteError struct {
	Text string
	Code int // for the process that asked to exit with; 0: its own choice
}

func (e *RemoteError) Error() string { return e.Text }
