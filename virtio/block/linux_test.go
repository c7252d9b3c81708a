package block_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/block"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than the guest takes: a hang ends the test, slowness does not.
const bootLimit = 3 * time.Minute

// TestLinux boots a guest with three disks: it copies a part of the first, which is then looked at here; may not write the second; and
// writes to the third, whose image stays as it is.
func TestLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	kvmtest.Open(t)
	kvmtest.NoLeaks(t)
	const kib = 1 << 10
	content := make([]byte, 1024*kib)
	rand.NewChaCha8([32]byte{1}).Read(content)
	dir := t.TempDir()
	open := func(name string, s blockdev.Spec, c block.Config) (string, *block.Device) {
		s.Path, s.Format = filepath.Join(dir, name), blockdev.Raw
		if err := os.WriteFile(s.Path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		disk, err := blockdev.Open(s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { disk.Close() })
		c.Disk = disk
		c.Failed = func(err error) { t.Errorf("%s: %v", name, err) }
		dev, err := block.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return s.Path, dev
	}
	pathA, a := open("a", blockdev.Spec{}, block.Config{Serial: "QENEX-1", Queues: 2})
	_, b := open("b", blockdev.Spec{ReadOnly: true}, block.Config{})
	pathC, c := open("c", blockdev.Spec{Throwaway: true, Dir: dir}, block.Config{})

	out := new(linuxtest.Console)
	m, err := vmm.New(vmm.Config{
		Kernel:  linuxtest.File(t, artefact.LeanELF),
		Initrds: []string{linuxtest.File(t, artefact.InitBusybox)},
		Cmdline: "console=ttyS0 panic=-1 pci=off quiet qenex.cmd=\"" + strings.Join([]string{
			"cd /sys/block", "read s <vda/serial", "read r <vdb/ro", "read w <vda/queue/write_cache", "echo serial=$s ro=$r cache=$w.", "cd /dev",
			"dd if=vda of=vda bs=64k count=4 seek=8 conv=fsync,notrunc",
			"blkdiscard -o 262144 -l 65536 vda",
			"blockdev --flushbufs /dev/vda", // forgets what it has read and written
			"dd if=vda bs=64k count=4 skip=8 | md5sum",
			"md5sum vdb",
			"dd if=vda of=vdb bs=4k count=1 conv=fsync,notrunc || echo refused",
			"dd if=vda of=vdc bs=64k count=2 seek=8 conv=fsync,notrunc",
			"blockdev --flushbufs /dev/vdc",
			"dd if=vdc bs=64k count=2 skip=8 | md5sum",
		}, ";") + `"`,
		Hints: true, Memory: 64 * memmap.MiB, CPUs: 1, Heal: true, Console: out,
		Virtio: []virtio.Device{a, b, c},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if o, err := m.Wait(ctx); err != nil || o.Cause != vmm.PowerOff {
		t.Fatalf("outcome %v, %v; console:\n%s", o, err, out)
	}
	for _, want := range []string{
		"serial=QENEX-1 ro=1 cache=write back.", "refused",
		fmt.Sprintf("%x", md5.Sum(content)), fmt.Sprintf("%x", md5.Sum(content[:256*kib])), fmt.Sprintf("%x", md5.Sum(content[:128*kib])),
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the console has no %q", want)
		}
	}
	changed := bytes.Clone(content)
	copy(changed[512*kib:][:256*kib], content)
	clear(changed[256*kib:][:64*kib])
	for path, want := range map[string][]byte{pathA: changed, pathC: content} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what it should be, %v", path, err)
		}
	}
	t.Logf("%+v, %+v, %+v", a.Stats(), b.Stats(), c.Stats())
	if t.Failed() {
		t.Logf("console:\n%s", out)
	}
}
