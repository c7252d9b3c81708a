package vmm

import (
	"context"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// bareConfig is a machine of one CPU and the least memory that runs code.
func bareConfig(t testing.TB, code []byte) Config {
	return Config{Kernel: bareguest.Kernel(t, code), Boot: boot.Direct, Memory: MinMemory, CPUs: 1, Heal: true, Tables: NoTable}
}

// newMachine builds a machine that is closed, without leaks, when the test ends.
func newMachine(t testing.TB, cfg Config) *Machine {
	t.Helper()
	kvmtest.NoLeaks(t)
	kvmtest.Open(t) // skips or fails without KVM
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// runToEnd starts the machine and waits for its end.
func runToEnd(t testing.TB, m *Machine, limit time.Duration) Outcome {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	o, err := m.Wait(ctx)
	if err != nil {
		t.Fatalf("machine did not end in %v: %v", limit, err)
	}
	return o
}

// leanConfig is the lean kernel with the tiny initramfs, which says "QENEX: user space" and powers off.
func leanConfig(t testing.TB) (Config, *linuxtest.Console) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	out := new(linuxtest.Console)
	return Config{
		Kernel:  linuxtest.File(t, "lean/vmlinux"),
		Initrds: []string{linuxtest.File(t, "initramfs-tiny.cpio")},
		Cmdline: "console=ttyS0 panic=-1 pci=off quiet",
		Hints:   true,
		Memory:  64 * memmap.MiB,
		CPUs:    1,
		Heal:    true,
		Console: out,
	}, out
}

// bootLimit is far more than any boot takes: a hang ends the test, slowness does not.
const bootLimit = 3 * time.Minute
