package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/vsock"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than a boot and the test's commands take: a hang ends the test, slowness does not.
const bootLimit = 5 * time.Minute

// console keeps what the guest writes.
type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// file is a guest artefact.
func file(t *testing.T, name string) string {
	t.Helper()
	path, err := artefact.Path(name)
	if err != nil {
		if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
			t.Fatal(err)
		}
		t.Skipf("NOT RUN: %v", err)
	}
	return path
}

// bootAgent boots a kernel with the agent over busybox's files, and waits until the agent is ready.
func bootAgent(t *testing.T, kernel, initramfs, words string) (*agent.Client, *vmm.Machine, context.Context) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	kvmtest.Open(t)
	kvmtest.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	t.Cleanup(cancel)
	sockets, err := vsock.New(vsock.Config{CID: 3})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := sockets.Listen(agent.Port)
	if err != nil {
		t.Fatal(err)
	}
	out := new(console)
	m, err := vmm.New(vmm.Config{
		Kernel:  file(t, kernel),
		Initrds: []string{file(t, artefact.InitBusybox), file(t, initramfs)}, // the agent's /init is the later one
		Cmdline: "console=ttyS0 panic=-1 quiet " + words,
		Hints:   true,
		Memory:  128 * memmap.MiB,
		CPUs:    1,
		Heal:    true,
		Console: out,
		Virtio:  []virtio.Device{sockets},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		sockets.Close()
		if t.Failed() {
			t.Logf("console:\n%s", out)
		}
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	info, err := agent.Ready(ctx, ready)
	if err != nil {
		t.Fatalf("%v; console:\n%s", err, out)
	}
	ready.Close()
	if info.PID != 1 || info.Fault != "" || !strings.Contains(out.String(), artefact.Milestone) {
		t.Fatalf("the agent says %+v; console:\n%s", info, out)
	}
	t.Logf("Linux %s: agent ready at %v of the guest's clock", info.Kernel, time.Duration(info.Uptime))
	return agent.New(sockets.Dial), m, ctx
}

// TestBoot boots the lean kernel with the agent, runs commands, copies 1 MiB in and out, and has the guest switch itself off.
func TestBoot(t *testing.T) {
	c, m, ctx := bootAgent(t, artefact.LeanELF, artefact.InitAgent, "")
	workOn(t, ctx, c)
	if err := c.Shutdown(ctx, false, time.Second); err != nil {
		t.Fatal(err)
	}
	if o, err := m.Wait(ctx); err != nil || o.Cause != vmm.PowerOff {
		t.Errorf("the machine ended with %+v, %v", o, err)
	}
}

// workOn does in a guest what people do.
func workOn(t *testing.T, ctx context.Context, c *agent.Client) {
	for _, tt := range []struct {
		cmd    agent.Command
		status int
		out    string
	}{
		{agent.Command{Args: []string{"busybox", "echo", "hello"}}, 0, "hello\n"},
		{agent.Command{Args: []string{"sh", "-c", "exit 7"}}, 7, ""},
		{agent.Command{Args: []string{"busybox", "cat"}, Stdin: strings.NewReader("through the guest")}, 0, "through the guest"},
		{agent.Command{Args: []string{"sh", "-c", "test -t 0 && busybox stty size"}, TTY: true, Size: agent.Size{Rows: 5, Columns: 6}}, 0, "5 6\r\n"},
	} {
		var out bytes.Buffer
		tt.cmd.Stdout = &out
		start := time.Now()
		status, err := c.Exec(ctx, tt.cmd)
		t.Logf("%q: %v", tt.cmd.Args, time.Since(start))
		if err != nil || status != tt.status || out.String() != tt.out {
			t.Fatalf("%q: status %d, %q, %v; want %d, %q", tt.cmd.Args, status, out.String(), err, tt.status, tt.out)
		}
	}
	dir := t.TempDir()
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i ^ i>>8 ^ i>>16)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := c.Upload(ctx, filepath.Join(dir, "a"), "/tmp/b", false); err != nil {
		t.Fatal(err)
	}
	in := time.Since(start)
	if err := c.Download(ctx, "/tmp/b", filepath.Join(dir, "c"), tree.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("1 MiB in: %v, out: %v", in, time.Since(start)-in)
	if back, err := os.ReadFile(filepath.Join(dir, "c")); err != nil || !bytes.Equal(back, content) {
		t.Errorf("1 MiB came back as %d bytes, %v", len(back), err)
	}
	if err := c.SyncTime(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Reseed(ctx); err != nil {
		t.Error(err)
	}
	if n, err := c.Network(ctx, agent.Network{}); err != nil || n.Address != "" {
		t.Errorf("the network of a guest without a card: %+v, %v", n, err)
	}
}
