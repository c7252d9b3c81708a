//go:build !kernelonly

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// makeBundle makes a bundle whose program is a shell script.
func makeBundle(t *testing.T, script string, change func(*specs.Spec)) string {
	t.Helper()
	dir := filepath.Dir(rootfs(t))
	s := exampleSpec()
	s.Process.Args = []string{"sh", "-c", script}
	if change != nil {
		change(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ociRuntime runs the verbs on a state directory of its own, as containerd's shim does: it inherits the processes that verbs leave behind.
type ociRuntime struct {
	t    *testing.T
	root string
}

func newRuntime(t *testing.T) *ociRuntime {
	t.Helper()
	kvmtest.Open(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := &ociRuntime{t, filepath.Join(t.TempDir(), "state")}
	t.Cleanup(func() {
		_, ids, _ := r.run("list", "-q")
		for _, id := range strings.Fields(ids) {
			r.run("delete", "--force", id)
		}
	})
	return r
}

func (r *ociRuntime) run(verb string, args ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	return qenex(r.t, slices.Concat([]string{"--root", r.root, "--log-format", "json", verb}, args)...)
}

// must wants a verb to succeed.
func (r *ociRuntime) must(verb string, args ...string) string {
	r.t.Helper()
	code, stdout, stderr := r.run(verb, args...)
	if code != 0 {
		r.t.Fatalf("qenex %s %q: exit code %d, %s", verb, args, code, stderr)
	}
	return stdout
}

// fails wants a verb to fail and say why.
func (r *ociRuntime) fails(why, verb string, args ...string) {
	r.t.Helper()
	if code, _, stderr := r.run(verb, args...); code == 0 || !strings.Contains(stderr, why) {
		r.t.Errorf("qenex %s %q: exit code %d, %q, want %q", verb, args, code, stderr, why)
	}
}

func (r *ociRuntime) status(id string) string {
	r.t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(r.must("state", id)), &s); err != nil {
		r.t.Fatal(err)
	}
	return string(s.Status)
}

// create runs create with the program's output on a pipe.
func (r *ociRuntime) create(bundle, id string, args ...string) (pid int, out *bufio.Reader) {
	r.t.Helper()
	return r.detached("create", slices.Concat([]string{"--bundle", bundle}, args, []string{id})...)
}

// detached runs a verb that leaves a process behind, and returns its ID and its standard output.
func (r *ociRuntime) detached(verb string, args ...string) (pid int, out *bufio.Reader) {
	r.t.Helper()
	pidFile := filepath.Join(r.t.TempDir(), "pid")
	read, write, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { read.Close() })
	cmd := command(slices.Concat([]string{"--root", r.root, verb, "--pid-file", pidFile}, args)...)
	var errs bytes.Buffer
	errFile, err := os.CreateTemp(r.t.TempDir(), "stderr") // a pipe would be held open by who stays behind
	if err != nil {
		r.t.Fatal(err)
	}
	defer errFile.Close()
	cmd.Stdout, cmd.Stderr = write, errFile
	err = cmd.Run()
	write.Close()
	if err != nil {
		_, _ = errFile.Seek(0, io.SeekStart)
		_, _ = io.Copy(&errs, errFile)
		r.t.Fatalf("qenex %s: %v: %s", verb, err, errs.String())
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		r.t.Fatal(err)
	}
	if pid, err = strconv.Atoi(string(b)); err != nil {
		r.t.Fatal(err)
	}
	return pid, bufio.NewReader(read)
}

func (r *ociRuntime) expect(out *bufio.Reader, want string) {
	r.t.Helper()
	if line, err := out.ReadString('\n'); line != want+"\n" {
		r.t.Fatalf("the program printed %q, %v; want %q", line, err, want)
	}
}

// wait waits for a process left behind and wants its exit code.
func (r *ociRuntime) wait(pid, want int) {
	r.t.Helper()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			r.t.Fatalf("waiting for process %d: %v", pid, err)
		}
		break
	}
	code := ws.ExitStatus()
	if ws.Signaled() {
		code = exitSignal + int(ws.Signal())
	}
	if code != want {
		r.t.Errorf("process %d ended with %d, want %d", pid, code, want)
	}
}

const patient = `trap 'echo term; exit 5' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.1; done`

