//go:build !kernelonly

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

// needGuest skips a test that boots Linux where there is none to boot.
func needGuest(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots Linux")
	}
	for _, name := range []string{artefact.LeanKernel, artefact.InitAgent} {
		if _, err := artefact.Path(name); err != nil {
			if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
				t.Fatal(err)
			}
			t.Skip("NOT TESTED: ", err)
		}
	}
}

// TestImage runs what an OCI image was made to run, as the image says and the flags change it, on a kernel of its own.
func TestImage(t *testing.T) {
	needGuest(t)
	r := ownFleet(t)
	layout, _ := images(t, rootfs(t), v1.Config{
		Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{`trap 'exit 6' TERM; echo "$A $B"; pwd; id -u; cat page; read line; echo wrong >&2; echo "read $line"; while :; do sleep 0.1; done`},
		Env: []string{"A=image", "B=image"}, WorkingDir: "/srv", User: "web",
	})
	cmd := command("run", "--image", "oci:"+layout, "--env", "B=flag")
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader("typed\n"), &errs
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const want = "image flag\n/srv\n33\npageread typed\n"
	out := make([]byte, len(want))
	if n, err := io.ReadFull(pipe, out); err != nil || string(out) != want {
		t.Errorf("output %q, %v", out[:n], err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil { // the program's own way to end
		t.Error(err)
	}
	if more, err := io.ReadAll(pipe); err != nil || len(more) != 0 {
		t.Errorf("more output %q, %v", more, err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 6 || errs.String() != "wrong\n" {
		t.Errorf("exit code %d, errors %q", code, &errs)
	}
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestImageMachine works in a machine in the background: commands, a terminal, files both ways, logs, and an orderly end.
func TestImageMachine(t *testing.T) {
	needGuest(t)
	r := ownFleet(t)
	root := rootfs(t)
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "from-host"), []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "run", "--image", "dir:"+root, "-d", "--name", "web", "--balloon", "--share", shared+":/shared", "/bin/sh", "-c", "echo begun; exit 4"); out != "web\n" {
		t.Fatalf("output %q", out)
	}

	for _, tt := range []struct {
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"/bin/sh", "-c", "echo out; echo err >&2; exit 5"}, "", 5, "out\n", "err\n"},
		{[]string{"--", "cat"}, strings.Repeat("0123456789", 100000), 0, strings.Repeat("0123456789", 100000), ""},
		{[]string{"no-such-program"}, "", exitNotFound, "", "no-such-program"},
		{[]string{"/srv/page"}, "", exitNotExecutable, "", "permission"},
		{[]string{"/bin/sh", "-c", "kill -9 $$"}, "", 137, "", ""},
		{[]string{"/bin/sh", "-c", "cat /shared/from-host; echo guest > /shared/from-guest"}, "", 0, "host", ""},
	} {
		args := append([]string{"exec", "web"}, tt.args...)
		cmd := command(args...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.stdin), &out, &errs
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || out.String() != tt.stdout || !strings.Contains(errs.String(), tt.stderr) {
			t.Errorf("%q: exit code %d, want %d; output %.100q, want %.100q; errors %q, want %q", args, code, tt.code, &out, tt.stdout, &errs, tt.stderr)
		}
	}
	if out := must(t, "exec", "-e", "A=b", "--cwd", "/srv", "-u", "web", "web", "/bin/sh", "-c", "echo $A; pwd; id -u"); out != "b\n/srv\n33\n" {
		t.Errorf("output %q", out)
	}
	if text, err := os.ReadFile(filepath.Join(shared, "from-guest")); err != nil || string(text) != "guest\n" {
		t.Errorf("the share has %q, %v", text, err)
	}
	execTerminal(t)
	copyFiles(t)

	must(t, "pause", "web")
	if got, _ := row(t, "web"); got.State != fleet.StatePaused {
		t.Errorf("state %s", got.State)
	}
	must(t, "resume", "web")
	var b fleet.Balloon
	if err := json.Unmarshal([]byte(must(t, "balloon", "web", "16M")), &b); err != nil || b.Target != 16<<20 {
		t.Errorf("balloon %+v, %v", b, err)
	}
	if out := must(t, "metrics", "web"); !strings.Contains(out, "qenex_agent_ready{vm=\"web\"} 1\n") || !strings.Contains(out, `qenex_disk_reads_total{vm="web",disk="0"}`) {
		t.Errorf("metrics %q", out)
	}
	if out := must(t, "logs", "--follow=false", "web"); out != "begun\n" {
		t.Errorf("logs %q", out)
	}
	if out := must(t, "logs", "--console", "web"); !strings.Contains(out, artefact.Milestone) {
		t.Errorf("console %q", out)
	}
	got, _ := row(t, "web")
	if got.State != fleet.StateRunning || got.Agent != "ready" || got.CommandCode == nil || *got.CommandCode != 4 {
		t.Errorf("%+v", got)
	}
	vm, err := r.Get("web")
	if err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := qenex(t, "stop", "web"); code != exitOK || stderr != "" {
		t.Errorf("stop: exit code %d, %q", code, stderr)
	}
	for vm.Process.Alive() {
		// it has answered, and ends
	}
	if got, _ := row(t, "web"); got.State != fleet.StateEnded || got.Outcome.Cause != "power-off" {
		t.Errorf("%+v", got)
	}
}

// TestDetachedGuestDies wants the command that waits for an agent to tell how the guest ended instead, and what it said to stay.
func TestDetachedGuestDies(t *testing.T) {
	needGuest(t)
	r := ownFleet(t)
	kernel, err := artefact.Path(artefact.LeanKernel)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, exitPanic, "ended by panic", "run", "--kernel", kernel, "--agent", "-d", "--name", "short", "--cmdline", serialConsole+" panic=-1 rdinit=/none init=/none root=/dev/none")
	if vm, err := r.Get("short"); err != nil || vm.Outcome == nil {
		t.Fatalf("%+v, %v", vm, err)
	}
	if out := must(t, "logs", "short"); !strings.Contains(out, "Kernel panic") {
		t.Errorf("logs %q", out)
	}
}

