package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/agent/wire"
	"github.com/qenex/qenex-kernel/guest/agent/serve"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// children are all children of the test process: tests start none in any other way.
var children serve.Children

func TestMain(m *testing.M) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			children.Reap()
		}
	}()
	os.Exit(m.Run())
}

// system records what it is asked for.
type system struct {
	serving sync.WaitGroup // connections

	mu   sync.Mutex // below
	did  []string
	fail error
}

func (s *system) do(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, fmt.Sprintf(format, args...))
	return s.fail
}

func (s *system) Info() wire.InfoMessage {
	return wire.InfoMessage{Version: wire.Version, PID: 7, Kernel: "6.1", Uptime: 9}
}
func (s *system) SetTime(t time.Time) error { return s.do("time %d", t.Year()) }
func (s *system) Reseed(b []byte) error {
	return s.do("seed %d %t", len(b), bytes.Equal(b, make([]byte, len(b))))
}
func (s *system) Shutdown(reboot bool, grace time.Duration) { s.do("shutdown %t %v", reboot, grace) }
func (s *system) Network(m wire.NetworkMessage) (wire.NetworkMessage, error) {
	m.DNS = "10.0.2.3"
	return m, s.do("network %s %s", m.Address, m.Gateway)
}

// newClient is a client of a server in this process. Each call has a pipe of its own, served to its end before the test ends.
func newClient(t testing.TB) (*agent.Client, *system) {
	kvmtest.NoLeaks(t)
	sys := &system{}
	etc := t.TempDir()
	write(t, filepath.Join(etc, "passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:"+etc+":/bin/sh\n", 0o644)
	write(t, filepath.Join(etc, "group"), "root:x:0:\nann:x:1001:\naudio:x:29:bob,ann\ndisk:x:6:ann\n", 0o644)
	server := &serve.Server{System: sys, Children: &children, Etc: etc, Env: []string{"HINT=yes"}}
	t.Cleanup(sys.serving.Wait)
	return agent.New(func(port uint32) (net.Conn, error) {
		if port != agent.Port {
			return nil, fmt.Errorf("port %d", port)
		}
		ours, theirs := net.Pipe()
		sys.serving.Go(func() { server.Handle(theirs) })
		return ours, nil
	}), sys
}

func write(t testing.TB, name, content string, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, perm); err != nil {
		t.Fatal(err)
	}
}

