package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a machine of a few variables.
type fake struct {
	mu      sync.Mutex
	state   string
	obeys   bool // powers off when asked
	balloon uint64
	asked   int
	done    chan struct{}
	killed  int
}

func newFake() *fake { return &fake{state: StateRunning, obeys: true, done: make(chan struct{})} }

func (f *fake) set(state string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == StateEnded {
		return errors.New("the machine has ended")
	}
	if f.state = state; state == StateEnded {
		close(f.done)
	}
	return nil
}

func (f *fake) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Status{State: f.state, Agent: "ready", Boots: 1}
}
func (f *fake) Pause(context.Context) error { return f.set(StatePaused) }
func (f *fake) Resume() error               { return f.set(StateRunning) }
func (f *fake) Shutdown(context.Context) error {
	f.mu.Lock()
	f.asked++
	obeys := f.obeys
	f.mu.Unlock()
	if obeys {
		return f.set(StateEnded)
	}
	return nil
}
func (f *fake) Kill() {
	f.mu.Lock()
	f.killed++
	f.mu.Unlock()
	_ = f.set(StateEnded)
}
func (f *fake) Done() <-chan struct{} { return f.done }

// Dial connects to a guest that says who it is and then repeats what it hears.
func (f *fake) Dial(_ context.Context, port uint32) (net.Conn, error) {
	if port == 0 {
		return nil, errors.New("connection refused")
	}
	l, err := net.Listen("unix", "")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, err
	}
	guest, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go func() {
		defer guest.Close()
		fmt.Fprintf(guest, "port %d\n", port)
		_, _ = io.Copy(guest, guest)
		_, _ = io.WriteString(guest, "end\n")
	}()
	return c, nil
}
func (f *fake) Guest(context.Context) (Guest, error) { return f, nil }
func (f *fake) Exec(ctx context.Context, c Command, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	switch c.Args[0] {
	case "cat":
		_, err := io.Copy(stdout, stdin)
		return 3, err
	case "flood":
		_, err := io.Copy(stderr, io.LimitReader(zeros{}, 5<<20))
		return 0, err
	case "hang":
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 0, errors.New("no such program")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func (f *fake) CopyIn(_ context.Context, dir string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && (dir != "/in" || string(b) != "archive") {
		err = fmt.Errorf("%s %q", dir, b)
	}
	return err
}
func (f *fake) CopyOut(_ context.Context, path string, w io.Writer) error {
	if path != "/out" {
		return errors.New("no such file")
	}
	_, err := io.WriteString(w, "archive")
	return err
}
func (f *fake) Balloon() (Balloon, error) { return Balloon{Target: f.balloon, Actual: f.balloon}, nil }
func (f *fake) SetBalloon(n uint64) error { f.balloon = n; return nil }
func (f *fake) Metrics() []Metric {
	return []Metric{{"exits_total", "Exits.", Counter, [][2]string{{"reason", "a\"b"}}, 2}, {"exits_total", "Exits.", Counter, nil, 0.5}, {"up", "Up.", Gauge, nil, 1}}
}

// bench is a registry with one served machine.
type bench struct {
	r       *Registry
	vm      *VM
	m       *fake
	console *Console
	log     *Log
	server  *Server
}

func newBench(t testing.TB) *bench {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), strings.Repeat("long", 40))) // longer than a socket's address
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{r: r, m: newFake()}
	if b.vm, err = r.Create(Spec{Name: "web", Created: time.Now(), Kernel: "/k", CPUs: 1, Memory: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if b.log, err = NewLog(b.vm.Path(consoleFile), LogLimit); err != nil {
		t.Fatal(err)
	}
	b.console = NewConsole(nil, b.log)
	if b.server, err = NewServer(b.vm, b.m, b.console, b.log, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.console.Close()
		if err := b.log.Close(); err != nil {
			t.Error(err)
		}
		b.server.Close()
	})
	return b
}
