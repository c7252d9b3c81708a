package fs9p_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/balloon"
	"github.com/qenex/qenex-kernel/virtio/console"
	"github.com/qenex/qenex-kernel/virtio/fs9p"
	"github.com/qenex/qenex-kernel/virtio/rng"
	"github.com/qenex/qenex-kernel/virtio/vsock"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than the guest takes: a hang ends the test, slowness does not.
const bootLimit = 5 * time.Minute

// must fails the test for an error, and returns what came with none.
func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLinux boots a guest whose root is a shared directory, with a second share that is read-only, a virtio console, a source of randomness,
// a balloon, and a socket to its agent, and uses all of them.
func TestLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	kvmtest.Open(t)
	kvmtest.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()

	top := t.TempDir()
	root, docs := filepath.Join(top, "root"), filepath.Join(top, "docs")
	for _, dir := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "docs", "etc"} {
		must(t, 0, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, 0, os.WriteFile(filepath.Join(root, "bin/busybox"), must2(os.ReadFile(linuxtest.File(t, artefact.Busybox)))(t), 0o755))
	must(t, 0, os.Symlink("busybox", filepath.Join(root, "bin/sh")))
	must(t, 0, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	must(t, 0, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o644))
	must(t, 0, os.Symlink("../secret", filepath.Join(root, "tmp", "up")))
	must(t, 0, os.Mkdir(docs, 0o755))
	must(t, 0, os.WriteFile(filepath.Join(docs, "readme"), []byte("read me"), 0o644))

	rootShare := must2(fs9p.New(fs9p.Config{Tag: "root", Dir: root}))(t)
	defer rootShare.Close()
	docShare := must2(fs9p.New(fs9p.Config{Tag: "docs", Dir: docs, ReadOnly: true}))(t)
	defer docShare.Close()
	random := must2(rng.New(rng.Config{}))(t)
	keys, keyboard := io.Pipe()
	defer keyboard.Close()
	serial, hvc := new(linuxtest.Console), new(linuxtest.Console)
	terminal := console.New(console.Config{Output: hvc, Input: keys, Cols: 91, Rows: 33})
	memory := balloon.New(balloon.Config{})
	sockets := must2(vsock.New(vsock.Config{CID: 3}))(t)
	defer sockets.Close()
	hello := must2(sockets.Listen(agent.Port))(t)

	m := must2(vmm.New(vmm.Config{
		Kernel: linuxtest.File(t, artefact.LeanELF), Initrds: []string{linuxtest.File(t, artefact.InitAgent)},
		Cmdline: "console=ttyS0 panic=-1 quiet qenex.root=root qenex.rootfs=9p qenex.share=docs:/docs:ro qenex.hold qenex.ip=off",
		Hints:   true, Memory: 128 * memmap.MiB, CPUs: 1, Heal: true, Console: serial,
		Virtio: []virtio.Device{sockets, rootShare, docShare, random, terminal, memory},
	}))(t)
	defer m.Close()
	defer func() {
		if t.Failed() {
			t.Logf("console:\n%s", serial)
		}
	}()
	must(t, 0, m.Start())
	_, err := agent.Ready(ctx, hello)
	must(t, 0, err)
	g := agent.New(sockets.Dial)
	run := func(script string) string {
		t.Helper()
		var out bytes.Buffer
		status, err := g.Exec(ctx, agent.Command{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Stdout: &out, Stderr: &out})
		if err != nil || status != 0 {
			t.Fatalf("%s: status %d, %q, %v", script, status, out.String(), err)
		}
		return out.String()
	}

	// The share: what either side writes the other reads; what is outside stays there. Randomness. The console's size, and its output.
	got := run(`cd /tmp; busybox mkdir d; echo from the guest >d/f; busybox mv d e
		read a </docs/readme; echo "$a."; (echo x >/docs/new) 2>/dev/null || echo refused; (read a <up) 2>/dev/null || echo nothing there
		read a </sys/class/misc/hw_random/rng_current; echo "$a."; busybox head -c 64 /dev/hwrng | busybox wc -c
		busybox stty -F /dev/hvc0 raw -echo size; echo to the host >/dev/hvc0`)
	if want := "read me.\nrefused\nnothing there\nvirtio_rng.0.\n64\n33 91\n"; got != want {
		t.Errorf("the guest says %q, want %q", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(root, "tmp/e/f")); err != nil || string(b) != "from the guest\n" {
		t.Errorf("the guest's file: %q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(docs, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the guest has written to the read-only share: %v", err)
	}
	go io.WriteString(keyboard, "to the guest\n")
	if got := run("read line </dev/hvc0; echo $line"); got != "to the guest\n" {
		t.Errorf("the guest has read %q", got)
	}
	if got := hvc.String(); !strings.Contains(got, "to the host") {
		t.Errorf("the console has %q", got)
	}

	// The balloon.
	before := must2(memory.Refresh(ctx))(t)
	must(t, 0, memory.SetTarget(16*memmap.MiB))
	for memory.Sizes().Actual != 16*memmap.MiB {
		must2(g.Ping(ctx))(t) // until the guest has given all
	}
	after := must2(memory.Refresh(ctx))(t)
	if b, a := before.Values["total_bytes"], after.Values["total_bytes"]; b == 0 || a != b-16*memmap.MiB {
		t.Errorf("the guest had %d bytes, and has %d after it gave 16 MiB: %v", b, a, after.Values)
	}
	must(t, 0, memory.SetTarget(0))
	for memory.Sizes().Actual != 0 {
		must2(g.Ping(ctx))(t)
	}

	// The socket: an echo of more than all of its buffers.
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{3}).Read(data)
	sum := md5.New()
	status, err := g.Exec(ctx, agent.Command{Args: []string{"/bin/busybox", "cat"}, Stdin: bytes.NewReader(data), Stdout: sum})
	if err != nil || status != 0 || fmt.Sprintf("%x", sum.Sum(nil)) != fmt.Sprintf("%x", md5.Sum(data)) {
		t.Errorf("echo: status %d, %v", status, err)
	}
	t.Logf("balloon %+v", memory.Sizes())

	must(t, 0, g.Shutdown(ctx, false, time.Second))
	if o, err := m.Wait(ctx); err != nil || o.Cause != vmm.PowerOff {
		t.Errorf("the machine ended with %+v, %v", o, err)
	}
}

// must2 is must for a call's own two results.
func must2[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T { t.Helper(); return must(t, v, err) }
}
