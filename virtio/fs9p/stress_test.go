package fs9p

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

// maxSize bounds what requests by chance write, so that the test's own disk lasts.
const maxSize = 1 << 16

// chanceMessage makes a request that is mostly plausible, about few files.
func chanceMessage(r *rand.Rand) []byte {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	name := func() string {
		return pick("a", "b", "c", "d", "link", "up", "..", ".", "", "a/b", "../secret", "x\x00y")
	}
	f := func() uint32 { return uint32(r.IntN(12)) }
	mode := func() uint32 {
		return [...]uint32{unix.S_IFREG | 0o644, unix.S_IFIFO | 0o600, unix.S_IFSOCK | 0o600, unix.S_IFCHR | 0o666, unix.S_IFBLK, 0o777, 0o4755, r.Uint32()}[r.IntN(8)] | 0o700
	}
	flags := func() uint32 {
		return [...]uint32{rdonly, rdwr, rdwr | trunc, wronly | app, excl | rdwr, r.Uint32()}[r.IntN(6)]
	}
	off := func() uint64 {
		return [...]uint64{0, 1, 100, uint64(r.IntN(maxSize)), 0, r.Uint64() | 1<<63}[r.IntN(6)]
	}
	var m []byte
	switch r.IntN(32) {
	case 0, 1, 2, 3, 4:
		names := r.IntN(4)
		args := []any{f(), f(), uint16(names)}
		for range names {
			args = append(args, name())
		}
		m = message(tWalk, args...)
	case 5, 6:
		m = message(tClunk, f())
	case 7, 8:
		m = message(tLopen, f(), flags())
	case 9, 10:
		m = message(tLcreate, f(), name(), flags(), mode(), group)
	case 11:
		m = message(tMkdir, f(), name(), mode(), group)
	case 12:
		m = message(tSymlink, f(), name(), pick("..", "../secret", "/", "a", "/etc/passwd"), group)
	case 13:
		m = message(tMknod, f(), name(), mode(), uint32(1), uint32(3), group)
	case 14:
		m = message(tLink, f(), f(), name())
	case 15:
		m = message(tRenameat, f(), name(), f(), name())
	case 16:
		m = message(tUnlinkat, f(), name(), uint32(r.IntN(2)*unix.AT_REMOVEDIR))
	case 17:
		m = message(tGetattr, f(), uint64(getattrBasic))
	case 18:
		m = message(tSetattr, f(), r.Uint32()&0x1ff, mode(), uint32(0), uint32(0), off(), uint64(1), uint64(2), uint64(3), r.Uint64())
	case 19:
		m = message(tReaddir, f(), off(), uint32(r.IntN(8192)))
	case 20:
		m = message(tRead, f(), off(), uint32(r.IntN(8192)))
	case 21:
		data := make([]byte, r.IntN(300))
		m = message(tWrite, f(), off(), uint32(len(data)), data)
	case 22:
		m = message([...]uint8{tReadlink, tStatfs, tFsync, tRemove, 30, 32, 20, 102}[r.IntN(8)], f(), f(), name())
	case 23:
		m = message(tLock, f(), uint8(0), uint32(0), uint64(0), uint64(0), uint32(1), name())
	case 24:
		m = message(tAttach, f(), uint32(noFID), name(), pick("", "", "", "/", ".."), uint32(0))
	default:
		m = message(tVersion, uint32(testSize), pick("9P2000.L", "9P2000.L", "9P2000"))
		if r.IntN(20) != 0 { // it closes everything
			m = message(tAttach, f(), uint32(noFID), "", "", uint32(0))
		}
	}
	switch r.IntN(40) {
	case 0:
		m[r.IntN(len(m))] = byte(r.Uint32())
	case 1:
		m = m[:r.IntN(len(m)+1)]
	}
	return m
}

