//go:build !kernelonly

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// daemon is a containerd of the test's own, beside any that the machine has.
type daemon struct {
	t       *testing.T
	address string
}

func startContainerd(t *testing.T) *daemon {
	t.Helper()
	kvmtest.Open(t)
	for _, p := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		if _, err := exec.LookPath(p); err != nil || os.Getuid() != 0 {
			text := fmt.Sprintf("NOT TESTED with containerd: needs root (user %d) and Debian's package containerd: %v", os.Getuid(), err)
			if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
				t.Fatal(text)
			}
			t.Skip(text)
		}
	}
	dir, err := os.MkdirTemp("", "qenex-ctr-") // short: it holds socket addresses
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t, filepath.Join(dir, "sock")}
	config := fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "%[1]s/sock"
[ttrpc]
  address = "%[1]s/ttrpc"
`, dir)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("containerd", "-c", filepath.Join(dir, "config.toml"))
	cmd.Env = append(os.Environ(), "QENEX_TEST_COMMAND=1") // for the runtime, which is this test program
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("containerd's log:\n%s", text)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for tick := time.Tick(20 * time.Millisecond); ; {
		if _, code := d.ctr("version"); code == 0 {
			return d
		}
		select {
		case <-tick:
		case <-ended:
			t.Fatal("containerd ended at once")
		}
	}
}

// ctr runs containerd's client.
func (d *daemon) ctr(args ...string) (output string, code int) {
	d.t.Helper()
	cmd := exec.Command("ctr", append([]string{"-a", d.address}, args...)...)
	cmd.Stdin = strings.NewReader("typed\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run()
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestContainerd lets containerd run containers with this runtime.
func TestContainerd(t *testing.T) {
	root := rootfs(t)
	d := startContainerd(t)
	runtime := []string{"--runtime", "io.containerd.runc.v2", "--runc-binary", os.Args[0], "--runc-root", filepath.Join(t.TempDir(), "state"), "--rootfs"}

	args := append([]string{"run", "--rm"}, runtime...)
	out, code := d.ctr(append(args, "--env", "A=b", "--cwd", "/srv", root, "one", "/bin/sh", "-c", "echo $A; cat page; read line; echo $line; exit 6")...)
	if code != 6 || out != "b\npagetyped\n" {
		t.Errorf("run: exit code %d, output %q", code, out)
	}

	args = append([]string{"run", "--detach"}, runtime...)
	if out, code = d.ctr(append(args, root, "two", "/bin/sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done")...); code != 0 {
		t.Fatalf("run --detach: exit code %d, output %q", code, out)
	}
	for _, step := range []struct {
		args []string
		code int
		want string // in the output
	}{
		{[]string{"task", "ls"}, 0, "RUNNING"},
		{[]string{"task", "exec", "--exec-id", "e", "two", "/bin/sh", "-c", "read line; echo $line; exit 4"}, 4, "typed\n"},
		{[]string{"task", "ps", "two"}, 0, "PID"},
		{[]string{"task", "pause", "two"}, 0, ""},
		{[]string{"task", "ls"}, 0, "PAUSED"},
		{[]string{"task", "resume", "two"}, 0, ""},
		{[]string{"task", "ls"}, 0, "RUNNING"},
		{[]string{"task", "kill", "--signal", "SIGTERM", "two"}, 0, ""},
		{[]string{"task", "delete", "two"}, 0, "exit code 9"},
		{[]string{"container", "rm", "two"}, 0, ""},
	} {
		if step.args[1] == "delete" {
			for out := ""; !strings.Contains(out, "STOPPED"); { // ctr cannot wait for a task
				out, _ = d.ctr("task", "ls")
			}
		}
		out, code := d.ctr(step.args...)
		if code != step.code || !strings.Contains(out, step.want) {
			t.Errorf("ctr %q: exit code %d, want %d; output %q, want %q", step.args, code, step.code, out, step.want)
		}
	}
	if out, _ := d.ctr("container", "ls", "-q"); out != "" {
		t.Errorf("left behind: %q", out)
	}
}
