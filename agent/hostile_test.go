package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/agent/wire"
	"github.com/qenex/qenex-kernel/guest/agent/serve"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// recording is a connection to a guest that says what was recorded, whatever it is asked, and closes.
type recording struct {
	io.Reader
	net.Conn
}

func (r recording) Read(p []byte) (int, error)     { return r.Reader.Read(p) }
func (recording) Write(p []byte) (int, error)      { return len(p), nil }
func (recording) Close() error                     { return nil }
func (recording) SetDeadline(time.Time) error      { return nil }
func (recording) SetReadDeadline(time.Time) error  { return nil }
func (recording) SetWriteDeadline(time.Time) error { return nil }

func replay(r io.Reader) *agent.Client {
	return agent.New(func(uint32) (net.Conn, error) { return recording{Reader: r}, nil })
}

// frames are frames as a guest would send them: kind, payload, kind, payload.
func frames(list ...any) *bytes.Buffer {
	b := new(bytes.Buffer)
	c := wire.NewConn(struct {
		io.Reader
		io.Writer
	}{nil, b})
	for i := 0; i < len(list); i += 2 {
		switch p := list[i+1].(type) {
		case string:
			c.Send(list[i].(wire.Kind), []byte(p))
		case wire.Message:
			c.SendMessage(list[i].(wire.Kind), p)
		}
	}
	return b
}

// TestHostileGuest: a guest that lies is found out, with an error that says so.
func TestHostileGuest(t *testing.T) {
	started := &wire.StartedMessage{PID: 5}
	exec := func(ctx context.Context, c *agent.Client) error {
		_, err := c.Exec(ctx, agent.Command{Args: []string{"x"}, Stdin: strings.NewReader("abc")})
		return err
	}
	ping := func(ctx context.Context, c *agent.Client) error { _, err := c.Ping(ctx); return err }
	copyOut := func(ctx context.Context, c *agent.Client) error { return c.CopyOut(ctx, "/x", io.Discard) }
	copyIn := func(ctx context.Context, c *agent.Client) error { return c.CopyIn(ctx, "/x", strings.NewReader("abc")) }
	for _, tt := range []struct {
		name string
		do   func(context.Context, *agent.Client) error
		says io.Reader
		want string
	}{
		{"nothing", ping, frames(), "closed the connection"},
		{"half a header", ping, strings.NewReader("ab"), "closed the connection"},
		{"another answer", ping, frames(wire.Done, ""), "does not belong here"},
		{"a short answer", ping, frames(wire.Info, "a"), "bad payload of Info"},
		{"a frame of 4 GiB", ping, strings.NewReader("\xff\xff\xff\xff\x42"), "at most 262144"},
		{"an error of another kind", ping, frames(wire.Error, "\x09"), "bad payload of Error"},
		{"not started", exec, frames(wire.Exit, &wire.ExitMessage{}), "does not belong here"},
		{"no end", exec, frames(wire.Started, started, wire.Stdout, "abc"), "closed the connection"},
		{"a second start", exec, frames(wire.Started, started, wire.Started, started), "does not belong here"},
		{"credit for nothing", exec, frames(wire.Started, started, wire.Credit, &wire.CreditMessage{Bytes: 1 << 31}), "more standard input than there was"},
		{"an exit by everything", exec, frames(wire.Started, started, wire.Exit, "\x01\x01"), "bad payload of Exit"},
		{"an error as the end", exec, frames(wire.Started, started, wire.Error, &wire.ErrorMessage{Code: wire.Failed, Text: "no\x1bpe"}), "no?pe"},
		{"a stream without an end", copyOut, frames(wire.Data, "abc"), "closed the connection"},
		{"a stream of something else", copyOut, frames(wire.Data, "abc", wire.Stdout, "x"), "does not belong here"},
		{"done with more", copyIn, frames(wire.Done, "more"), "has a payload of 4 bytes"},
		{"no word", copyIn, frames(), "closed the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kvmtest.NoLeaks(t)
			if err := tt.do(t.Context(), replay(tt.says)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; it should say %q", err, tt.want)
			}
		})
	}
}

// TestSilentGuest: a guest that never answers is ended by the context.
func TestSilentGuest(t *testing.T) {
	kvmtest.NoLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	c := agent.New(func(uint32) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			wire.NewConn(theirs).Receive()
			close(asked)
			io.Copy(io.Discard, theirs)
		}()
		return ours, nil
	})
	go func() {
		<-asked
		cancel()
	}()
	if _, err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// endless is a guest that sends output, or a file, for ever.
type endless struct{ frame, left []byte }

func newEndless() *endless {
	return &endless{frame: frames(wire.Data, strings.Repeat("\x00x", wire.Chunk/2)).Bytes()}
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.left) == 0 {
		e.left = e.frame
	}
	n := copy(p, e.left)
	e.left = e.left[n:]
	return n, nil
}

// TestEndlessDownload: the limit holds whatever a guest sends, and no memory is taken for what it sends.
func TestEndlessDownload(t *testing.T) {
	kvmtest.NoLeaks(t)
	var b bytes.Buffer
	header := make([]byte, 512)
	copy(header, "x")
	copy(header[100:], "0000644\x000000000\x000000000\x00"+"77777777777\x0000000000000\x00")
	copy(header[148:], "        ")
	header[156] = '0'
	copy(header[257:], "ustar\x0000")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	b.Write(header)
	dir := t.TempDir()
	stream := io.MultiReader(frames(wire.Data, b.String()), newEndless())
	if err := replay(stream).Download(t.Context(), "/x", filepath.Join(dir, "x"), tree.Options{Limit: 1 << 20}); !errors.Is(err, tree.ErrLimit) {
		t.Errorf("8 GiB with a limit of 1 MiB: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := replay(newEndless()).CopyOut(ctx, "/x", &counter{left: 64 << 20})
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, errEnough) || grown > 8<<20 {
		t.Errorf("64 MiB took %d bytes of memory, %v", grown, err)
	}
}

var errEnough = errors.New("enough")

type counter struct{ left int }

func (c *counter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, errEnough
	}
	return len(p), nil
}

