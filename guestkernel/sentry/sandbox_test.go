package sentry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A sandbox confines its whole process, so each test's sandbox lives in a child: the test binary itself, told by its environment.
const (
	childEnv    = "QENEX_SENTRY_TEST_SPEC"
	scenarioEnv = "QENEX_SENTRY_TEST_SCENARIO"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(child(text))
	}
	os.Exit(m.Run())
}

// childError is the exit code of a child whose sandbox could not do what the test asks; the reason is on stderr.
const childError = 99

// child runs a sandbox, or a scenario with one, and gives the exit code.
func child(text string) int {
	var spec Spec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		var code int
		if code, err = runChild(spec); err == nil {
			return code
		}
	}
	var start *StartError
	if errors.As(err, &start) {
		err = fmt.Errorf("errno %d: %w", start.Errno, err)
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	return childError
}

// runChild does what the environment says.
func runChild(spec Spec) (int, error) {
	scenario := scenarios[os.Getenv(scenarioEnv)]
	if f := os.Getenv(restoreEnv); f != "" {
		var err error
		if spec.Restore, err = os.Open(f); err != nil {
			return 0, err
		}
	}
	var out *os.File
	if f := os.Getenv(saveEnv); f != "" {
		var err error
		if out, err = os.Create(f); err != nil {
			return 0, err
		}
	}
	if err := openOutside(); err != nil {
		return 0, err
	}
	auditChild(&spec)
	s, err := New(spec)
	if err != nil {
		return 0, err
	}
	missing, err := s.Confine()
	if err != nil {
		return 0, err
	}
	if len(missing) != 0 {
		return 0, fmt.Errorf("the kernel lacks %v", missing)
	}
	if err := s.Start(); err != nil {
		return 0, err
	}
	if scenario != nil {
		if err := scenario(s, out); err != nil {
			return 0, err
		}
	}
	st, err := s.Wait()
	if err != nil {
		return 0, err
	}
	return st.Shell(), nil
}

// hostPath is the PATH of programs that run from the host's files.
const hostPathEnv = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

// native is a spec for a program from the host's files.
func native(args ...string) Spec { return Spec{Args: args, Env: []string{hostPathEnv, "LC_ALL=C"}} }

// shell is a spec for a shell script on the host's files.
func shell(script string) Spec { return native("/bin/sh", "-c", script) }

// result is what a child did.
type result struct {
	stdout, stderr string
	code           int
}

