package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// patchy returns n bytes with zeroes, text and noise in pieces of many sizes.
func patchy(n int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	p := make([]byte, n)
	for at := 0; at < n; {
		k := min(n-at, 512<<r.IntN(9))
		switch r.IntN(3) {
		case 0:
			copy(p[at:at+k], noise(uint64(at), k))
		case 1:
			copy(p[at:at+k], bytes.Repeat(fmt.Appendf(nil, "text %d ", at), k/6+1))
		}
		at += k
	}
	return p
}

// compareDisk reads a disk in several ways and holds it against its content.
func compareDisk(t *testing.T, d Disk, content []byte) {
	t.Helper()
	if d.Size() != int64(len(content)) {
		t.Fatalf("%d bytes, want %d", d.Size(), len(content))
	}
	if !bytes.Equal(readAll(t, d), content) {
		t.Fatal("the content differs")
	}
	r := rand.New(rand.NewPCG(7, 8))
	for range 100 {
		off := r.Int64N(d.Size())
		got := noise(1, int(r.Int64N(min(d.Size()-off, 200000))))
		if r.IntN(2) == 0 || !d.TryRead(split(r, got), off) {
			if err := d.Read(split(r, got), off); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, content[off:off+int64(len(got))]) {
			t.Fatalf("%d bytes at %d differ", len(got), off)
		}
	}
}

// TestQcow2Built reads images of our own making: no QEMU is needed.
func TestQcow2Built(t *testing.T) {
	content := patchy(300<<10 + 512)
	for _, version := range []uint32{2, 3} {
		for _, bits := range []uint{9, 12, 16} {
			for _, compress := range []string{"", "zlib", "zstd"} {
				if version == 2 && compress == "zstd" {
					continue
				}
				t.Run(fmt.Sprintf("v%d, 2^%d, %s", version, bits, compress), func(t *testing.T) {
					path := writeImage(t, builder{version: version, clusterBits: bits, compress: compress}.build(content))
					compareDisk(t, mustOpen(t, Spec{Path: path, ReadOnly: true}), content)
				})
			}
		}
	}
}

// TestQcow2QEMU reads images that qemu-img made.
func TestQcow2QEMU(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (package qemu-utils)")
	}
	content := patchy(4<<20 + 1536)
	dir := t.TempDir()
	qemu := func(t *testing.T, args ...string) {
		t.Helper()
		cmd := exec.Command("qemu-img", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v: %s", args, err, out)
		}
	}
	write := func(t *testing.T, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "raw", content)
	for i, opts := range []string{
		"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "compat=0.10,cluster_size=512",
		"lazy_refcounts=on", "refcount_bits=1", "refcount_bits=64", "preallocation=metadata", "preallocation=full",
	} {
		t.Run(opts, func(t *testing.T) {
			name := fmt.Sprintf("image%d", i)
			qemu(t, "convert", "-f", "raw", "-O", "qcow2", "-o", opts, "raw", name)
			compareDisk(t, mustOpen(t, Spec{Path: filepath.Join(dir, name), Format: Qcow2, ReadOnly: true}), content)
		})
	}
	for i, opts := range []string{"compression_type=zlib", "compression_type=zstd", "compression_type=zstd,cluster_size=2M", "compat=0.10,cluster_size=4k"} {
		t.Run("compressed "+opts, func(t *testing.T) {
			name := fmt.Sprintf("packed%d", i)
			qemu(t, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", opts, "raw", name)
			compareDisk(t, mustOpen(t, Spec{Path: filepath.Join(dir, name), Format: Qcow2, ReadOnly: true}), content)
		})
	}
	for i, opts := range []string{"extended_l2=on", "data_file=other"} {
		t.Run("refused "+opts, func(t *testing.T) {
			name := fmt.Sprintf("refused%d", i)
			qemu(t, "create", "-f", "qcow2", "-o", opts, name, "1M")
			if _, err := Open(Spec{Path: filepath.Join(dir, name), Format: Qcow2, ReadOnly: true}); !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), "not supported") {
				t.Error(err)
			}
		})
	}
	t.Run("snapshot, written after it", func(t *testing.T) {
		qemu(t, "convert", "-f", "raw", "-O", "qcow2", "raw", "snap")
		qemu(t, "snapshot", "-c", "first", "snap")
		cmd := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 64k 100k", "-c", "write -z 1M 128k", "-c", "discard 2M 64k", filepath.Join(dir, "snap"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		qemu(t, "convert", "-f", "qcow2", "-O", "raw", "snap", "snapraw")
		want, err := os.ReadFile(filepath.Join(dir, "snapraw"))
		if err != nil {
			t.Fatal(err)
		}
		compareDisk(t, mustOpen(t, Spec{Path: filepath.Join(dir, "snap"), Format: Qcow2, ReadOnly: true}), want)
	})
	t.Run("backing files", func(t *testing.T) {
		write(t, "base", content[:3<<20+512])
		qemu(t, "create", "-f", "qcow2", "-b", "base", "-F", "raw", "middle", "4M")
		qemu(t, "create", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "5M")
		cmd := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 0x77 100k 200k", "-c", "write -z 2M 64k", filepath.Join(dir, "top"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		qemu(t, "convert", "-f", "qcow2", "-O", "raw", "top", "flat")
		want, err := os.ReadFile(filepath.Join(dir, "flat"))
		if err != nil {
			t.Fatal(err)
		}
		s := Spec{Path: filepath.Join(dir, "top"), Format: Qcow2, ReadOnly: true}
		if _, err := Open(s); err == nil || !strings.Contains(err.Error(), "not opened unless") {
			t.Errorf("a backing file was opened without leave: %v", err)
		}
		s.Backing = true
		compareDisk(t, mustOpen(t, s), want)
	})
}

