package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// Bare guests: 64-bit code that is entered at bareBase with the lower 4 GiB mapped one to one.
const bareBase = 0x100000

var (
	powerOff   = []byte{0x66, 0xBA, 0x00, 0x06, 0xB0, 0x34, 0xEE, 0xEB, 0xFE} // mov dx, 0x600; mov al, 0x34; out dx, al; jmp .
	rebootKBD  = []byte{0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE}                   // mov al, 0xfe; out 0x64, al; jmp .
	rebootACPI = []byte{0x66, 0xBA, 0x02, 0x06, 0xB0, 0x01, 0xEE, 0xEB, 0xFE} // mov dx, 0x602; mov al, 1; out dx, al; jmp .
	rebootCF9  = []byte{0x66, 0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE, 0xEB, 0xFE} // mov dx, 0xcf9; mov al, 6; out dx, al; jmp .
	panicked   = []byte{0x66, 0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE, 0xEB, 0xFE} // mov dx, 0x505; mov al, 1; out dx, al; jmp .
	tripleFlt  = []byte{0x0F, 0x0B}                                           // ud2 without an IDT
	busyLoop   = []byte{0xEB, 0xFE}                                           // jmp .
	haltLoop   = []byte{0xFA, 0xF4, 0xEB, 0xFC}                               // cli; hlt; jmp
	chatter    = []byte{0x66, 0xBA, 0xF8, 0x03, 0xB0, 'x', 0xEE, 0xEB, 0xFD}  // mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp out
)

// elfKernel writes an ELF kernel of the given code, loaded and entered at bareBase, and returns its path.
func elfKernel(t testing.TB, code []byte) string {
	t.Helper()
	var b bytes.Buffer
	le := binary.LittleEndian
	header := make([]byte, 64+56)
	copy(header, "\x7fELF\x02\x01\x01")
	le.PutUint16(header[16:], 2)  // ET_EXEC
	le.PutUint16(header[18:], 62) // EM_X86_64
	le.PutUint32(header[20:], 1)
	le.PutUint64(header[24:], bareBase)
	le.PutUint64(header[32:], 64) // program headers
	le.PutUint16(header[52:], 64)
	le.PutUint16(header[54:], 56)
	le.PutUint16(header[56:], 1)
	p := header[64:]
	le.PutUint32(p, 1)     // PT_LOAD
	le.PutUint32(p[4:], 5) // R+X
	le.PutUint64(p[8:], uint64(len(header)))
	le.PutUint64(p[16:], bareBase)
	le.PutUint64(p[24:], bareBase)
	le.PutUint64(p[32:], uint64(len(code)))
	le.PutUint64(p[40:], uint64(len(code)))
	le.PutUint64(p[48:], 1)
	b.Write(header)
	b.Write(code)
	path := filepath.Join(t.TempDir(), "bare.elf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bareConfig is a machine of one CPU and the least memory that runs code.
func bareConfig(t testing.TB, code []byte) Config {
	return Config{Kernel: elfKernel(t, code), Boot: boot.Direct, Memory: MinMemory, CPUs: 1, Heal: true, Tables: NoTable}
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