func TestLifeCycle(t *testing.T) {
	r := newRuntime(t)
	record := filepath.Join(t.TempDir(), "hooks")
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `echo ` + name + `: $(tr , '\n' | grep -E '"(id|status)"') >>` + record}}}
	}
	dir := makeBundle(t, patient, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), Poststart: hook("poststart"), Poststop: hook("poststop")}
		s.Annotations = map[string]string{"org.example": "kept"}
	})
	r.fails("does not exist", "state", "web")
	pid, out := r.create(dir, "web")
	if s := r.status("web"); s != "created" {
		t.Errorf("status %q, want created", s)
	}
	r.fails("exists", "create", "--bundle", dir, "web")
	r.fails("not been started", "exec", "web", "true")
	r.must("start", "web")
	r.expect(out, "ready")
	if s := r.status("web"); s != "running" {
		t.Errorf("status %q, want running", s)
	}
	r.fails("already", "start", "web")
	if text := r.must("state", "web"); !strings.Contains(text, `"kept"`) || !strings.Contains(text, strconv.Itoa(pid)) || !strings.Contains(text, dir) {
		t.Errorf("state %s", text)
	}
	var list []stateJSON
	if err := json.Unmarshal([]byte(r.must("list", "--format", "json")), &list); err != nil || len(list) != 1 || list[0].ID != "web" {
		t.Errorf("list %+v, %v", list, err)
	}
	if text := r.must("ps", "web"); !strings.Contains(text, "sh") {
		t.Errorf("ps %q", text)
	}
	if text := r.must("ps", "--format", "json", "web"); strings.TrimSpace(text) != "["+strconv.Itoa(pid)+"]" {
		t.Errorf("ps %q", text)
	}

	code, stdout, stderr := r.run("exec", "--cwd", "/srv", "-e", "A=b", "-u", "web", "web", "sh", "-c", "cat page; echo $A; id -u; exit 3")
	if code != 3 || stdout != "pageb\n33\n" {
		t.Errorf("exec: exit code %d, %q, %q", code, stdout, stderr)
	}
	if code, _, _ := r.run("exec", "web", "no-such-program"); code != exitNotFound {
		t.Errorf("exec of nothing: exit code %d", code)
	}
	r.background(dir)

	r.must("pause", "web")
	if s := r.status("web"); s != "paused" {
		t.Errorf("status %q, want paused", s)
	}
	r.must("resume", "web")
	r.must("kill", "web", "USR1")
	r.expect(out, "usr1")
	r.fails("not known", "kill", "web", "SIGNOTHING")
	r.fails("not stopped", "delete", "web")
	r.must("kill", "web")
	r.expect(out, "term")
	r.wait(pid, 5)
	if s := r.status("web"); s != "stopped" {
		t.Errorf("status %q, want stopped", s)
	}
	r.fails("not running", "kill", "web", "9")
	r.fails("not running", "exec", "web", "true")
	r.must("delete", "web")
	r.fails("does not exist", "delete", "web")
	r.must("delete", "--force", "web")

	want := "createRuntime: \"id\":\"web\" \"status\":\"creating\"\ncreateContainer: \"id\":\"web\" \"status\":\"creating\"\n" +
		"poststart: \"id\":\"web\" \"status\":\"running\"\npoststop: \"id\":\"web\" \"status\":\"stopped\"\n"
	if got, err := os.ReadFile(record); err != nil || string(got) != want {
		t.Errorf("hooks were run as %q, %v; want %q", got, err, want)
	}
}

// background runs programs beside the first one of container web, through process files.
func (r *ociRuntime) background(dir string) {
	r.t.Helper()
	p := exampleSpec().Process
	p.Args = []string{"sh", "-c", `trap 'echo caught; exit 7' TERM; echo background; while :; do sleep 0.1; done`}
	file := filepath.Join(dir, "process.json")
	b, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	pid, out := r.detached("exec", "--detach", "--process", file, "web")
	r.expect(out, "background")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	r.expect(out, "caught")
	r.wait(pid, 7)

	// The program does not outlive the process that stands for it.
	pid, out = r.detached("exec", "--detach", "--process", file, "web")
	r.expect(out, "background")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	r.wait(pid, 137)
	if rest, err := io.ReadAll(out); len(rest) != 0 || err != nil { // its end is the program's
		r.t.Errorf("after SIGKILL: %q, %v", rest, err)
	}
}

func TestForcedDelete(t *testing.T) {
	r := newRuntime(t)
	dir := makeBundle(t, patient, nil)
	pid, _ := r.create(dir, "a")
	r.must("delete", "--force", "a")
	r.wait(pid, 137)
	pid, out := r.create(dir, "a")
	r.must("start", "a")
	r.expect(out, "ready")
	r.must("kill", "--all", "a", "KILL")
	r.wait(pid, 137)
	r.must("delete", "a")
	pid, _ = r.create(dir, "a")
	r.must("kill", "a", "TERM") // nothing runs yet that could catch it
	r.wait(pid, 143)
}

// TestNoProgram wants start to say that there is nothing to start.
func TestNoProgram(t *testing.T) {
	r := newRuntime(t)
	dir := makeBundle(t, "", func(s *specs.Spec) { s.Process.Args = []string{"/no/such/program"} })
	pid, _ := r.create(dir, "a")
	r.fails("/no/such/program", "start", "a")
	r.wait(pid, exitNotFound)
}

