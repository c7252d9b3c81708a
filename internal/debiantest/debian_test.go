package debiantest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/usernet"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/block"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/virtio/vsock"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than the guest takes: a hang ends the test, slowness does not.
const bootLimit = 4 * time.Minute

// vmmEnv makes this program the VMM that is killed: it names a directory, diskEnv the disk below the overlay.
const (
	vmmEnv  = "QENEX_DEBIAN_VMM"
	diskEnv = "QENEX_DEBIAN_DISK"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(vmmEnv); dir != "" {
		if err := runVMM(dir, os.Getenv(diskEnv)); err != nil {
			fmt.Fprintln(os.Stderr, "vmm:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runVMM runs a machine of Debian's kernel, with the disk, a user-mode network and a socket device on PCI, to its end.
func runVMM(dir, disk string) (err error) {
	kernel, err := artefact.Path(artefact.StockELF)
	if err != nil {
		return err
	}
	initrd, err := artefact.Path(artefact.InitStock)
	if err != nil {
		return err
	}
	storage, err := blockdev.Open(blockdev.Spec{Path: disk, Format: blockdev.Raw, Overlay: filepath.Join(dir, "overlay")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	root, err := block.New(block.Config{Disk: storage, Serial: "debian"})
	if err != nil {
		return err
	}
	port, err := usernet.Open(usernet.Config{Loopback: true})
	if err != nil {
		return err
	}
	defer port.Close()
	card, err := nic.New(nic.Config{MAC: usernet.MACPeer}, port)
	if err != nil {
		return err
	}
	sockets, err := vsock.New(vsock.Config{CID: 3, Path: filepath.Join(dir, "vsock")})
	if err != nil {
		return err
	}
	defer sockets.Close()
	m, err := vmm.New(vmm.Config{
		Kernel: kernel, Initrds: []string{initrd}, Cmdline: "console=ttyS0 panic=-1 quiet qenex.root=/dev/vda qenex.hold",
		Memory: 512 * memmap.MiB, CPUs: 1, Hints: true, Heal: true, Console: os.Stdout,
		Virtio: []virtio.Device{root, card, sockets}, Transport: vmm.PCI,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Start(); err != nil {
		return err
	}
	outcome, err := m.Wait(context.Background())
	if err == nil && outcome.Cause != vmm.PowerOff {
		err = fmt.Errorf("the guest ended by %v", outcome)
	}
	return err
}

// machine is a VMM in a process of its own.
type machine struct {
	*agent.Client
	cmd     *exec.Cmd
	console bytes.Buffer // to be read when the process has ended
}

// boot starts a machine and waits for its agent.
func boot(t *testing.T, ctx context.Context, dir, disk string) *machine {
	t.Helper()
	path := filepath.Join(dir, "vsock")
	// A VMM that was killed leaves its socket.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, agent.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := &machine{cmd: exec.CommandContext(ctx, os.Args[0])}
	m.cmd.Env = append(os.Environ(), vmmEnv+"="+dir, diskEnv+"="+disk)
	m.cmd.Stdout, m.cmd.Stderr = &m.console, &m.console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.cmd.ProcessState == nil {
			m.kill(t)
		}
		if t.Failed() {
			t.Logf("a machine's console:\n%s", m.console.String())
		}
	})
	info, err := agent.Ready(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Linux %s: agent ready at %v of the guest's clock", info.Kernel, time.Duration(info.Uptime).Round(time.Millisecond))
	m.Client = agent.New(func(port uint32) (net.Conn, error) { return connect(path, port) })
	return m
}

// connect opens a connection to the guest's port through the machine's unix socket.
func connect(path string, port uint32) (net.Conn, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		c.Close()
		return nil, err
	}
	// The answer byte by byte: what follows it is the agent's.
	var line []byte
	for b := []byte{0}; b[0] != '\n' && len(line) < 64; line = append(line, b[0]) {
		if _, err := c.Read(b); err != nil {
			c.Close()
			return nil, err
		}
	}
	if !bytes.HasPrefix(line, []byte("OK ")) {
		c.Close()
		return nil, fmt.Errorf("the socket device answers %q", line)
	}
	return c, nil
}

// kill is kill -9.
func (m *machine) kill(t *testing.T) {
	t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := m.cmd.Wait(); err == nil {
		t.Error("the VMM ended well before it was killed")
	}
}

// sh runs a shell command in the guest and returns what it prints.
func (m *machine) sh(t *testing.T, ctx context.Context, command string) string {
	t.Helper()
	var out bytes.Buffer
	status, err := m.Exec(ctx, agent.Command{Args: []string{"sh", "-ec", command}, Stdout: &out, Stderr: &out})
	if err != nil || status != 0 {
		t.Fatalf("%s: status %d, %v\n%s", command, status, err, out.String())
	}
	return out.String()
}

// debianDisk finds the root disk: in the svm lane as a disk of the outer machine.
func debianDisk(t *testing.T) string {
	t.Helper()
	if disks := os.Getenv("QENEX_DISKS"); disks != "" {
		return strings.Split(disks, ",")[0]
	}
	host, err := probe.Quick(kvmtest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	if host.SoftwareKVM {
		t.Skip("a stock kernel takes minutes on a software KVM: this test belongs to the svm lane (make test-svm)")
	}
	path, err := artefact.Path("debian.ext4")
	if err != nil {
		t.Skipf("NOT TESTED: %v; this one takes: sudo guest/build.sh debian", err)
	}
	return path
}

// TestKilled writes a file in a Debian guest, kills the VMM and finds the file in the next boot, with a clean file system.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	disk := debianDisk(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	dir := t.TempDir()

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "over the network") })}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Close(); <-served }()

	m := boot(t, ctx, dir, disk)
	if out := m.sh(t, ctx, "apt-get --version"); !strings.HasPrefix(out, "apt 2.") {
		t.Errorf("apt-get says %q", out)
	}
	if out := m.sh(t, ctx, "cat /etc/debian_version; findmnt -no FSTYPE,SOURCE / || grep ' / ' /proc/mounts"); !strings.HasPrefix(out, "12.") || !strings.Contains(out, "ext4") {
		t.Errorf("the root is %q", out)
	}
	m.sh(t, ctx, fmt.Sprintf("/usr/lib/apt/apt-helper download-file http://%v:%d/file /root/fetched", usernet.Router, l.Addr().(*net.TCPAddr).Port))
	sum := m.sh(t, ctx, "mkdir -p /srv/deep; head -c 4000000 /dev/urandom >/srv/deep/file; sync; sha256sum </srv/deep/file")
	// Something is always on its way when a machine is killed.
	if _, err := m.Start(ctx, agent.Command{Args: []string{"sh", "-c", "while :; do cp -r /usr/share/doc /tmp/doc; rm -r /tmp/doc; done"}}); err != nil {
		t.Fatal(err)
	}
	m.sh(t, ctx, "until [ -d /tmp/doc ]; do :; done")
	m.kill(t)

	m = boot(t, ctx, dir, disk)
	if out := m.sh(t, ctx, "sha256sum </srv/deep/file; cat /root/fetched"); out != sum+"over the network\n" {
		t.Errorf("after the kill: %q, want %q", out, sum)
	}
	t.Log(m.sh(t, ctx, "sync; mount -o remount,ro /; e2fsck -fn /dev/vda 2>&1"))
	if err := m.Shutdown(ctx, false, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
