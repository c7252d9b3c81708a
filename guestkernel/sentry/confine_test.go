package sentry

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// outsideEnv names a host directory that the sandbox must not reach.
const outsideEnv = "QENEX_SENTRY_TEST_OUTSIDE"

// outsideFD is that directory, opened before the confinement.
var outsideFD = -1

// openOutside opens the directory for the scenarios below.
func openOutside() error {
	dir := os.Getenv(outsideEnv)
	if dir == "" {
		return nil
	}
	var err error
	outsideFD, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return err
}

// scenarioLandlock does what a Sandbox whose Sentry the guest has taken over could still try with files.
func scenarioLandlock(s *Sandbox, _ *os.File) error {
	for name, try := range map[string]func() error{
		"read":   func() error { _, err := unix.Openat(outsideFD, "secret", unix.O_RDONLY, 0); return err },
		"write":  func() error { _, err := unix.Openat(outsideFD, "secret", unix.O_WRONLY, 0); return err },
		"list":   func() error { _, err := unix.Openat(outsideFD, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0); return err },
		"create": func() error { return unix.Mkdirat(outsideFD, "new", 0o755) },
		"remove": func() error { return unix.Unlinkat(outsideFD, "secret", 0) },
	} {
		if err := try(); !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s outside of the root: %v, want %v", name, err, unix.EACCES)
		}
	}
	return s.Signal(0, syscall.SIGKILL, true)
}

// forbidden are system calls that the filter must end the process for.
var forbidden = map[string]func(){
	"execve":     func() { syscall.Exec("/bin/true", nil, nil) },
	"absolute":   func() { unix.Open("/etc/hostname", unix.O_RDONLY, 0) },
	"socket":     func() { unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) },
	"ptrace":     func() { unix.PtraceAttach(1) },
	"kill":       func() { unix.Kill(1, 0) },
	"mount":      func() { unix.Mount("a", "b", "c", 0, "") },
	"executable": func() { unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON) },
	"fork":       func() { unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
	"tty":        func() { unix.IoctlSetInt(0, unix.TIOCSTI, 0) },
}

func init() {
	scenarios["landlock"] = scenarioLandlock
	for name, try := range forbidden {
		scenarios["forbidden "+name] = func(s *Sandbox, _ *os.File) error {
			try()
			return errors.New("the process lived on")
		}
	}
}

func TestLandlock(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", "secret\n", 0o666)
	for name, root := range map[string]string{"a root of its own": t.TempDir(), "a writable root": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			spec := rootSpec(root, "sleep 1000")
			spec.RootWritable = strings.Contains(name, "writable")
			if got := run(t, spec, "", scenarioEnv+"=landlock", outsideEnv+"="+outside); got.code != 137 {
				t.Fatalf("%+v", got)
			}
		})
	}
	if got := contents(t, filepath.Join(outside, "secret")); got != "secret\n" {
		t.Fatalf("the file is %q", got)
	}
}

func TestForbiddenCalls(t *testing.T) {
	for name := range forbidden {
		t.Run(name, func(t *testing.T) {
			needPlatform(t)
			out, err := command(t, shell("sleep 1000"), scenarioEnv+"=forbidden "+name).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%v, %q", err, out)
			}
			if ws := exit.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
				t.Fatalf("%v, %q; want death by SIGSYS", exit, out)
			}
		})
	}
}

func TestLandlockRights(t *testing.T) {
	for abi, want := range map[int][3]bool{1: {false, false, false}, 2: {true, false, false}, 3: {true, true, false}, 5: {true, true, true}, 7: {true, true, true}} {
		fs, net, scoped := landlockRights(abi)
		got := [3]bool{fs&unix.LANDLOCK_ACCESS_FS_REFER != 0, fs&unix.LANDLOCK_ACCESS_FS_TRUNCATE != 0, fs&unix.LANDLOCK_ACCESS_FS_IOCTL_DEV != 0}
		if got != want || (net != 0) != (abi >= 4) || (scoped != 0) != (abi >= 6) {
			t.Errorf("ABI %d: %#x %#x %#x", abi, fs, net, scoped)
		}
	}
}

// Every thread of a running sandbox has the filter and can gain no privileges.
func TestEveryThreadConfined(t *testing.T) {
	needPlatform(t)
	cmd := command(t, shell("echo running; read line"))
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
	defer func() {
		in.Close()
		if err := cmd.Wait(); err == nil {
			t.Error("read at the end of its input gave no error")
		}
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "running\n" {
		t.Fatalf("%q, %v", line, err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(files) < 2 {
		t.Fatalf("threads %v, %v", files, err)
	}
	for _, f := range files {
		status, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil || !bytes.Contains(status, []byte("\nNoNewPrivs:\t1\n")) || !bytes.Contains(status, []byte("\nSeccomp:\t2\n")) {
			t.Errorf("%s: %v\n%s", f, err, status)
		}
	}
}