// TestReady: what is no Ready is passed over.
func TestReady(t *testing.T) {
	kvmtest.NoLeaks(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for _, say := range []*bytes.Buffer{frames(), bytes.NewBufferString("junk"), frames(wire.Ready, ""), frames(wire.Ready, "\x63"), frames(wire.Done, "")} {
			if c, err := net.Dial("unix", l.Addr().String()); err == nil {
				c.Write(say.Bytes())
				c.Close()
			}
		}
		if c, err := net.Dial("unix", l.Addr().String()); err == nil {
			wire.NewConn(c).Request(wire.Ready, &wire.InfoMessage{Kernel: "6.1"})
			c.Close()
		}
	})
	if m, err := agent.Ready(t.Context(), l); err != nil || m.Kernel != "6.1" {
		t.Errorf("%+v, %v", m, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := agent.Ready(ctx, l); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}

// FuzzClient: whatever a guest answers to anything, the client returns, and writes nowhere but where it was told.
func FuzzClient(f *testing.F) {
	started := &wire.StartedMessage{PID: 5}
	f.Add(frames(wire.Info, &wire.InfoMessage{Kernel: "6.1"}).Bytes())
	f.Add(frames(wire.Started, started, wire.Stdout, "abc", wire.Credit, &wire.CreditMessage{Bytes: 3}, wire.Exit, &wire.ExitMessage{Code: 1}).Bytes())
	f.Add(frames(wire.Data, strings.Repeat("\x00", 1024), wire.End, "").Bytes())
	f.Add(frames(wire.Error, &wire.ErrorMessage{Code: wire.NotFound, Text: "no"}).Bytes())
	f.Add(frames(wire.NetworkState, &wire.NetworkMessage{Address: "x"}).Bytes())
	f.Add(frames(wire.Done, "").Bytes())
	f.Fuzz(func(t *testing.T, says []byte) {
		c := func() *agent.Client { return replay(bytes.NewReader(says)) }
		ctx := t.Context()
		c().Ping(ctx)
		c().SyncTime(ctx)
		c().Network(ctx, agent.Network{})
		c().CopyIn(ctx, "/x", strings.NewReader("abc"))
		c().Exec(ctx, agent.Command{Args: []string{"x"}, Stdin: strings.NewReader("abc"), Stdout: io.Discard})
		outer := t.TempDir()
		if err := os.Mkdir(filepath.Join(outer, "in"), 0o755); err != nil {
			t.Fatal(err)
		}
		c().Download(ctx, "/x", filepath.Join(outer, "in", "y"), tree.Options{Limit: 1 << 20})
		if names, _ := filepath.Glob(outer + "/in/*"); len(names) > 1 || len(names) == 1 && filepath.Base(names[0]) != "y" {
			t.Errorf("written: %q", names)
		}
		if names, _ := filepath.Glob(outer + "/*"); len(names) != 1 {
			t.Errorf("written outside: %q", names)
		}
	})
}

// FuzzServer: whatever follows a request, the server comes to an end when the host has closed, and no command is left running.
func FuzzServer(f *testing.F) {
	f.Add(byte(wire.Exec), true, frames(wire.Stdin, "abc", wire.StdinEnd, "").Bytes())
	f.Add(byte(wire.Exec), false, frames(wire.Stdin, "abc", wire.Signal, "\x0f", wire.Resize, "\x01\x00\x02\x00").Bytes())
	f.Add(byte(wire.CopyIn), false, frames(wire.Data, strings.Repeat("\x00", 1024), wire.End, "").Bytes())
	f.Add(byte(wire.CopyOut), false, []byte{})
	f.Add(byte(wire.Ping), false, []byte("x"))
	f.Add(byte(wire.Network), false, []byte{})
	f.Add(byte(99), false, []byte{})
	f.Fuzz(func(t *testing.T, kind byte, tty bool, rest []byte) {
		dir := t.TempDir()
		m := map[wire.Kind]wire.Message{ // paths and programs are not the fuzzer's to choose: this is the host
			wire.Exec:   &wire.ExecMessage{Args: []string{"cat"}, Stdin: true, TTY: tty},
			wire.CopyIn: &wire.CopyMessage{Path: filepath.Join(dir, "in")}, wire.CopyOut: &wire.CopyMessage{Path: dir},
			wire.SyncTime: &wire.TimeMessage{}, wire.Reseed: &wire.SeedMessage{}, wire.Shutdown: &wire.ShutdownMessage{},
			wire.Network: &wire.NetworkMessage{},
		}[wire.Kind(kind)]
		server := &serve.Server{System: &system{}, Children: &children, Etc: dir}
		ours, theirs := net.Pipe()
		var both sync.WaitGroup
		both.Go(func() { server.Handle(theirs) })
		both.Go(func() { io.Copy(io.Discard, ours) })
		wire.NewConn(ours).Request(wire.Kind(kind), m)
		ours.Write(rest)
		ours.Close()
		both.Wait()
		if names, _ := filepath.Glob(dir + "/*"); len(names) > 1 || len(names) == 1 && filepath.Base(names[0]) != "in" {
			t.Errorf("written: %q", names)
		}
	})
}
