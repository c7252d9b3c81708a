package container

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
	"github.com/qenex/qenex-kernel/internal/process"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "web-1_2+3.4", strings.Repeat("x", 255)} {
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", ".", "..", ".hidden", "a/b", "a b", "a\x00", "ä", strings.Repeat("x", 256)} {
		if err := CheckID(id); !errors.Is(err, ErrBadID) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestStore(t *testing.T) {
	s, err := OpenStore(filepath.Join(t.TempDir(), strings.Repeat("long", 60), "root")) // longer than a socket address
	if err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("a store that was never used lists %v, %v", list, err)
	}
	if _, err := s.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get before Create: %v", err)
	}
	c, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create("a"); !errors.Is(err, ErrExists) {
		t.Errorf("a second Create: %v", err)
	}
	if _, err := c.State(); err == nil {
		t.Error("a state before one was written")
	}
	self, err := process.Self()
	if err != nil {
		t.Fatal(err)
	}
	want := State{ID: "a", Pid: self.PID, Birth: self.Birth, Bundle: "/b", Annotations: map[string]string{"k": "v"}}
	if err := c.SetState(want); err != nil {
		t.Fatal(err)
	}
	got, err := c.State()
	if err != nil || got.Bundle != "/b" || got.Annotations["k"] != "v" || !got.Alive() {
		t.Errorf("%+v, %v", got, err)
	}
	got.Birth++
	if got.Alive() {
		t.Error("another process with the same PID counts as alive")
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].ID != "a" {
		t.Errorf("list %v, %v", list, err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get after Remove: %v", err)
	}
	if _, err := c.Lock(); !errors.Is(err, ErrNotFound) {
		t.Errorf("Lock after Remove: %v", err)
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := State{ID: "z", Pid: id.PID, Birth: id.Birth}
	if !s.Alive() {
		t.Error("a running process is not alive")
	}
	in.Close()
	if _, err := io.ReadAll(out); err != nil { // its end: the process is a zombie, or about to be
		t.Fatal(err)
	}
	for s.Alive() {
		// between closing its files and being a zombie
	}
	if err := cmd.Wait(); err == nil || s.Alive() {
		t.Errorf("alive %v after %v", s.Alive(), err)
	}
}

func TestLock(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	var inside atomic.Int32
	done := make(chan struct{})
	for range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			unlock, err := c.Lock()
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			inside.Add(-1)
		}()
	}
	for range 8 {
		<-done
	}
}

// pair returns a listening container and the connection to it.
func pair(t *testing.T) (client, server *Conn) {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), strings.Repeat("long", 60)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial(); err == nil {
		t.Error("connected to nobody")
	}
	f, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if client, err = c.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func TestControl(t *testing.T) {
	client, server := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		var req Request
		files, err := server.Receive(&req)
		if err == nil && (req.Op != OpExec || req.Exec.Args[0] != "x" || len(files) != 1) {
			err = errors.New("not what was sent")
		}
		if err == nil {
			_, err = files[0].WriteString("through the passed file")
		}
		for _, f := range files {
			f.Close()
		}
		done <- errors.Join(err, server.Send(Reply{Error: "no", Code: 126}))
	}()
	_, err = client.Call(Request{Op: OpExec, Exec: &sentry.ExecSpec{Args: []string{"x"}}}, w)
	w.Close()
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Code != 126 || remote.Text != "no" {
		t.Errorf("reply %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "through the passed file" {
		t.Errorf("%q, %v", b, err)
	}
	if err := client.Send(Request{Exec: &sentry.ExecSpec{Env: []string{strings.Repeat("x", maxMessage)}}}); err == nil {
		t.Error("a message that is too long was sent")
	}
	client.Close()
	if _, err := server.Receive(&Request{}); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestStrangeMessages sends what no client of ours would.
func TestStrangeMessages(t *testing.T) {
	client, server := pair(t)
	for _, m := range []string{"{", "[]", `{"op":7}`, strings.Repeat(" ", maxMessage+1), "\x00"} {
		if _, err := client.c.Write([]byte(m)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Receive(&Request{}); err == nil {
			t.Errorf("%.20q was understood", m)
		}
	}
	// More files than a request may have: none may stay open.
	before := openFiles(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Send(Request{Op: OpState}, f, f, f, f, f, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := server.Receive(&Request{}); err == nil {
		t.Error("six files were taken")
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"op":"exec","exec":{"Args":["x"],"Files":[{},null,{}]}}`))
	f.Add([]byte(`{"error":"x","exited":{"Code":1,"Signal":9}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req Request
		var reply Reply
		for _, v := range []any{&req, &reply} {
			if err := decode(b, 0, v); err == nil && len(b) == 0 {
				t.Error("nothing was understood")
			}
			if err := decode(b, syscall.MSG_TRUNC, v); err == nil {
				t.Error("half a message was understood")
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"id":"a","pid":1,"birth":2}`))
	f.Add([]byte(`{"id":"b","pid":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseState(b, "a"); err == nil && (s.ID != "a" || s.Pid <= 0) {
			t.Errorf("%+v", s)
		}
	})
}