// TestFailedCreate wants nothing to be left of a container that cannot be made.
func TestFailedCreate(t *testing.T) {
	r := newRuntime(t)
	log := filepath.Join(t.TempDir(), "log")
	for want, change := range map[string]func(*specs.Spec){
		"hook": func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}} },
		"no-such-source": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no-such-source"})
		},
		"console-socket": func(s *specs.Spec) { s.Process.Terminal = true },
		"CAP_FLY":        func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_FLY"} },
		"/no/such/netns": func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "network", Path: "/no/such/netns"}}
		},
	} {
		r.fails(want, "create", "--log", log, "--bundle", makeBundle(t, "true", change), "a")
		if b, err := os.ReadFile(log); err != nil || !bytes.Contains(b, []byte(want)) || !bytes.Contains(b, []byte(`"level":"error"`)) {
			t.Errorf("log %s, %v", b, err)
		}
		r.fails("does not exist", "state", "a")
	}
	r.fails("config.json", "create", "--bundle", t.TempDir(), "a")
	r.fails("invalid container ID", "create", "--bundle", makeBundle(t, "true", nil), "../a")
}

// TestCheckpoint saves a container and runs it on twice: once in its place, once beside itself.
func TestCheckpoint(t *testing.T) {
	r := newRuntime(t)
	dir := makeBundle(t, `x=$RANDOM$RANDOM; echo $x; trap 'echo kept $x; exit 5' TERM; while :; do sleep 0.1; done`, nil)
	pid, out := r.create(dir, "a")
	r.must("start", "a")
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	saved := t.TempDir()
	r.must("checkpoint", "--image-path", saved, "--leave-running", "a")
	if s := r.status("a"); s != "running" {
		t.Errorf("status %q after --leave-running", s)
	}
	r.must("checkpoint", "--image-path", saved, "a")
	if _, err := io.ReadAll(out); err != nil { // its end
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	r.must("delete", "a")
	for _, id := range []string{"a", "b"} {
		pid, out := r.detached("restore", "--bundle", dir, "--image-path", saved, "--detach", id)
		if s := r.status(id); s != "running" {
			t.Errorf("status %q after restore", s)
		}
		r.must("kill", id, "TERM")
		r.expect(out, "kept "+strings.TrimSpace(line))
		r.wait(pid, 5)
	}
	r.fails("checkpoint", "restore", "--bundle", dir, "--image-path", t.TempDir(), "--detach", "c")
}

// TestConsole takes the terminal of a container from a console socket, as containerd does.
func TestConsole(t *testing.T) {
	r := newRuntime(t)
	dir := makeBundle(t, "stty size; test -t 0 && read line && echo got $line; exit 6", func(s *specs.Spec) {
		s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 33, Width: 77}
	})
	socket := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "console")
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(socket))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "console", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	master := make(chan *os.File, 1)
	go func() {
		defer close(master)
		f, err := receiveTerminal(l)
		if err != nil {
			t.Error(err)
			return
		}
		master <- f
	}()
	pid, _ := r.create(dir, "a", "--console-socket", socket)
	m := <-master
	if m == nil {
		t.FailNow()
	}
	defer m.Close()
	r.must("start", "a")
	if _, err := m.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buf := make([]byte, 256); ; {
		n, err := m.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil { // EIO: nobody has the other end any more
			break
		}
	}
	r.wait(pid, 6)
	if !bytes.Contains(got, []byte("33 77\r\n")) || !bytes.HasSuffix(got, []byte("got typed\r\n")) {
		t.Errorf("the terminal showed %q", got)
	}
}

func receiveTerminal(l *net.UnixListener) (*os.File, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b, oob := make([]byte, 256), make([]byte, 256)
	_, n, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	m, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(m) != 1 {
		return nil, errors.Join(err, errors.New("no file was sent"))
	}
	fds, err := unix.ParseUnixRights(&m[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, errors.New("not one file was sent"))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func TestGlobalFlags(t *testing.T) {
	for text, want := range map[string]string{
		"--root /r --log-format=json create --bundle b id": "create --root /r --log-format=json --bundle b id",
		"--systemd-cgroup --debug state id":                "state --systemd-cgroup --debug id",
		"--root /r --version":                              "--version",
		"run --root x":                                     "run --root x",
		"--root":                                           "--root",
		"--root /r":                                        "--root /r",
		"--wings create":                                   "--wings create",
	} {
		if got := strings.Join(liftGlobals(strings.Fields(text)), " "); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if code, stdout, _ := qenex(t, "--root", "/r", "--version"); code != 0 || !strings.Contains(stdout, "spec: "+specs.Version) {
		t.Errorf("--version: %d, %q", code, stdout)
	}
	if code, stdout, _ := qenex(t, "features"); code != 0 || !strings.Contains(stdout, `"createRuntime"`) {
		t.Errorf("features: %d, %q", code, stdout)
	}
	dir := t.TempDir()
	if code, _, stderr := qenex(t, "spec", "--bundle", dir); code != 0 {
		t.Errorf("spec: %d, %q", code, stderr)
	}
	if code, _, stderr := qenex(t, "spec", "--bundle", dir); code == 0 || !strings.Contains(stderr, "exists") {
		t.Errorf("a second spec: %d, %q", code, stderr)
	}
}
