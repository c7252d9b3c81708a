package vmm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
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

// guestFile returns the path of a guest artefact made by `make guest`. Without it the test is skipped, or fails where
// QENEX_REQUIRE_GUEST is set.
func guestFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("QENEX_GUEST_DIR")
	if dir == "" {
		cache := os.Getenv("QENEX_CACHE")
		if cache == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				t.Fatal(err)
			}
			cache = filepath.Join(home, ".cache", "qenex")
		}
		dir = filepath.Join(cache, "guest")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
			t.Fatalf("guest artefact: %v; run make guest", err)
		}
		t.Skipf("NOT RUN: guest artefact: %v; run make guest", err)
	}
	return path
}

// textBuffer is console output that a test may look at while the guest writes.
type textBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *textBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *textBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// leanConfig is the lean kernel with the tiny initramfs, which says "QENEX: user space" and powers off.
func leanConfig(t testing.TB) (Config, *textBuffer) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	out := new(textBuffer)
	return Config{
		Kernel:  guestFile(t, "lean/vmlinux"),
		Initrds: []string{guestFile(t, "initramfs-tiny.cpio")},
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
