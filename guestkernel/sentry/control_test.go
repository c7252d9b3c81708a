package sentry

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/guestkernel"
)

// Files of the scenario "save".
const (
	saveEnv    = "QENEX_SENTRY_TEST_SAVE"
	restoreEnv = "QENEX_SENTRY_TEST_RESTORE"
)

// scenarios are what a child does with its sandbox between Start and Wait. They talk with the test through the child's stderr,
// and with the program through pipes they make before (see pipes).
var scenarios = map[string]func(s *Sandbox, out *os.File) error{
	"signal":  scenarioSignal,
	"exec":    scenarioExec,
	"pause":   scenarioPause,
	"save":    func(s *Sandbox, out *os.File) error { return scenarioSave(s, out, true) },
	"save on": func(s *Sandbox, out *os.File) error { return scenarioSave(s, out, false) },
	"stats":   scenarioStats,
	"end":     scenarioEnd,
	"kill":    scenarioKill,
}

// until asks again and again, without a limit of its own: the test's deadline ends what never comes.
func until(what func() (bool, error)) error {
	for {
		if ok, err := what(); ok || err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// untilRunning waits until there are n processes.
func untilRunning(s *Sandbox, n int) error {
	return until(func() (bool, error) {
		ps, err := s.PIDs()
		return len(ps) == n, err
	})
}

// untilAsleep waits until process pid waits in a system call.
func untilAsleep(s *Sandbox, pid int) error {
	return until(func() (bool, error) {
		ps, err := s.PIDs()
		for _, p := range ps {
			if p.PID == pid {
				return p.State == "S", err
			}
		}
		return false, fmt.Errorf("process %d has ended", pid)
	})
}

// twoSleeps ends scripts: once there are three processes, all before it has been done.
const twoSleeps = "sleep 1000 & sleep 1000 & wait"

func scenarioSignal(s *Sandbox, _ *os.File) error {
	if err := untilRunning(s, 3); err != nil {
		return err
	}
	if err := s.Signal(12345, syscall.SIGTERM, false); err == nil {
		return fmt.Errorf("a process that does not exist took a signal")
	}
	if err := s.Signal(0, 65, false); err == nil {
		return fmt.Errorf("there is a signal 65")
	}
	return s.Signal(0, syscall.SIGUSR1, false)
}

func TestSignal(t *testing.T) {
	got := run(t, shell("trap 'echo usr1; exit 3' USR1; "+twoSleeps), "", scenarioEnv+"=signal")
	if got != (result{stdout: "usr1\n", code: 3}) {
		t.Fatalf("%+v", got)
	}
}

func scenarioKill(s *Sandbox, _ *os.File) error {
	if err := untilRunning(s, 3); err != nil {
		return err
	}
	return s.Signal(0, syscall.SIGKILL, true)
}

func TestKillAll(t *testing.T) {
	if got := run(t, shell(twoSleeps), "", scenarioEnv+"=kill"); got.code != 137 {
		t.Fatalf("%+v", got)
	}
}

func scenarioExec(s *Sandbox, _ *os.File) error {
	if err := untilRunning(s, 3); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	pid, wait, err := s.Exec(ExecSpec{Args: []string{"sh", "-c", "echo $$ $(cat /tmp/mark) $(id -u); exit 5"}, Env: []string{hostPathEnv}, UID: 42, Files: [3]*os.File{nil, w, w}})
	if err != nil {
		return err
	}
	w.Close()
	st, err := wait()
	if err != nil {
		return err
	}
	r.SetReadDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d marked 42\n", pid); line != want || st != (Status{Code: 5}) {
		return fmt.Errorf("exec gave %q and %+v, want %q and code 5", line, st, want)
	}
	if _, _, err := s.Exec(ExecSpec{Args: []string{"/no/such/program"}}); err == nil {
		return fmt.Errorf("a missing program was started")
	}
	_, wait, err = s.Exec(ExecSpec{Args: []string{"/bin/sh", "-c", "cat; echo nowhere; kill -TERM $$"}, Env: []string{hostPathEnv}})
	if err != nil {
		return err
	}
	if st, err = wait(); err != nil || st != (Status{Signal: syscall.SIGTERM}) {
		return fmt.Errorf("exec without files gave %+v, %v", st, err)
	}
	return s.Signal(0, syscall.SIGTERM, false)
}

func TestExec(t *testing.T) {
	got := run(t, shell("echo marked >/tmp/mark; trap 'exit 0' TERM; "+twoSleeps), "", scenarioEnv+"=exec")
	if got != (result{}) {
		t.Fatalf("%+v", got)
	}
}

func scenarioPause(s *Sandbox, _ *os.File) error {
	if err := untilRunning(s, 3); err != nil {
		return err
	}
	if err := s.Pause(); err != nil {
		return err
	}
	if err := s.Signal(0, syscall.SIGTERM, false); err != nil {
		return err
	}
	if err := s.Pause(); err != nil {
		return err
	}
	ps, err := s.PIDs()
	if err != nil || len(ps) == 0 {
		return fmt.Errorf("a paused sandbox has %v, %v", ps, err)
	}
	fmt.Fprintln(os.Stderr, "paused")
	if err := s.Resume(); err != nil {
		return err
	}
	return s.Resume()
}

func TestPause(t *testing.T) {
	got := run(t, shell("trap 'echo resumed >&2; exit 4' TERM; "+twoSleeps), "", scenarioEnv+"=pause")
	if got != (result{stderr: "paused\nresumed\n", code: 4}) {
		t.Fatalf("%+v", got)
	}
}

func scenarioStats(s *Sandbox, _ *os.File) error {
	if err := until(func() (bool, error) {
		ps, err := s.PIDs()
		return len(ps) == 2 && ps[1].Args[0] == "sleep", err
	}); err != nil {
		return err
	}
	st := s.Stats()
	if st.Processes != 2 || st.Threads < 2 || st.MemoryBytes == 0 || st.CPUTimeNanos == 0 {
		return fmt.Errorf("stats %+v", st)
	}
	ps, err := s.PIDs()
	if err != nil || len(ps) != 2 || ps[0].PID != 1 || ps[1].PPID != 1 || ps[1].Args[0] != "sleep" {
		return fmt.Errorf("processes %+v, %v", ps, err)
	}
	return s.Signal(0, syscall.SIGKILL, true)
}

func TestStatsAndPIDs(t *testing.T) {
	if got := run(t, native("/bin/sh", "-c", "sleep 1000; :"), "", scenarioEnv+"=stats"); got.code != 137 {
		t.Fatalf("%+v", got)
	}
}

// scenarioEnd looks at the counters after the end of a program that had 32 MiB.
func scenarioEnd(s *Sandbox, _ *os.File) error {
	if _, err := s.Wait(); err != nil {
		return err
	}
	if st := s.Stats(); st.MemoryBytes < 32<<20 || st.MemoryBytes > 256<<20 || st.Syscalls == 0 || s.spec.Mode == guestkernel.ModeDirect && st.Exitless != 0 {
		return fmt.Errorf("stats %+v", st)
	}
	return nil
}

func TestStatsAtTheEnd(t *testing.T) {
	spec := native("python3", "-c", "import os; x = b'x' * (32 << 20); os.write(1, b'%d' % len(x)); os._exit(0)")
	for _, mode := range []guestkernel.Mode{guestkernel.ModeAuto, guestkernel.ModeDirect, guestkernel.ModeExitless} {
		spec.Mode = mode
		if got := run(t, spec, "", scenarioEnv+"=end"); got != (result{stdout: "33554432"}) {
			t.Fatalf("mode %d: %+v", mode, got)
		}
	}
}

func scenarioSave(s *Sandbox, out *os.File, stop bool) error {
	if err := untilAsleep(s, 1); err != nil {
		return err
	}
	if err := s.Save(out, stop); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "saved")
	return nil
}