// run runs a command and returns everything it says.
func run(t *testing.T, c *agent.Client, cmd agent.Command) (status int, stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, err = c.Exec(ctx, cmd)
	return status, out.String(), errs.String(), err
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestExec(t *testing.T) {
	c, _ := newClient(t)
	here := t.TempDir()
	for _, tt := range []struct {
		name           string
		cmd            agent.Command
		status         int
		stdout, stderr string
	}{
		{"true", agent.Command{Args: []string{"true"}}, 0, "", ""},
		{"exit code", agent.Command{Args: sh("exit 7")}, 7, "", ""},
		{"killed", agent.Command{Args: sh("kill -TERM $$")}, 128 + 15, "", ""},
		{"both outputs", agent.Command{Args: sh("echo out; echo err >&2")}, 0, "out\n", "err\n"},
		{"no input is an end", agent.Command{Args: []string{"cat"}}, 0, "", ""},
		{"input", agent.Command{Args: []string{"cat"}, Stdin: strings.NewReader("hello")}, 0, "hello", ""},
		{"empty input", agent.Command{Args: []string{"cat"}, Stdin: strings.NewReader("")}, 0, "", ""},
		{"input that nobody reads", agent.Command{Args: sh("exec <&-; exit 3"), Stdin: io.LimitReader(zeroes{}, 4<<20)}, 3, "", ""},
		{"directory", agent.Command{Args: []string{"pwd"}, Dir: here}, 0, here + "\n", ""},
		{"environment", agent.Command{Args: sh("echo $A $HINT $PATH"), Env: []string{"A=b", "PATH=/bin", "A=c"}}, 0, "c yes /bin\n", ""},
		{"relative program", agent.Command{Args: []string{"./sh", "-c", "echo $0"}, Dir: "/bin"}, 0, "./sh\n", ""},
		{"own session", agent.Command{Args: sh(`set -- $(cat /proc/$$/stat); test $$ = $5 && test $$ = $6`)}, 0, "", ""},
		{"left behind", agent.Command{Args: sh("sleep 1000 & echo $! ; kill -0 $!")}, 0, "*", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr, err := run(t, c, tt.cmd)
			if err != nil || status != tt.status || stderr != tt.stderr {
				t.Fatalf("status %d, stderr %q, error %v; want %d, %q", status, stderr, err, tt.status, tt.stderr)
			}
			if tt.stdout == "*" {
				var pid int
				if _, err := fmt.Sscan(stdout, &pid); err != nil {
					t.Fatal(err)
				}
				syscall.Kill(pid, syscall.SIGKILL)
			} else if stdout != tt.stdout {
				t.Fatalf("stdout %q, want %q", stdout, tt.stdout)
			}
		})
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestExecRefused(t *testing.T) {
	c, _ := newClient(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), "#!/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "lost"), "#!/no/such/interpreter\n", 0o755)
	for _, tt := range []struct {
		name string
		cmd  agent.Command
		is   error
		says string
	}{
		{"no program", agent.Command{Args: []string{"no-such-program"}}, fs.ErrNotExist, "no-such-program"},
		{"no interpreter", agent.Command{Args: []string{filepath.Join(dir, "lost")}}, fs.ErrNotExist, "lost"},
		{"not executable", agent.Command{Args: []string{filepath.Join(dir, "data")}}, fs.ErrPermission, "data"},
		{"not executable in PATH", agent.Command{Args: []string{"data"}, Env: []string{"PATH=" + dir}}, fs.ErrPermission, "data"},
		{"no directory", agent.Command{Args: []string{"true"}, Dir: "/no/such"}, nil, "working directory"},
		{"a file as directory", agent.Command{Args: []string{"true"}, Dir: "/etc/passwd"}, nil, "not a directory"},
		{"nothing", agent.Command{}, nil, "without a program"},
		{"NUL", agent.Command{Args: []string{"true", "a\x00b"}}, nil, "invalid argument"},
		{"no user", agent.Command{Args: []string{"true"}, User: "eve"}, nil, `"eve"`},
		{"no group", agent.Command{Args: []string{"true"}, User: "ann:none"}, nil, `"none"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, _, err := run(t, c, tt.cmd)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v; it should say %q", err, tt.says)
			}
			for _, is := range []error{fs.ErrNotExist, fs.ErrPermission} {
				if errors.Is(err, is) != (tt.is == is) {
					t.Errorf("%v is %v: %t", err, is, tt.is != is)
				}
			}
		})
	}
}

func TestExecAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: only root can run commands as others")
	}
	c, _ := newClient(t)
	for user, want := range map[string]string{
		"":             "0 0",
		"root":         "0 0 0",
		"ann":          "1000 1001 1001 29 6",
		"1000":         "1000 1001 1001 29 6",
		"ann:audio":    "1000 29 29",
		"4711":         "4711 0 0",
		"4711:4712":    "4711 4712 4712",
		"1000:1001":    "1000 1001 1001",
		"ann:disk":     "1000 6 6",
		"root:ann":     "0 1001 1001",
		"root:nobody1": "",
	} {
		_, out, _, err := run(t, c, agent.Command{Args: sh(`echo $(id -u) $(id -g) $(id -G)`), User: user, Dir: "/"})
		if want == "" {
			if err == nil {
				t.Errorf("%q: no error", user)
			}
			continue
		}
		if got := strings.TrimSpace(out); err != nil || !strings.HasPrefix(sorted(got), sorted(want)) {
			t.Errorf("%q is %q, %v; want %q", user, got, err, want)
		}
	}
}

// sorted is user and group, and the groups in the order of their numbers, as id may print them in any.
func sorted(ids string) string {
	f := strings.Fields(ids)
	if len(f) < 3 {
		return ids
	}
	seen := map[string]bool{}
	for _, g := range f[2:] {
		seen[g] = true
	}
	s := f[0] + " " + f[1]
	for n := range 5000 {
		if seen[fmt.Sprint(n)] {
			s += fmt.Sprint(" ", n)
		}
	}
	return s
}

// TestExecLargeOutput: neither the end of a command nor a slow reader loses a byte.
func TestExecLargeOutput(t *testing.T) {
	c, _ := newClient(t)
	status, out, errs, err := run(t, c, agent.Command{Args: sh("head -c 5000000 /dev/zero; head -c 70000 /dev/zero >&2")})
	if err != nil || status != 0 || len(out) != 5000000 || len(errs) != 70000 {
		t.Fatalf("status %d, %d and %d bytes, %v", status, len(out), len(errs), err)
	}
	in := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	status, out, _, err = run(t, c, agent.Command{Args: []string{"cat"}, Stdin: bytes.NewReader(in)})
	if err != nil || status != 0 || out != string(in) {
		t.Fatalf("status %d, %d bytes through cat, %v", status, len(out), err)
	}
}

// TestExecSignals: a signal reaches a process that reads no input although more input waits than there is room for.
func TestExecSignals(t *testing.T) {
	c, _ := newClient(t)
	out := newLines()
	p, err := c.Start(t.Context(), agent.Command{
		Args:   sh(`trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.01; done`),
		Stdin:  io.LimitReader(zeroes{}, 8<<20),
		Stdout: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		out.await("ready\n")
		p.Signal(syscall.SIGUSR1)
	}()
	if exit, err := p.Wait(); err != nil || exit != (agent.Exit{Code: 5}) {
		t.Fatalf("%+v, %v", exit, err)
	}
	out.await("got it\n")
}

// lines is output that can be waited for.
type lines struct {
	mu      sync.Mutex
	changed *sync.Cond
	b       bytes.Buffer
}

func newLines() *lines {
	l := &lines{}
	l.changed = sync.NewCond(&l.mu)
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed.Broadcast()
	return l.b.Write(p)
}

func (l *lines) await(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.b.String(), text) {
		l.changed.Wait()
	}
}

// TestExecCancelled: the end of the context is the end of the command, and of all of its group.
func TestExecCancelled(t *testing.T) {
	c, _ := newClient(t)
	out := newLines()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := c.Start(ctx, agent.Command{Args: sh("sleep 1000 & echo ready; wait"), Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		out.await("ready\n")
		cancel()
	}()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	for syscall.Kill(-p.PID, 0) == nil { // the server is done only when the command has ended; the test's limit is the limit
		time.Sleep(time.Millisecond)
	}
}

func TestExecTerminal(t *testing.T) {
	c, _ := newClient(t)
	out := newLines()
	p, err := c.Start(t.Context(), agent.Command{
		Args: sh(`trap 'stty size; exit 4' WINCH; test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; echo ready; while :; do sleep 0.01; done`),
		TTY:  true, Size: agent.Size{Rows: 11, Columns: 22}, Stdout: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		out.await("11 22\r\nxterm\r\nready\r\n")
		p.Resize(agent.Size{Rows: 33, Columns: 44})
	}()
	exit, err := p.Wait()
	if err != nil || exit.Code != 4 {
		t.Fatalf("%+v, %v, output %q", exit, err, out.b.String())
	}
	out.await("33 44\r\n")

	status, text, _, err := run(t, c, agent.Command{Args: []string{"cat"}, TTY: true, Stdin: strings.NewReader("line\n")})
	if err != nil || status != 0 || text != "line\r\nline\r\n" {
		t.Errorf("cat on a terminal: status %d, output %q, %v", status, text, err)
	}
	status, _, _, err = run(t, c, agent.Command{Args: []string{"sleep", "1000"}, TTY: true, Stdin: strings.NewReader("\x03")})
	if err != nil || status != 128+int(syscall.SIGINT) {
		t.Errorf("control-C: status %d, %v", status, err)
	}
}

func TestSystem(t *testing.T) {
	c, sys := newClient(t)
	ctx := t.Context()
	if m, err := c.Ping(ctx); err != nil || m != sys.Info() {
		t.Errorf("Ping: %+v, %v", m, err)
	}
	if m, err := c.Network(ctx, agent.Network{Address: "10.0.2.15/24", Gateway: "10.0.2.2"}); err != nil || m.DNS != "10.0.2.3" {
		t.Errorf("Network: %+v, %v", m, err)
	}
	for _, err := range []error{c.SyncTime(ctx), c.Reseed(ctx), c.Shutdown(ctx, true, 1500*time.Millisecond)} {
		if err != nil {
			t.Error(err)
		}
	}
	sys.serving.Wait() // Shutdown begins when the answer has come
	want := fmt.Sprintf("[network 10.0.2.15/24 10.0.2.2 time %d seed 64 false shutdown true 1.5s]", time.Now().Year())
	if got := fmt.Sprint(sys.did); got != want {
		t.Errorf("the system did %s, want %s", got, want)
	}
	sys.fail = errors.New("not today\x1b[2J")
	if err := c.SyncTime(ctx); err == nil || err.Error() != "guest: not today?[2J" {
		t.Errorf("a failure is reported as %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ping of a cancelled context: %v", err)
	}
}

// TestCopy moves a tree with one of each kind of file into the guest and out again.
func TestCopy(t *testing.T) {
	c, _ := newClient(t)
	from, guest, to := t.TempDir(), t.TempDir(), t.TempDir()
	src := filepath.Join(from, "src")
	for _, d := range []string{src, filepath.Join(src, "sub"), filepath.Join(src, "closed")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	write(t, filepath.Join(src, "big"), string(big), 0o640)
	write(t, filepath.Join(src, "sub", "run"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(src, "empty"), "", 0o600)
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(src, "abs")), os.Symlink("big", filepath.Join(src, "rel")),
		os.Link(filepath.Join(src, "big"), filepath.Join(src, "sub", "hard")), os.Chmod(filepath.Join(src, "closed"), 0o500)); err != nil {
		t.Fatal(err)
	}
	if err := c.Upload(t.Context(), src, filepath.Join(guest, "new", "dst"), false); err != nil {
		t.Fatal(err)
	}
	if err := c.Download(t.Context(), filepath.Join(guest, "new", "dst"), filepath.Join(to, "back"), tree.Options{}); err != nil {
		t.Fatal(err)
	}
	want, got := describe(t, src), describe(t, filepath.Join(to, "back"))
	if got != want {
		t.Errorf("came back as\n%swant\n%s", got, want)
	}
}

// describe says everything of a tree that must survive a copy.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%s %v", rel, st.Mode())
		switch {
		case st.Mode().IsRegular():
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d bytes, sum %d, %d links, %v", len(content), bytes.Count(content, []byte("7")), st.Sys().(*syscall.Stat_t).Nlink, st.ModTime().Unix())
		case st.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(name)
			fmt.Fprintf(&b, " -> %s", target)
		default:
			fmt.Fprintf(&b, " %v", st.ModTime().Unix())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopyRefused(t *testing.T) {
	c, _ := newClient(t)
	dir := t.TempDir()
	if err := c.CopyOut(t.Context(), filepath.Join(dir, "nothing"), io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("copy of nothing: %v", err)
	}
	if err := c.Download(t.Context(), filepath.Join(dir, "nothing"), filepath.Join(dir, "x"), tree.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("download of nothing: %v", err)
	}
	if err := c.CopyIn(t.Context(), "relative", strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "must begin with /") {
		t.Errorf("copy to a relative path: %v", err)
	}
	if err := c.CopyIn(t.Context(), dir, io.LimitReader(zeroes{}, 8<<20)); err != nil {
		t.Errorf("copy of zeroes, which are the end of an archive: %v", err)
	}
	if err := c.CopyIn(t.Context(), dir, strings.NewReader(strings.Repeat("x", 4<<20))); err == nil {
		t.Error("copy of what is no tar stream: no error")
	}
	broken := errors.New("broken")
	if err := c.CopyIn(t.Context(), dir, io.MultiReader(strings.NewReader("x"), failure{broken})); !errors.Is(err, broken) {
		t.Errorf("copy from a broken reader: %v", err)
	}
	write(t, filepath.Join(dir, "file"), strings.Repeat("y", 1<<20), 0o644)
	if err := c.CopyOut(t.Context(), filepath.Join(dir, "file"), failure{broken}); !errors.Is(err, broken) {
		t.Errorf("copy to a broken writer: %v", err)
	}
	if err := c.Download(t.Context(), filepath.Join(dir, "file"), filepath.Join(dir, "x"), tree.Options{Limit: 1000}); !errors.Is(err, tree.ErrLimit) {
		t.Errorf("download beyond the limit: %v", err)
	}
}

type failure struct{ err error }

func (f failure) Read([]byte) (int, error)  { return 0, f.err }
func (f failure) Write([]byte) (int, error) { return 0, f.err }