// TestQcow2Backing gives backing files that must not be followed.
func TestQcow2Backing(t *testing.T) {
	dir := t.TempDir()
	content := noise(1, 64<<10)
	image := func(name, backing, format string) string {
		path := filepath.Join(dir, name)
		b := builder{version: 3, clusterBits: 12, backing: backing, format: format}
		if err := os.WriteFile(path, b.build(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i := range maxBacking + 2 {
		image(fmt.Sprintf("long%d", i), fmt.Sprintf("long%d", i+1), "qcow2")
	}
	image("circle1", "circle2", "qcow2")
	image("circle2", "circle1", "qcow2")
	for path, want := range map[string]string{
		image("passwd", "/etc/passwd", "raw"):              "no multiple",
		image("json", `json:{"driver":"file"}`, "raw"):     "only files",
		image("nbd", "nbd://host/disk", "raw"):             "only files",
		image("guess", "circle1", ""):                      "format",
		image("vmdk", "circle1", "vmdk"):                   "format",
		image("missing", "none", "raw"):                    "no such file",
		image("self", "self", "qcow2"):                     "circle",
		filepath.Join(dir, "circle1"):                      "circle",
		filepath.Join(dir, "long0"):                        "more than",
		image("device", "/dev/null", "raw"):                "neither",
		image("dots", "../../../../../../etc/none", "raw"): "no such file",
	} {
		s := Spec{Path: path, ReadOnly: true}
		if _, err := Open(s); err == nil || !strings.Contains(err.Error(), "not opened unless") {
			t.Errorf("%s, not allowed: %v", path, err)
		}
		s.Backing = true
		if _, err := Open(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}

// TestQcow2Refuses changes one thing of a good image: it is not opened, or the read of what was changed fails.
func TestQcow2Refuses(t *testing.T) {
	content := noise(1, 256<<10)
	be := binary.BigEndian
	const cluster = 4096
	const l1, l2, data = 2 * cluster, 3 * cluster, 4 * cluster
	u32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint32(b[at:], v); return b }
	}
	u64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { be.PutUint64(b[at:], v); return b }
	}
	end := uint64(data + len(content))
	for name, change := range map[string]func([]byte) []byte{
		"version 1":                     u32(4, 1),
		"version 4":                     u32(4, 4),
		"backing name without end":      u64(8, 1<<40),
		"backing name in the header":    func(b []byte) []byte { return u32(16, 4)(u64(8, 8)(b)) },
		"backing name too long":         func(b []byte) []byte { return u32(16, 1024)(u64(8, 1024)(b)) },
		"backing name of nothing":       u64(8, 1024),
		"backing name nowhere":          u32(16, 4),
		"clusters of 256":               u32(20, 8),
		"clusters of 4 MiB":             u32(20, 22),
		"clusters of 2^4294967295":      u32(20, 1<<32-1),
		"odd size":                      u64(24, 1000),
		"huge size":                     u64(24, 1<<62),
		"negative size":                 u64(24, 1<<63),
		"size beyond the L1 table":      u64(24, 1<<40),
		"encrypted, AES":                u32(32, 1),
		"encrypted, LUKS":               u32(32, 2),
		"L1 table too small":            u32(36, 0),
		"L1 table too large":            u32(36, 1<<31),
		"L1 table outside":              u64(40, 1<<40),
		"L1 table beyond 2^63":          u64(40, 1<<63),
		"L1 table not aligned":          u64(40, l1+8),
		"L1 table in the header":        u64(40, 0),
		"L1 table at the end":           u64(40, end),
		"reference table outside":       u64(48, 1<<40),
		"reference table too large":     u32(56, 1<<30),
		"reference table is L1 table":   u64(48, l1),
		"too many snapshots":            u32(60, 65537),
		"snapshots outside":             func(b []byte) []byte { return u32(60, 1)(u64(64, 1<<50)(b)) },
		"corrupt":                       u64(72, incompatCorrupt),
		"data file":                     u64(72, incompatDataFile),
		"extended L2":                   u64(72, incompatExtendedL2),
		"unknown feature":               u64(72, 1<<40),
		"compression without its bit":   func(b []byte) []byte { b[104] = 1; return b },
		"compression type 2":            func(b []byte) []byte { b[104] = 2; return u64(72, incompatCompression)(b) },
		"references of 2^7":             u32(96, 7),
		"short header":                  u32(100, 72),
		"odd header":                    u32(100, 113),
		"long header":                   u32(100, 1<<31),
		"extension without end":         func(b []byte) []byte { return u32(116, 1<<31)(u32(112, 0x6803f857)(b)) },
		"extension of 4 GiB":            func(b []byte) []byte { return u32(116, 1<<32-1)(u32(112, 0x6803f857)(b)) },
		"cut off in the header":         func(b []byte) []byte { return b[:80] },
		"cut off after the magic":       func(b []byte) []byte { return b[:6] },
		"cut off in the L1 table":       func(b []byte) []byte { return b[:l1+4] },
		"L1 entry: reserved bits":       u64(l1, l2|1),
		"L1 entry: outside":             u64(l1, 1<<50),
		"L1 entry: at the end":          u64(l1, (end+cluster-1)&^(cluster-1)),
		"L1 entry: not aligned":         u64(l1, l2+512),
		"L1 entry: the header":          u64(l1, 512),
		"L1 entry: the L1 table":        u64(l1, l1),
		"L1 entry: the reference table": u64(l1, cluster),
		"L2 entry: reserved bits":       u64(l2, data|2),
		"L2 entry: reserved high bits":  u64(l2, data|1<<60),
		"L2 entry: outside":             u64(l2, 1<<50),
		"L2 entry: at the end":          u64(l2, end),
		"L2 entry: not aligned":         u64(l2, data+512),
		"L2 entry: the header":          u64(l2, 512),
		"L2 entry: the L1 table":        u64(l2, l1),
		"L2 entry: its own table":       u64(l2, l2),
		"L2 entry: the reference table": u64(l2, cluster),
		"compressed: outside":           u64(l2, entryCompressed|end),
		"compressed: in the header":     u64(l2, entryCompressed|8),
		"compressed: copied":            u64(l2, entryCompressed|entryCopied|data),
		"compressed: not so":            u64(l2, entryCompressed|data),
		"cut off in the data":           func(b []byte) []byte { return b[:data+100] },
	} {
		t.Run(name, func(t *testing.T) {
			img := change(builder{version: 3, clusterBits: 12}.build(content))
			d, err := Open(Spec{Path: writeImage(t, img), Format: Qcow2, ReadOnly: true})
			if err == nil {
				defer d.Close()
				err = d.Read([][]byte{make([]byte, cluster)}, 0)
			}
			if !errors.Is(err, ErrImage) && !errors.Is(err, ErrTruncated) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("one L2 table twice", func(t *testing.T) {
		img := builder{version: 3, clusterBits: 9}.build(content)
		be.PutUint64(img[2*512:], be.Uint64(img[2*512+8:]))
		if _, err := Open(Spec{Path: writeImage(t, img), Format: Qcow2, ReadOnly: true}); !errors.Is(err, ErrImage) {
			t.Error(err)
		}
	})
	t.Run("version 2 with a zero bit", func(t *testing.T) {
		img := u64(l2, data|1)(builder{version: 2, clusterBits: 12}.build(content))
		d := mustOpen(t, Spec{Path: writeImage(t, img), Format: Qcow2, ReadOnly: true})
		if err := d.Read([][]byte{make([]byte, 512)}, 0); !errors.Is(err, ErrImage) {
			t.Error(err)
		}
	})
}

// memImage returns an image in memory.
func memImage(t testing.TB, data []byte) *file {
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, data, 0); err != nil {
		t.Fatal(err)
	}
	f, err := newFile(fd, "image", Writeback)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// FuzzQcow2 opens images of any bytes and reads from them.
func FuzzQcow2(f *testing.F) {
	content := patchy(4 << 10)
	for _, compress := range []string{"", "zlib", "zstd"} {
		f.Add(builder{version: 3, clusterBits: 9, compress: compress}.build(content))
	}
	f.Add(builder{version: 2, clusterBits: 9}.build(content))
	f.Add(builder{version: 3, clusterBits: 10, backing: "/etc/passwd", format: "raw"}.build(content))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 || len(data) == 0 {
			return
		}
		file := memImage(t, data)
		d, err := openQcow2(file)
		if err != nil {
			file.close()
			return
		}
		defer d.Close()
		p := make([]byte, 6<<10)
		for _, off := range []int64{0, d.Size() / 2, d.Size() - int64(len(p))} {
			if off >= 0 && off < d.Size() {
				d.Read([][]byte{p[:min(int64(len(p)), d.Size()-off)]}, off)
			}
		}
	})
}

// FuzzOverlay opens overlays of any header and bitmap.
func FuzzOverlay(f *testing.F) {
	head := overlayHead{Version: overlayVersion, Block: overlayBlock, Size: 1 << 20, Base: 7}
	copy(head.Magic[:], overlayMagic)
	f.Add(head.encode(), []byte{1, 2, 3}, true)
	f.Add(head.encode(), bytes.Repeat([]byte{255}, bitPageSize), false)
	f.Fuzz(func(t *testing.T, header, bits []byte, whole bool) {
		if len(header) > overlayHeader || len(bits) > bitPageSize {
			return
		}
		base, err := newRaw(memImage(t, make([]byte, 1<<20)), true)
		if err != nil {
			t.Fatal(err)
		}
		defer base.Close()
		img := append(append(header, make([]byte, overlayHeader-len(header))...), bits...)
		if _, end := places(1 << 20); whole {
			img = append(img, make([]byte, end-int64(len(img)))...)
		}
		d := newOverlay(base, memImage(t, img))
		defer d.file.close()
		d.bitsAt = overlayHeader
		if err := d.checkHead(head); err == nil {
			err = d.loadBits()
			if err == nil {
				d.Read([][]byte{make([]byte, 1<<20)}, 0)
			}
		} else if bytes.Equal(header, head.encode()) && whole {
			t.Fatal(err)
		}
	})
}

// TestOverlayRefuses changes overlay or base: they do not fit any more.
func TestOverlayRefuses(t *testing.T) {
	content := noise(1, 1<<20)
	for name, c := range map[string]struct {
		change func(t *testing.T, s Spec)
		want   string
	}{
		"magic":   {func(t *testing.T, s Spec) { poke(t, s.Overlay, 0, "qenexcow") }, "no overlay"},
		"damage":  {func(t *testing.T, s Spec) { poke(t, s.Overlay, 20, "x") }, "damaged"},
		"bitmap":  {func(t *testing.T, s Spec) { poke(t, s.Overlay, overlayHeader+1<<20/overlayBlock/8, "\x01") }, "behind the end"},
		"base":    {func(t *testing.T, s Spec) { poke(t, s.Path, 0, "y") }, "modified"},
		"size":    {func(t *testing.T, s Spec) { must(os.Truncate(s.Path, 2<<20)) }, "made for a disk"},
		"cut off": {func(t *testing.T, s Spec) { must(os.Truncate(s.Overlay, 1<<20)) }, "truncated"},
		"empty":   {func(t *testing.T, s Spec) { must(os.Truncate(s.Overlay, 0)) }, "truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{Path: writeImage(t, content), Overlay: filepath.Join(t.TempDir(), "o")}
			d, err := Open(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			c.change(t, s)
			if _, err := Open(s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

func poke(t *testing.T, path string, at int64, s string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(s), at); err != nil {
		t.Fatal(err)
	}
}