// TestSaveAndRestore saves a program that waits for input, and lets it go on in another process.
func TestSaveAndRestore(t *testing.T) {
	needPlatform(t)
	for name, scenario := range map[string]string{"stop": "save", "go on": "save on"} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			spec := native("python3", "-c", `
import sys, socket, threading
big = bytearray(b"q" * 3000000)
open("/etc/changed", "w").write("kept")
open("/tmp/t", "w").write("tmp")
l = socket.socket(); l.bind(("127.0.0.1", 7)); l.listen()
print("ready", flush=True)
line = sys.stdin.readline()
print(line.strip(), len(big), big[2999999], open("/etc/changed").read(), open("/tmp/t").read(), open("/etc/hostname").read() != "")
c = socket.create_connection(("127.0.0.1", 7)); a, _ = l.accept(); c.send(b"lo"); print(a.recv(2))
`)
			cmd := command(t, spec, scenarioEnv+"="+scenario, saveEnv+"="+state)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			errs, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said, err := bufio.NewReader(errs).ReadString('\n')
			if err != nil || said != "saved\n" {
				t.Fatalf("%q, %v", said, err)
			}
			after := func(line string) string { return line + " 3000000 113 kept tmp True\nb'lo'\n" }
			want := "ready\n"
			if scenario == "save on" {
				io.WriteString(in, "first\n")
				want += after("first")
			}
			if err := cmd.Wait(); err != nil || out.String() != want {
				t.Fatalf("%v, %q", err, out.String())
			}
			got := run(t, spec, "second\n", restoreEnv+"="+state)
			if got != (result{stdout: after("second")}) {
				t.Fatalf("restored: %+v", got)
			}
		})
	}
}

func TestRestoreRefuses(t *testing.T) {
	needPlatform(t)
	for name, text := range map[string]string{"empty": "", "garbage": strings.Repeat("garbage\n", 1000)} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			write(t, state, text, 0o600)
			out, err := command(t, native("true"), restoreEnv+"="+state).CombinedOutput()
			if err == nil || !strings.HasPrefix(string(out), "child: ") {
				t.Fatalf("%v, %q", err, out)
			}
		})
	}
}

// fetch is a guest program that gets a page.
func fetch(url string) Spec {
	return native("python3", "-c", "import urllib.request,sys\ntry: print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())\nexcept OSError as e: print('refused')", url)
}

func TestNetworks(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page "+r.URL.Path) }))
	defer srv.Close()
	_, text, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	gateway, local := fmt.Sprintf("http://10.0.2.2:%d/x", port), fmt.Sprintf("http://127.0.0.1:%d/x", port)
	for _, c := range []struct {
		name string
		net  Net
		url  string
		want string
	}{
		{"none", NetNone, gateway, "refused\n"},
		{"user", NetUser, gateway, "refused\n"},
		{"host-loopback", NetHostLoopback, gateway, "page /x\n"},
		{"host-loopback, not by 127.0.0.1", NetHostLoopback, local, "refused\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := fetch(c.url)
			spec.Net = c.net
			want(t, spec, "", result{stdout: c.want})
		})
	}
	spec := shell("cat /etc/resolv.conf; cat /proc/net/dev | grep -c eth0")
	spec.Net = NetUser
	want(t, spec, "", result{stdout: "nameserver 10.0.2.3\n1\n"})
}
