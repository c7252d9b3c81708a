//go:build !kernelonly

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

// busybox finds a static busybox: the system's, or the one that make guest fetches.
func busybox(t *testing.T) string {
	t.Helper()
	var tried []string
	if p, err := exec.LookPath("busybox"); err == nil {
		tried = append(tried, p)
	}
	if dir := os.Getenv("QENEX_GUEST_DIR"); dir != "" {
		tried = append(tried, filepath.Join(dir, "busybox"))
	} else if home, err := os.UserHomeDir(); err == nil {
		tried = append(tried, filepath.Join(home, ".cache/qenex/guest/busybox"))
	}
	for _, p := range tried {
		if static(p) {
			return p
		}
	}
	text := fmt.Sprintf("NOT TESTED: no static busybox in %q; install busybox-static, or run make guest", tried)
	if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

// static tells whether a program needs no loader.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

var applets = []string{"sh", "ls", "ps", "sleep", "cat", "echo", "id", "true", "false", "hostname", "touch", "stty", "env", "pwd", "wc"}

// rootfs makes a root directory with busybox in it.
func rootfs(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "rootfs")
	write := func(name string, b []byte, mode os.FileMode) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/busybox", program, 0o755)
	write("etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n"), 0o644)
	write("etc/group", []byte("root:x:0:\nweb:x:44:\nlog:x:5:web\n"), 0o644)
	write("srv/page", []byte("page"), 0o644)
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// tarFile writes a tar of dir.
func tarFile(t *testing.T, dir string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// images makes an image of root, as an OCI layout and as a docker archive.
func images(t *testing.T, root string, config v1.Config) (layoutDir, archive string) {
	t.Helper()
	l, err := tarball.LayerFromFile(tarFile(t, root))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	layoutDir = filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(layoutDir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("test:latest")
	if err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(archive, tag, img); err != nil {
		t.Fatal(err)
	}
	return layoutDir, archive
}

// TestStaticBinary builds the command as make does, and wants it to need nothing of the machine it runs on.
func TestStaticBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command")
	}
	p := filepath.Join(t.TempDir(), "qenex")
	cmd := exec.Command("go", "build", "-trimpath", "-o", p, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !static(p) {
		t.Error("the binary is not static")
	}
}

// TestHostPrograms runs programs on the host's files and compares everything that a shell could see.
func TestHostPrograms(t *testing.T) {
	kvmtest.Open(t)
	scratch := t.TempDir()
	script := filepath.Join(scratch, "plain")
	if err := os.WriteFile(script, []byte("echo no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string // part of it; "" means none at all
	}{
		"output and exit code":    {args: []string{"--", "/bin/sh", "-c", "echo hi; echo err >&2; exit 7"}, code: 7, stdout: "hi\n", stderr: "err\n"},
		"without --":              {args: []string{"/bin/sh", "-c", "exit 3"}, code: 3},
		"flags of the program":    {args: []string{"echo", "--mem", "-h", "--"}, stdout: "--mem -h --\n"},
		"a second -- is its own":  {args: []string{"--", "echo", "--", "x"}, stdout: "-- x\n"},
		"standard input":          {args: []string{"cat"}, stdin: "one\ntwo\n", stdout: "one\ntwo\n"},
		"killed by SIGKILL":       {args: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		"killed by SIGTERM":       {args: []string{"sh", "-c", "kill -TERM $$"}, code: 143},
		"not found":               {args: []string{"no-such-program"}, code: exitNotFound, stderr: "no-such-program"},
		"not found by path":       {args: []string{"/no/such/program"}, code: exitNotFound, stderr: "/no/such/program"},
		"not executable":          {args: []string{script}, code: exitNotExecutable, stderr: script},
		"a directory":             {args: []string{"/etc"}, code: exitNotExecutable, stderr: "/etc"},
		"time is over":            {args: []string{"--timeout", "200ms", "sleep", "100"}, code: exitProgramTimeout, stderr: "--timeout"},
		"time is not over":        {args: []string{"--timeout", "1h", "true"}},
		"environment":             {args: []string{"--env", "A=b=c", "--env", "HOME", "sh", "-c", `echo "$A $HOME"`}, stdout: "b=c " + os.Getenv("HOME") + "\n"},
		"the caller's directory":  {args: []string{"pwd"}, stdout: cwd + "\n"},
		"another directory":       {args: []string{"--workdir", "/etc", "pwd"}, stdout: "/etc\n"},
		"host name":               {args: []string{"--hostname", "box", "hostname"}, stdout: "box\n"},
		"user":                    {args: []string{"--user", "1234:5678", "id", "-u"}, stdout: "1234\n"},
		"group":                   {args: []string{"--user", "1234:5678", "id", "-g"}, stdout: "5678\n"},
		"CPUs":                    {args: []string{"--cpus", "3", "nproc"}, stdout: "3\n"},
		"writes are thrown away":  {args: []string{"sh", "-c", "echo x >" + scratch + "/new && cat " + scratch + "/new"}, stdout: "x\n"},
		"removal is thrown away":  {args: []string{"sh", "-c", "rm " + script + " && ls " + scratch}},
		"a mount":                 {args: []string{"--mount", "/etc:/somewhere/else:ro", "cat", "/somewhere/else/hostname"}, stdout: hostname(t)},
		"no device of the host's": {args: []string{"ls", "/dev/kvm"}, code: 2, stderr: "/dev/kvm"},
		"no process of the host":  {args: []string{"sh", "-c", "set -- /proc/[0-9]*; echo $#"}, stdout: "1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(append([]string{"run"}, tt.args...)...)
			var out, errs bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.stdin), &out, &errs
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || out.String() != tt.stdout {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr %q", code, tt.code, out.String(), tt.stdout, errs.String())
			}
			if got := errs.String(); tt.stderr == "" && got != "" || !strings.Contains(got, tt.stderr) {
				t.Errorf("stderr %q, want %q", got, tt.stderr)
			}
			if entries, err := os.ReadDir(scratch); err != nil || len(entries) != 1 {
				t.Errorf("the host's directory holds %v, %v", entries, err)
			}
		})
	}
}

func hostname(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/etc/hostname")
	if err != nil {
		t.Skip(err)
	}
	return string(b)
}

// TestImages runs an image in each of its forms.
func TestImages(t *testing.T) {
	kvmtest.Open(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	root := rootfs(t)
	layoutDir, archive := images(t, root, v1.Config{
		Env: []string{"GREETING=hello", "PATH=/bin"}, Entrypoint: []string{"sh", "-c"}, Cmd: []string{`echo "$GREETING"; pwd; id; echo $HOME`},
		WorkingDir: "/srv", User: "web",
	})
	const told = "hello\n/srv\nuid=33(web) gid=44(web) groups=5(log)\n/srv\n"
	for name, tt := range map[string]struct {
		args   []string
		code   int
		stdout string
	}{
		"directory":               {[]string{"--rootfs", root, "sh", "-c", "cat /srv/page; id -u; pwd"}, 0, "page0\n/\n"},
		"tar":                     {[]string{"--rootfs", tarFile(t, root), "cat", "/srv/page"}, 0, "page"},
		"OCI layout":              {[]string{"--rootfs", layoutDir}, 0, told},
		"docker archive":          {[]string{"--rootfs", archive}, 0, told},
		"a program of its own":    {[]string{"--rootfs", archive, "--", "sh", "-c", "echo $GREETING; exit 9"}, 9, "hello\n"},
		"flags beat the image":    {[]string{"--rootfs", layoutDir, "-u", "root", "-w", "/etc", "-e", "GREETING=bye"}, 0, "bye\n/etc\nuid=0(root) gid=0(root)\n/root\n"},
		"nothing of the host":     {[]string{"--rootfs", root, "ls", "/"}, 0, "bin\ndev\netc\nproc\nsrv\nsys\ntmp\n"},
		"writes are thrown away":  {[]string{"--rootfs", archive, "-u", "root", "sh", "-c", "echo x >/srv/page && cat /srv/page"}, 0, "x\n"},
		"and gone the next time":  {[]string{"--rootfs", archive, "cat", "/srv/page"}, 0, "page"},
		"writable directory":      {[]string{"--rootfs", root, "--writable", "sh", "-c", "echo new >/srv/new; cat /srv/new"}, 0, "new\n"},
		"program is not in there": {[]string{"--rootfs", root, "python3"}, exitNotFound, ""},
		"writable image":          {[]string{"--rootfs", archive, "--writable", "true"}, exitNative, ""},
		"nothing to do":           {[]string{"--rootfs", root}, exitNative, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := qenex(t, append([]string{"run"}, tt.args...)...)
			if code != tt.code || stdout != tt.stdout {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr %q", code, tt.code, stdout, tt.stdout, stderr)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(root, "srv/new")); string(b) != "new\n" {
		t.Errorf("--writable left %q, %v", b, err)
	}
}

// TestProgramSignals sends signals to the command and wants the program to get them.
func TestProgramSignals(t *testing.T) {
	kvmtest.Open(t)
	for _, sig := range []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGWINCH, syscall.Signal(40), syscall.Signal(64),
	} {
		t.Run(strconv.Itoa(int(sig)), func(t *testing.T) {
			n := strconv.Itoa(int(sig))
			cmd := command("run", "--", "bash", "-c", "trap 'echo got "+n+"; exit 5' "+n+"; echo ready; while :; do read -t 1 </dev/zero; done")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 6)
			if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "ready\n" {
				t.Fatalf("%q, %v", buf, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(out)
			if err != nil || string(rest) != "got "+n+"\n" {
				t.Errorf("then %q, %v", rest, err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 5 {
				t.Errorf("exit code %d, want 5", code)
			}
		})
	}
}

func TestProgramStats(t *testing.T) {
	kvmtest.Open(t)
	code, _, stderr := qenex(t, "run", "--json", "true")
	var s statsJSON
	if err := json.Unmarshal([]byte(stderr), &s); code != 0 || err != nil || s.Syscalls == 0 || s.CPUTimeNanos == 0 {
		t.Errorf("exit code %d, %v, %+v from %q", code, err, s, stderr)
	}
	if _, _, stderr = qenex(t, "run", "--stats", "true"); !strings.Contains(stderr, "system calls") {
		t.Errorf("--stats printed %q", stderr)
	}
}

// TestProgramTerminal runs a program that spoils its terminal, in several ways of ending, and wants the settings back.
func TestProgramTerminal(t *testing.T) {
	kvmtest.Open(t)
	for name, tt := range map[string]struct {
		script string
		type1  string // typed once the script has said ready
		code   int
	}{
		"exit":         {"stty raw -echo; echo ready; exit 3", "", 3},
		"killed":       {"stty raw -echo; echo ready; kill -9 $$", "", 137},
		"Ctrl-C":       {"stty -echo; trap 'exit 6' INT; echo ready; while :; do sleep 0.1; done", "\x03", 6},
		"is a tty":     {"test -t 0 && test -t 1 && test -t 2 && echo ready && exit 4", "", 4},
		"reads a line": {"echo ready; read line; test \"$line\" = typed && exit 8", "typed\n", 8},
	} {
		t.Run(name, func(t *testing.T) {
			master, tty := ptytest.Open(t)
			before, err := unix.IoctlGetTermios(tty, unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			own, err := unix.Dup(tty)
			if err != nil {
				t.Fatal(err)
			}
			slave := os.NewFile(uintptr(own), "terminal")
			defer slave.Close()
			cmd := command("run", "--", "sh", "-c", tt.script)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { // it ends with the pseudo-terminal
				var seen []byte
				buf := make([]byte, 4096)
				for {
					n, err := master.Read(buf)
					seen = append(seen, buf[:n]...)
					if bytes.Contains(seen, []byte("ready")) && tt.type1 != "" {
						_, _ = master.WriteString(tt.type1) // if this fails the program does not end as it should
						tt.type1 = ""
					}
					if err != nil {
						return
					}
				}
			}()
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			after, err := unix.IoctlGetTermios(tty, unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if *after != *before {
				t.Errorf("terminal settings %+v, were %+v", after, before)
			}
		})
	}
}
