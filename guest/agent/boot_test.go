package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/rootdisk"
	"github.com/qenex/qenex-kernel/usernet"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/block"
	"github.com/qenex/qenex-kernel/virtio/fs9p"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/virtio/vsock"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than a boot and the test's commands take: a hang ends the test, slowness does not.
const bootLimit = 5 * time.Minute

// guest is a machine with the agent in it.
type guest struct {
	*agent.Client
	machine *vmm.Machine
	ctx     context.Context
	info    agent.Info
	console *linuxtest.Console
}

// bootGuest boots a kernel with the agent, and waits until the agent is ready. Config says kernel, initramfs, devices and the agent's
// words; the rest is the same for all.
func bootGuest(t *testing.T, cfg vmm.Config) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	t.Cleanup(cancel)
	sockets, err := vsock.New(vsock.Config{CID: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sockets.Close() })
	ready, err := sockets.Listen(agent.Port)
	if err != nil {
		t.Fatal(err)
	}
	out := new(linuxtest.Console)
	cfg.Cmdline = "console=ttyS0 panic=-1 quiet " + cfg.Cmdline
	cfg.Hints, cfg.Heal, cfg.CPUs, cfg.Console = true, true, 1, out
	cfg.Virtio = append([]virtio.Device{sockets}, cfg.Virtio...)
	m, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("console:\n%s", out)
		}
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	g := &guest{agent.New(sockets.Dial), m, ctx, agent.Info{}, out}
	if g.info, err = agent.Ready(ctx, ready); err != nil {
		t.Fatal(err)
	}
	ready.Close()
	t.Logf("Linux %s: agent ready at %v of the guest's clock", g.info.Kernel, time.Duration(g.info.Uptime).Round(time.Millisecond))
	return g
}

// off has the agent switch the guest off.
func (g *guest) off(t *testing.T) {
	t.Helper()
	if err := g.Shutdown(g.ctx, false, time.Second); err != nil {
		t.Fatal(err)
	}
	g.ends(t)
}

// press presses the power button.
func (g *guest) press(t *testing.T) {
	t.Helper()
	if err := g.machine.PowerButton(); err != nil {
		t.Fatal(err)
	}
	g.ends(t)
}

// ends waits until the guest has switched itself off.
func (g *guest) ends(t *testing.T) {
	t.Helper()
	if o, err := g.machine.Wait(g.ctx); err != nil || o.Cause != vmm.PowerOff {
		t.Errorf("the machine ended with %+v, %v", o, err)
	}
}

// run runs a shell command, which must succeed, and returns what it says.
func (g *guest) run(t *testing.T, user, script string) string {
	t.Helper()
	var out bytes.Buffer
	status, err := g.Exec(g.ctx, agent.Command{Args: []string{"sh", "-c", script}, User: user, Stdout: &out, Stderr: &out})
	if err != nil || status != 0 {
		t.Fatalf("%s: status %d, %q, %v", script, status, out.String(), err)
	}
	return out.String()
}

// needsKVM opens the KVM and tells whether it is a software one.
func needsKVM(t *testing.T) (software bool) {
	t.Helper()
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	kvmtest.NoLeaks(t)
	host, err := probe.Quick(kvmtest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	return host.SoftwareKVM
}

// disk makes a root file system of busybox and more files, names with their contents, and a disk of it. Programs begin with #!.
func disk(t *testing.T, files map[string]string) (virtio.Device, string) {
	t.Helper()
	root := t.TempDir()
	busybox, err := os.ReadFile(linuxtest.File(t, artefact.Busybox))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"bin/busybox": string(busybox), "tmp/.keep": "", "etc/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n"}
	maps.Copy(all, files)
	for name, content := range all {
		perm := fs.FileMode(0o644)
		if strings.HasPrefix(content, "#!") || name == "bin/busybox" {
			perm = 0o755
		}
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), perm)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("busybox", filepath.Join(root, "bin/sh")), os.Chmod(filepath.Join(root, "tmp"), 0o777)); err != nil {
		t.Fatal(err)
	}
	shared, _, err := rootdisk.Builder{Cache: t.TempDir(), Free: 64 << 20}.Build(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "disk") // our own: what is in a cache is not written to
	content, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := blockdev.Open(blockdev.Spec{Path: image, Format: blockdev.Raw})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	dev, err := block.New(block.Config{Disk: d})
	if err != nil {
		t.Fatal(err)
	}
	return dev, image
}