// wantOutside checks that nothing beside the share has changed.
func wantOutside(t testing.TB, top string) {
	t.Helper()
	wantFile(t, filepath.Join(top, "secret"), "secret")
	entries, err := os.ReadDir(top)
	if err != nil || len(entries) != 2 {
		t.Errorf("beside the share: %v, %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(top, "secret")); err != nil || info.Mode() != 0o644 {
		t.Errorf("the secret's mode: %v, %v", info.Mode(), err)
	}
}

// TestStressMessages has a guest that makes requests by chance.
func TestStressMessages(t *testing.T) {
	kvmtest.NoLeaks(t)
	top, share := outside(t)
	dev, err := New(Config{Tag: "x", Dir: share})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	resp := make([]byte, testSize)
	answers, errors := map[string]int{}, 0
	for range *stress {
		m := chanceMessage(r)
		room := 8192
		if r.IntN(50) == 0 {
			room = r.IntN(64)
		}
		n, err := dev.s.serve([][]byte{m}, [][]byte{resp[:room]})
		if err != nil {
			if len(m) >= headerSize && room >= errorSize {
				t.Fatal(err)
			}
			continue
		}
		if int(n) > room || n < headerSize {
			t.Fatalf("answer of %d bytes in %d", n, room)
		}
		if resp[4] == tError+1 {
			errors++
		} else {
			answers[fmt.Sprint(resp[4]-1)]++
		}
		if len(dev.s.fids) > dev.s.maxFIDs {
			t.Fatal("too many fids")
		}
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	wantOutside(t, top)
	t.Logf("%d requests: %d errors, answers by type %v", *stress, errors, answers)
	if len(answers) < 18 {
		t.Errorf("too little of it: answers of %d types", len(answers))
	}
}

// TestStress9P has a driver that writes rings, descriptors and requests by chance.
func TestStress9P(t *testing.T) {
	kvmtest.NoLeaks(t)
	top, share := outside(t)
	dev, err := New(Config{Tag: "x", Dir: share})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	count := virtiotest.Nonsense{Fill: func(r *rand.Rand, _, part int, p []byte) {
		if part == 0 {
			copy(p, chanceMessage(r))
		}
	}}.Run(t, dev, 1, *stress)
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	wantOutside(t, top)
	t.Log(count)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 {
		t.Errorf("%v: too little of it", count)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > before.HeapAlloc+16<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", before.HeapAlloc, after.HeapAlloc)
	}
}

// FuzzMessages cuts its input into requests: a byte of length, and that many bytes.
func FuzzMessages(f *testing.F) {
	seed := func(messages ...[]byte) {
		var b []byte
		for _, m := range messages {
			b = append(append(b, byte(len(m))), m...)
		}
		f.Add(b)
	}
	hello := [][]byte{message(tVersion, uint32(testSize), "9P2000.L"), message(tAttach, uint32(0), uint32(noFID), "", "", uint32(0))}
	seed(append(hello, message(tWalk, uint32(0), uint32(1), uint16(0)), message(tLcreate, uint32(1), "f", rdwr, uint32(0o600), group),
		message(tWrite, uint32(1), uint64(0), uint32(2), []byte("ab")), message(tRead, uint32(1), uint64(0), uint32(9)))...)
	seed(append(hello, message(tSymlink, uint32(0), "l", "..", group), message(tWalk, uint32(0), uint32(1), uint16(2), "l", "secret"),
		message(tLopen, uint32(0), rdonly), message(tReaddir, uint32(0), uint64(0), uint32(1000)))...)
	f.Add(bytes.Repeat([]byte{9, 0, 1, 2}, 30))
	f.Fuzz(func(t *testing.T, data []byte) {
		top, share := outside(t)
		dev, err := New(Config{Tag: "x", Dir: share})
		if err != nil {
			t.Fatal(err)
		}
		resp := make([]byte, 8192)
		for len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			m := data[1 : 1+n]
			data = data[1+n:]
			if size, err := dev.s.serve([][]byte{m}, [][]byte{resp[:100], resp[100:]}); err == nil && (int(size) > len(resp) || size < headerSize) {
				t.Fatalf("answer of %d bytes", size)
			}
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		wantOutside(t, top)
	})
}
