package vsock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostDial connects a host program.
func hostDial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	u, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	u.SetDeadline(time.Now().Add(patience))
	return u
}

func TestHostConnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	g := newGuest(t, Config{Path: path})
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatal(info.Mode(), err)
	}
	u := hostDial(t, path)
	fmt.Fprint(u, "CONNECT 1024\nrequest")
	q := g.want(opRequest)
	p := &peer{g: g, src: 1024, dst: q.srcPort, alloc: 1 << 16}
	p.send(opResponse)
	if d := g.want(opData); string(d.payload) != "request" {
		t.Fatalf("%q", d.payload)
	}
	want := fmt.Sprintf("OK %d\n", q.srcPort)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(u, got); err != nil || string(got) != want {
		t.Fatal(string(got), err)
	}
	u.CloseWrite()
	if s := g.want(opShutdown); s.flags != shutSend {
		t.Fatalf("%+v", s.header)
	}
	p.send(opData, []byte("answer")...)
	p.shutdown(shutSend)
	if b, err := io.ReadAll(u); err != nil || string(b) != "answer" {
		t.Fatal(string(b), err)
	}
	// Both have ended.
	if s := g.want(opShutdown); s.flags != shutBoth {
		t.Fatalf("%+v", s.header)
	}
	p.send(opReset)
}

func TestHostIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	g := newGuest(t, Config{Path: path})
	for _, line := range []string{"CONNECT\n", "CONNECT x\n", "connect 5\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", "\n", strings.Repeat("A", 100)} {
		u := hostDial(t, path)
		io.WriteString(u, line)
		if b, err := io.ReadAll(u); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: answer %q, %v", line, b, err)
		}
	}
	u := hostDial(t, path)
	io.WriteString(u, "CONNECT 5\n")
	q := g.want(opRequest)
	(&peer{g: g, src: 5, dst: q.srcPort}).send(opReset)
	if b, err := io.ReadAll(u); len(b) > 0 || err != nil {
		t.Errorf("answer %q, %v", b, err)
	}
	g.quiet()
}

func TestGuestConnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	g := newGuest(t, Config{Path: path})
	p := &peer{g: g, src: 3, dst: 80, alloc: 1 << 20}
	p.send(opRequest)
	g.want(opReset)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path + "_80"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(patience))
	accept := func() *net.UnixConn {
		t.Helper()
		p.send(opRequest)
		g.want(opResponse)
		u, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		u.SetDeadline(time.Now().Add(patience))
		return u
	}
	u := accept()
	sent := bytes.Repeat([]byte("0123456789abcdef"), bufferSize/16/4) // leaves credit for what follows
	p.send(opData, sent...)
	p.send(opData, sent...)
	got := make([]byte, 2*len(sent))
	if _, err := io.ReadFull(u, got); err != nil || !bytes.Equal(got, append(sent, sent...)) {
		t.Fatal(err)
	}
	// The host program leaves: the guest hears of it, also when it writes.
	u.Close()
	for s := g.want2(opShutdown, opCreditUpdate); s.op != opShutdown; s = g.want2(opShutdown, opCreditUpdate) {
	}
	p.send(opData, 1)
	for s := g.want2(opShutdown, opCreditUpdate); s.op != opShutdown || s.flags != shutBoth; s = g.want2(opShutdown, opCreditUpdate) {
	}
	p.send(opReset)
	g.quiet()

	// The guest leaves: the host program reads to the end, and cannot write.
	u = accept()
	p.send(opData, []byte("bye")...)
	p.shutdown(shutBoth)
	g.want(opReset)
	if b, err := io.ReadAll(u); err != nil || string(b) != "bye" {
		t.Fatal(string(b), err)
	}
	if _, err := u.Write([]byte{1}); err == nil {
		t.Error("the host program can write to a guest that has left")
	}

	// The guest reads no more, and goes on to write.
	u = accept()
	p.shutdown(shutReceive)
	for err == nil {
		_, err = u.Write([]byte{1})
	}
	p.send(opData, []byte("still here")...)
	p.send(opReset)
	if b, err := io.ReadAll(u); err != nil || string(b) != "still here" {
		t.Fatal(string(b), err)
	}
}

// want2 is want of either operation.
func (g *guest) want2(a, b uint16) packet {
	g.t.Helper()
	select {
	case p := <-g.packets:
		if p.op != a && p.op != b {
			g.t.Fatalf("packet %+v, want operation %d or %d", p.header, a, b)
		}
		return p
	case <-time.After(patience):
		g.t.Fatalf("no packet in %v", patience)
		return packet{}
	}
}

func TestSocketPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v")
	if _, err := New(Config{CID: testCID, Path: filepath.Join(dir, strings.Repeat("x", 100))}); err == nil {
		t.Error("a path that is too long is taken")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{CID: testCID, Path: path}); err == nil {
		t.Error("a file is replaced")
	}
	os.Remove(path)
	// What a killed process leaves.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if _, err := New(Config{CID: testCID, Path: path}); err == nil {
		t.Error("a socket that somebody listens on is replaced")
	}
	l.Close()
	d, err := New(Config{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