// card is a network card with a network of user space behind it.
func card(t *testing.T) virtio.Device {
	t.Helper()
	port, err := usernet.Open(usernet.Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	dev, err := nic.New(nic.Config{MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}}, port)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// server answers HTTP on the host's loopback with a text.
func server(t *testing.T, text string) (port int) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// TestWork boots the lean kernel from a disk that stays as it is, works in it, fetches a page over its network, and reads and
// writes a directory of the host.
func TestWork(t *testing.T) {
	needsKVM(t)
	root, image := disk(t, nil)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "from"), []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	share, err := fs9p.New(fs9p.Config{Tag: "work", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { share.Close() })
	g := bootGuest(t, vmm.Config{
		Kernel: linuxtest.File(t, artefact.LeanELF), Initrds: []string{linuxtest.File(t, artefact.InitAgent)}, Memory: 128 * memmap.MiB,
		Cmdline: "qenex.root=/dev/vda qenex.overlay=tmpfs qenex.share=work:/srv/work qenex.hold",
		Virtio:  []virtio.Device{root, card(t), share},
	})
	workOn(t, g)
	if got := g.run(t, "", "cd /srv/work; echo from the guest >to; busybox cat from"); got != "the host's" {
		t.Errorf("the host's file says %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "to")); err != nil || string(got) != "from the guest\n" {
		t.Errorf("the guest's file says %q, %v", got, err)
	}
	g.press(t)
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk under an overlay has changed, %v", err)
	}
}

// TestOwnInit boots a disk with an init of its own: that is process 1, the agent runs beside it, and what is written is on the
// disk when the machine is off.
func TestOwnInit(t *testing.T) {
	needsKVM(t)
	const text = "written in the guest, found on the host"
	root, image := disk(t, map[string]string{"sbin/init": "#!/bin/sh\necho the init is process $$\nwhile :; do busybox sleep 1000; done\n"})
	g := bootGuest(t, vmm.Config{
		Kernel: linuxtest.File(t, artefact.LeanELF), Initrds: []string{linuxtest.File(t, artefact.InitAgent)}, Memory: 128 * memmap.MiB,
		Cmdline: "qenex.root=/dev/vda", Virtio: []virtio.Device{root},
	})
	if g.info.PID == 1 {
		t.Error("the agent is process 1")
	}
	if g.info.Fault != "" || !strings.Contains(g.console.String(), artefact.Milestone) {
		t.Errorf("the agent says %+v", g.info)
	}
	if got := g.run(t, "", "echo "+text+" >/file; busybox cat /proc/1/comm"); got != "init\n" {
		t.Errorf("process 1 is %q", got)
	}
	g.off(t)
	if !strings.Contains(g.console.String(), "the init is process 1\r\n") {
		t.Error("the root's own init has not spoken")
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Contains(after, []byte(text)) {
		t.Errorf("the file is not on the disk, %v", err)
	}
}

// TestStockKernel does the same work with Debian's kernel, whose drivers are modules, over PCI and MMIO. It is the svm lane's test.
func TestStockKernel(t *testing.T) {
	if needsKVM(t) {
		if os.Getenv("QENEX_LANE") == "svm" {
			t.Fatal("the svm lane's KVM is a software one")
		}
		t.Skip("a stock kernel takes minutes on a software KVM: this test belongs to the svm lane (make test-svm)")
	}
	for name, transport := range map[string]vmm.Transport{"PCI": vmm.PCI, "MMIO": vmm.MMIO} {
		t.Run(name, func(t *testing.T) {
			root, _ := disk(t, nil)
			g := bootGuest(t, vmm.Config{
				Kernel: linuxtest.File(t, artefact.StockELF), Initrds: []string{linuxtest.File(t, artefact.InitStock)}, Memory: 512 * memmap.MiB,
				Cmdline: "qenex.root=/dev/vda qenex.overlay=tmpfs qenex.hold", Virtio: []virtio.Device{root, card(t)}, Transport: transport,
			})
			workOn(t, g)
			g.press(t)
		})
	}
}

// TestNoRoot: a guest whose root cannot be mounted says why, and runs nothing.
func TestNoRoot(t *testing.T) {
	if needsKVM(t) {
		t.Skip("one boot more on a software KVM: this test belongs to the svm lane (make test-svm)")
	}
	g := bootGuest(t, vmm.Config{
		Kernel: linuxtest.File(t, artefact.LeanELF), Initrds: []string{linuxtest.File(t, artefact.InitAgent)}, Memory: 128 * memmap.MiB,
		Cmdline: "qenex.root=no-such-device qenex.rootfs=9p",
	})
	if !strings.Contains(g.info.Fault, `"no-such-device"`) {
		t.Errorf("the agent says %+v", g.info)
	}
	if _, err := g.Exec(g.ctx, agent.Command{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("a command: %v", err)
	}
	g.off(t)
}

// workOn does in a guest what people do.
func workOn(t *testing.T, g *guest) {
	t.Helper()
	if g.info.PID != 1 || g.info.Fault != "" || !strings.Contains(g.console.String(), artefact.Milestone) {
		t.Fatalf("the agent says %+v", g.info)
	}
	for _, tt := range []struct {
		cmd    agent.Command
		status int
		out    string
	}{
		{agent.Command{Args: []string{"busybox", "echo", "hello"}}, 0, "hello\n"},
		{agent.Command{Args: []string{"sh", "-c", "exit 7"}}, 7, ""},
		{agent.Command{Args: []string{"busybox", "cat"}, Stdin: strings.NewReader("through the guest")}, 0, "through the guest"},
		{agent.Command{Args: []string{"busybox", "stty", "size"}, TTY: true, Size: agent.Size{Rows: 5, Columns: 6}}, 0, "5 6\r\n"},
		{agent.Command{Args: []string{"busybox", "id", "-u"}, User: "ann", TTY: true}, 0, "1000\r\n"},
	} {
		var out bytes.Buffer
		tt.cmd.Stdout = &out
		status, err := g.Exec(g.ctx, tt.cmd)
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
	if err := g.Upload(g.ctx, filepath.Join(dir, "a"), "/tmp/b", false); err != nil {
		t.Fatal(err)
	}
	if err := g.Download(g.ctx, "/tmp/b", filepath.Join(dir, "c"), tree.Options{}); err != nil {
		t.Fatal(err)
	}
	if back, err := os.ReadFile(filepath.Join(dir, "c")); err != nil || !bytes.Equal(back, content) {
		t.Errorf("1 MiB came back as %d bytes, %v", len(back), err)
	}
	n, err := g.Network(g.ctx, agent.Network{})
	if err != nil || n.Address == "" || n.Gateway == "" || n.DNS == "" {
		t.Fatalf("the network: %+v, %v", n, err)
	}
	fetch := fmt.Sprintf("grep -q '^nameserver %s$' /etc/resolv.conf; busybox wget -q -O - http://%s:%d/", n.DNS, n.Gateway, server(t, "a page"))
	if got := g.run(t, "", "set -e; busybox "+fetch); got != "a page" {
		t.Errorf("fetched %q", got)
	}
	if err := errors.Join(g.SyncTime(g.ctx), g.Reseed(g.ctx)); err != nil {
		t.Error(err)
	}
	if got := g.run(t, "", "kill -HUP 1; kill -SEGV 1; busybox head -n 1 /etc/hosts"); got != "127.0.0.1\tlocalhost\n" { // init stays
		t.Errorf("/etc/hosts begins with %q", got)
	}
	if now := strings.TrimSpace(g.run(t, "", "busybox date +%Y")); now != strconv.Itoa(time.Now().Year()) {
		t.Errorf("the guest's year is %s", now)
	}
}