// command makes the child of a spec.
func command(t *testing.T, spec Spec, env ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+string(text))...)
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a spec in a child with stdin.
func run(t *testing.T, spec Spec, stdin string, env ...string) result {
	t.Helper()
	needPlatform(t)
	cmd := command(t, spec, env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		t.Fatalf("the host process died of %v\n%s%s", ws.Signal(), out.String(), errs.String())
	}
	if cmd.ProcessState.ExitCode() == childError {
		t.Fatalf("%s%s", out.String(), errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// want runs a spec and compares its output and code.
func want(t *testing.T, spec Spec, stdin string, expect result) {
	t.Helper()
	if got := run(t, spec, stdin); got != expect {
		t.Fatalf("%q:\n got %+v\nwant %+v", spec.Args, got, expect)
	}
}

func TestExitCodes(t *testing.T) {
	for script, code := range map[string]int{
		"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143, "kill -SEGV $$": 139, "no-such-program": 127,
	} {
		t.Run(script, func(t *testing.T) {
			if got := run(t, shell("exec 2>/dev/null; "+script), ""); got != (result{code: code}) {
				t.Fatalf("%+v, want code %d", got, code)
			}
		})
	}
}

func TestStandardFiles(t *testing.T) {
	want(t, shell("cat; echo err >&2"), "line 1\nline 2\n", result{"line 1\nline 2\n", "err\n", 0})
	big := strings.Repeat("0123456789abcdef", 1<<16)
	want(t, native("cat"), big, result{big, "", 0})
}

// TestRedirectedFiles checks that a file shared with others keeps one offset.
func TestRedirectedFiles(t *testing.T) {
	needPlatform(t)
	name := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, err := os.Open("sandbox_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	fmt.Fprintln(f, "before")
	cmd := command(t, shell("echo one; echo two >&2; echo three; head -c 7 >/dev/null"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, f, f
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "after")
	if got, err := os.ReadFile(name); err != nil || string(got) != "before\none\ntwo\nthree\nafter\n" {
		t.Fatalf("%q, %v", got, err)
	}
	if at, err := in.Seek(0, 1); err != nil || at == 0 {
		t.Fatalf("stdin's offset is %d, %v", at, err)
	}
}

// TestNonblockingIsUndone checks that a pipe shared with others stays blocking.
func TestNonblockingIsUndone(t *testing.T) {
	needPlatform(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := command(t, shell("read x; echo $x"))
	cmd.Stdin = r
	w.WriteString("hello\n")
	if out, err := cmd.Output(); err != nil || string(out) != "hello\n" {
		t.Fatalf("%q, %v", out, err)
	}
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, r.Fd(), syscall.F_GETFL, 0)
	if errno != 0 || flags&syscall.O_NONBLOCK != 0 {
		t.Fatalf("flags %#x, %v", flags, errno)
	}
}

func TestEnvironmentAndIdentity(t *testing.T) {
	spec := shell(`echo "$A|$HOME|$(pwd)|$(id -u):$(id -g):$(id -G)|$(hostname 2>/dev/null || cat /proc/sys/kernel/hostname)|$(umask)"`)
	spec.Env = append(spec.Env, "A=b c")
	spec.Dir, spec.UID, spec.GID, spec.Groups, spec.Hostname = "/usr", 1234, 567, []uint32{567, 89}, "inside"
	mask := uint32(0o77)
	spec.Umask = &mask
	want(t, spec, "", result{stdout: "b c||/usr|1234:567:567 89|inside|0077\n"})
}

func TestLimits(t *testing.T) {
	spec := shell("ulimit -Sn; ulimit -Hn")
	spec.Rlimits = []Rlimit{{Type: 7, Soft: 33, Hard: 44}}
	want(t, spec, "", result{stdout: "33\n44\n"})
}

func TestSysctl(t *testing.T) {
	spec := shell("cat /proc/sys/net/ipv4/tcp_sack")
	spec.Sysctl = map[string]string{"net.ipv4.tcp_sack": "0", "net.ipv4.ping_group_range": "0 0"}
	want(t, spec, "", result{stdout: "0\n"})
}

func TestMemoryLimit(t *testing.T) {
	spec := native("python3", "-c", "x = bytearray(b'x') * (1 << 20); print('small'); import sys; sys.stdout.flush()\nl = []\nwhile True: l.append(bytearray(b'y') * (8 << 20))")
	spec.Memory = 256 << 20
	if got := run(t, spec, ""); got != (result{stdout: "small\n", code: 137}) {
		t.Fatalf("%+v", got)
	}
	spec = shell("head -1 /proc/meminfo")
	spec.Memory = 256 << 20
	want(t, spec, "", result{stdout: "MemTotal:         262144 kB\n"})
}

// The Sentry's messages must reach the debug log and nothing else, whichever logger they were given to: guests cause them.
func TestSentryLog(t *testing.T) {
	const script = `import socket
for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, 58), (socket.AF_PACKET, 0)):
    try:
        socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        print("refused")`
	spec := native("python3", "-c", script)
	spec.UID, spec.GID = 65534, 65534
	spec.Env[0] += ":relative" // a warning when PATH is searched
	want(t, spec, "", result{stdout: strings.Repeat("refused\n", 3)})

	spec.Debug = filepath.Join(t.TempDir(), "log")
	want(t, spec, "", result{stdout: strings.Repeat("refused\n", 3)})
	log, err := os.ReadFile(spec.Debug)
	if err != nil || !bytes.Contains(log, []byte("tried to create a raw socket")) {
		t.Fatalf("the log has nothing of raw sockets (%v):\n%s", err, log)
	}
}

func TestStartErrno(t *testing.T) {
	for name, c := range map[string]struct {
		spec  Spec
		errno syscall.Errno
	}{
		"missing":           {native("/no/such/program"), syscall.ENOENT},
		"missing in PATH":   {native("no-such-program"), syscall.ENOENT},
		"no such directory": {Spec{Args: []string{"/bin/true"}, Dir: "/no/such/dir"}, syscall.ENOENT},
		"below a file":      {native("/etc/passwd/x"), syscall.ENOTDIR},
		"not executable":    {native("/etc/passwd"), syscall.EACCES},
		"directory":         {native("/etc"), syscall.EACCES},
	} {
		t.Run(name, func(t *testing.T) {
			needPlatform(t)
			out, err := command(t, c.spec).CombinedOutput()
			if want := fmt.Sprintf("child: errno %d: ", c.errno); err == nil || !strings.HasPrefix(string(out), want) {
				t.Fatalf("%v, %q; want an error that begins %q", err, out, want)
			}
		})
	}
	unknown := newStartError("/x", errors.New("of another kind"))
	if unknown.Errno != 0 || errors.Is(unknown, syscall.Errno(0)) {
		t.Fatalf("%+v has an error number", unknown)
	}
	if !errors.Is(newStartError("/x", errors.New("failed to load /x: no such file or directory")), syscall.ENOENT) {
		t.Fatal("the error number is not found by errors.Is")
	}
}

func TestStartErrors(t *testing.T) {
	for name, spec := range map[string]Spec{
		"no program":        {},
		"missing":           native("/no/such/program"),
		"missing in PATH":   native("no-such-program"),
		"not executable":    native("/etc/passwd"),
		"directory":         native("/etc"),
		"no root":           {Args: []string{"/x"}, Root: "/no/such/root"},
		"no mount source":   {Args: []string{"/bin/true"}, Mounts: []Mount{{Type: MountBind, Source: "/no/such", Target: "/mnt"}}},
		"relative target":   {Args: []string{"/bin/true"}, Mounts: []Mount{{Type: MountTmpfs, Target: "mnt"}}},
		"bad mount type":    {Args: []string{"/bin/true"}, Mounts: []Mount{{Type: "ext4", Target: "/mnt"}}},
		"file on directory": {Args: []string{"/bin/true"}, Mounts: []Mount{{Type: MountBind, Source: "/etc/passwd", Target: "/usr"}}},
		"bad limit":         {Args: []string{"/bin/true"}, Rlimits: []Rlimit{{Type: 7, Soft: 2, Hard: 1}}},
		"no such directory": {Args: []string{"/bin/true"}, Dir: "/no/such/dir"},
		"no such setting":   {Args: []string{"/bin/true"}, Sysctl: map[string]string{"kernel.no_such_setting": "1"}},
		"no setting at all": {Args: []string{"/bin/true"}, Sysctl: map[string]string{"/../../etc/passwd": "1"}},
		"contradiction":     {Args: []string{"/bin/true"}, RootWritable: true, RootReadonly: true},
	} {
		t.Run(name, func(t *testing.T) {
			needPlatform(t)
			out, err := command(t, spec).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != childError || !strings.HasPrefix(string(out), "child: ") {
				t.Fatalf("%v, %q; want an error of the child", err, out)
			}
		})
	}
}