// execTerminal runs a command on a terminal, of which it knows the size.
func execTerminal(t *testing.T) {
	t.Helper()
	master, tty := ptytest.Open(t)
	if err := unix.IoctlSetWinsize(tty, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	own, err := unix.Dup(tty)
	if err != nil {
		t.Fatal(err)
	}
	slave := os.NewFile(uintptr(own), "terminal")
	defer slave.Close()
	cmd := command("exec", "-it", "web", "/bin/sh", "-c", "stty size; read line; echo got $line; exit 3")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text := ""
	for !strings.Contains(text, "33 77") {
		buf := make([]byte, 4096)
		n, err := master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		text += string(buf[:n])
	}
	if _, err := io.WriteString(master, "typed\r"); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(text, "got typed") {
		buf := make([]byte, 4096)
		n, err := master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		text += string(buf[:n])
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d after %q", code, text)
	}
}

// copyFiles copies a file, a directory and a stream, both ways.
func copyFiles(t *testing.T) {
	t.Helper()
	here := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(here, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(here, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	same := func(name, want string) {
		t.Helper()
		if text, err := os.ReadFile(filepath.Join(here, name)); err != nil || string(text) != want {
			t.Errorf("%s is %.50q, %v; want %.50q", name, text, err, want)
		}
	}
	long := strings.Repeat("line\n", 100000)
	write("long", long)
	write("dir/a", "a")
	write("dir/sub/b", "b")
	must(t, "cp", filepath.Join(here, "long"), "web:/root/copy")
	must(t, "cp", "web:/root/copy", filepath.Join(here, "back"))
	same("back", long)
	must(t, "cp", filepath.Join(here, "dir"), "web:/srv/")
	must(t, "cp", "web:/srv/dir/sub", here)
	same("sub/b", "b")
	refused(t, exitFailure, "no-such-file", "cp", "web:/no-such-file", here)
	refused(t, exitFailure, "no-such-file", "cp", filepath.Join(here, "no-such-file"), "web:/root/")

	archive := must(t, "cp", "web:/srv/dir", "-")
	cmd := command("cp", "-", "web:/root/unpacked")
	cmd.Stdin = strings.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	must(t, "cp", "web:/root/unpacked/dir/a", filepath.Join(here, "stream"))
	same("stream", "a")
}

// TestImageDevices has a machine with every device: a page over its network from a server on this host's loopback, 64 MiB from one disk to
// another and from there to a third, and bytes to and fro over its socket device.
func TestImageDevices(t *testing.T) {
	needGuest(t)
	ownFleet(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page "+r.URL.Path+"\n") }))
	defer web.Close()
	const size = 64 << 20
	dir := t.TempDir()
	disks := [3]string{filepath.Join(dir, "full"), filepath.Join(dir, "copy"), filepath.Join(dir, "again")}
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{6}).Read(content)
	for path, b := range map[string][]byte{disks[0]: content, disks[1]: nil, disks[2]: nil, filepath.Join(dir, "hello"): []byte("shared\n")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range disks[1:] {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := strings.Cut(web.Listener.Addr().String(), ":")
	cmd := command("run", "--image", "dir:"+rootfs(t), "--net", "host-loopback", "--console", "virtio", "--balloon", "--rng",
		"--vsock", filepath.Join(dir, "vsock"), "--share", dir+":/shared:ro",
		"--disk", disks[0]+",format=raw,ro,serial=full", "--disk", disks[1]+",format=raw", "--disk", disks[2]+",format=raw",
		"--", "/bin/sh", "-c", `set -e; cat; cat /sys/block/vdb/serial; echo; wget -qO- http://10.0.2.2:`+port+`/from/guest
			dd if=/dev/vdb of=/dev/vdc bs=1M iflag=direct oflag=direct; dd if=/dev/vdc of=/dev/vdd bs=1M iflag=direct oflag=direct
			cat /sys/class/misc/hw_random/rng_current; cat /shared/hello`)
	echo := strings.Repeat("to and fro ", 10000) + "\n"
	cmd.Stdin = strings.NewReader(echo)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if want := echo + "full\npage /from/guest\nvirtio_rng.0\nshared\n"; err != nil || string(out) != want {
		t.Errorf("output %.200q ... %q, want an end of %q; %v; errors %q", out, out[max(0, len(out)-200):], want[len(echo):], err, &errs)
	}
	for _, path := range disks {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, not those of the first disk; %v", path, len(got), err)
		}
	}
}
