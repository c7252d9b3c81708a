package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mustOpen opens a disk and closes it at the end of the test.
func mustOpen(t testing.TB, s Spec) Disk {
	t.Helper()
	d, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// writeImage makes a file of these bytes.
func writeImage(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// noise returns n bytes that look random and depend on the seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	src.Read(b)
	return b
}

// split cuts p into up to five views.
func split(r *rand.Rand, p []byte) [][]byte {
	var vec [][]byte
	for len(p) > 0 && len(vec) < 4 {
		n := 1 + r.IntN(len(p))
		vec, p = append(vec, p[:n]), p[n:]
	}
	return append(vec, p)
}

func readAll(t testing.TB, d Disk) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	for off := 0; off < len(p); off += 1 << 20 {
		if err := d.Read([][]byte{p[off:min(off+1<<20, len(p))]}, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// writableSpecs returns every way to have a disk of this content that can be written.
func writableSpecs(t *testing.T, content []byte) map[string]Spec {
	dir := t.TempDir()
	specs := map[string]Spec{
		"raw":        {Path: writeImage(t, content), Format: Raw},
		"raw unsafe": {Path: writeImage(t, content), Format: Raw, Cache: Unsafe},
		"overlay":    {Path: writeImage(t, content), Format: Raw, Overlay: filepath.Join(dir, "overlay")},
		"throwaway":  {Path: writeImage(t, content), Throwaway: true, Dir: dir},
		"qcow2":      {Path: writeImage(t, builder{clusterBits: 12, version: 3}.build(content)), Format: Qcow2, Overlay: filepath.Join(dir, "overlay2")},
	}
	if hasDirect(t, specs["raw"].Path) {
		specs["raw direct"] = Spec{Path: writeImage(t, content), Format: Raw, Cache: Direct}
		specs["overlay direct"] = Spec{Path: writeImage(t, content), Format: Raw, Cache: Direct, Overlay: filepath.Join(dir, "overlay3")}
	}
	return specs
}

// hasDirect says whether the file system of path can pass the page cache by.
func hasDirect(t *testing.T, path string) bool {
	d, err := Open(Spec{Path: path, Format: Raw, Cache: Direct})
	if err != nil {
		t.Logf("without O_DIRECT: %v", err)
		return false
	}
	d.Close()
	return true
}

// TestModel makes operations by chance on every kind of disk and holds it against a plain slice.
func TestModel(t *testing.T) {
	const size = 1<<20 + 3*SectorSize
	content := noise(1, size)
	for name, spec := range writableSpecs(t, content) {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			d, err := Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { d.Close() }()
			if d.Size() != size || d.ReadOnly() {
				t.Fatalf("size %d, read-only %v", d.Size(), d.ReadOnly())
			}
			model := bytes.Clone(content)
			for i := range 1000 {
				off := r.Int64N(size)
				n := r.Int64N(min(size-off, 40000) + 1)
				if r.IntN(2) == 0 {
					off, n = off&^4095, min(n&^4095, size-off&^4095)
				}
				part := model[off : off+n]
				switch op := r.IntN(10); op {
				case 0, 1, 2:
					fresh := noise(uint64(i), int(n))
					if err := d.Write(split(r, fresh), off); err != nil {
						t.Fatal(err)
					}
					copy(part, fresh)
				case 3:
					if err := d.WriteZeroes(off, n, r.IntN(2) == 0); err != nil {
						t.Fatal(err)
					}
					clear(part)
				case 4:
					if err := d.Discard(off, n); err != nil {
						t.Fatal(err)
					}
					got := make([]byte, n)
					if err := d.Read([][]byte{got}, off); err != nil {
						t.Fatal(err)
					}
					for j := range got {
						if got[j] != 0 && got[j] != part[j] {
							t.Fatalf("operation %d: byte %d after a discard is neither old nor zero", i, off+int64(j))
						}
					}
					copy(part, got)
				case 5:
					if err := d.Flush(); err != nil {
						t.Fatal(err)
					}
				case 6:
					if spec.Throwaway || r.IntN(20) != 0 {
						continue
					}
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
					if d, err = Open(spec); err != nil {
						t.Fatal(err)
					}
				default:
					got := make([]byte, n)
					if op != 9 || !d.TryRead(split(r, got), off) {
						if err := d.Read(split(r, got), off); err != nil {
							t.Fatal(err)
						}
					}
					if !bytes.Equal(got, part) {
						t.Fatalf("operation %d: %d bytes at %d differ", i, n, off)
					}
				}
			}
			if !bytes.Equal(readAll(t, d), model) {
				t.Fatal("the disk is not what was written")
			}
			if spec.Overlay != "" || spec.Throwaway {
				base := mustOpen(t, Spec{Path: spec.Path, Format: spec.Format, ReadOnly: true})
				if !bytes.Equal(readAll(t, base), content) {
					t.Error("the base was written")
				}
			}
		})
	}
}

// TestBounds asks for what is outside, and looks that no file grew.
func TestBounds(t *testing.T) {
	content := noise(1, 64<<10)
	for name, spec := range writableSpecs(t, content) {
		t.Run(name, func(t *testing.T) {
			d := mustOpen(t, spec)
			before := fileSize(t, spec)
			for _, c := range []struct{ off, n int64 }{
				{-1, 1}, {64 << 10, 1}, {64<<10 - 1, 2}, {0, 64<<10 + 1}, {1 << 62, 1}, {1<<63 - 1, 4096}, {-1 << 63, 4096},
			} {
				vec := [][]byte{make([]byte, c.n)}
				for op, err := range map[string]error{
					"read": d.Read(vec, c.off), "write": d.Write(vec, c.off), "discard": d.Discard(c.off, c.n), "zeroes": d.WriteZeroes(c.off, c.n, true),
				} {
					if !errors.Is(err, ErrRange) {
						t.Errorf("%s of %d bytes at %d: %v", op, c.n, c.off, err)
					}
				}
				if d.TryRead(vec, c.off) {
					t.Errorf("%d bytes at %d were read", c.n, c.off)
				}
			}
			for _, err := range []error{d.Discard(0, -1), d.WriteZeroes(512, -1, false)} {
				if !errors.Is(err, ErrRange) {
					t.Error(err)
				}
			}
			if err := d.Write(nil, 64<<10); err != nil {
				t.Errorf("nothing at the end: %v", err)
			}
			if after := fileSize(t, spec); after != before {
				t.Errorf("files of %d bytes have %d now", before, after)
			}
		})
	}
}

// fileSize returns the sum of the sizes of a disk's files.
func fileSize(t *testing.T, s Spec) int64 {
	var sum int64
	for _, path := range []string{s.Path, s.Overlay} {
		if path == "" {
			continue
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

func TestReadOnly(t *testing.T) {
	d := mustOpen(t, Spec{Path: writeImage(t, noise(1, 8192)), ReadOnly: true})
	if !d.ReadOnly() {
		t.Error("it says that it can be written")
	}
	for _, err := range []error{d.Write([][]byte{make([]byte, 512)}, 0), d.Discard(0, 512), d.WriteZeroes(0, 512, false)} {
		if !errors.Is(err, ErrReadOnly) {
			t.Error(err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(readAll(t, d), noise(1, 8192)) {
		t.Error("the disk changed")
	}
}

// TestTruncated shortens images under open disks: an error, and they stay short.
func TestTruncated(t *testing.T) {
	const size, short = 256 << 10, 16 << 10
	for name, spec := range writableSpecs(t, noise(1, size)) {
		if spec.Throwaway || spec.Format == Qcow2 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := mustOpen(t, spec)
			vec := [][]byte{make([]byte, 8192)}
			if err := d.Write(vec, size-8192); err != nil {
				t.Fatal(err)
			}
			path := spec.Path
			if spec.Overlay != "" {
				path = spec.Overlay
			}
			if err := os.Truncate(path, short); err != nil {
				t.Fatal(err)
			}
			for op, err := range map[string]error{
				"read": d.Read(vec, size-8192), "write": d.Write(vec, size-8192), "zeroes": d.WriteZeroes(size-8192, 8192, true), "discard": d.Discard(size-8192, 8192),
			} {
				if !errors.Is(err, ErrTruncated) {
					t.Errorf("%s: %v", op, err)
				}
			}
			if d.TryRead(vec, size-8192) {
				t.Error("read what is not there")
			}
			if st, err := os.Stat(path); err != nil || st.Size() != short {
				t.Errorf("%v, %v", st.Size(), err)
			}
		})
	}
	t.Run("base", func(t *testing.T) {
		path := writeImage(t, noise(1, size))
		d := mustOpen(t, Spec{Path: path, Throwaway: true, Dir: t.TempDir()})
		if err := os.Truncate(path, short); err != nil {
			t.Fatal(err)
		}
		if err := d.Read([][]byte{make([]byte, 512)}, size-512); !errors.Is(err, ErrTruncated) {
			t.Error(err)
		}
		if err := d.Write([][]byte{make([]byte, 512)}, size-512); !errors.Is(err, ErrTruncated) { // copies the rest of its block
			t.Error(err)
		}
	})
}

// TestOpenRefuses gives Open what it must not take.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	odd := writeImage(t, make([]byte, 1000))
	good := writeImage(t, make([]byte, 4096))
	disguised := writeImage(t, append([]byte(qcow2Magic), make([]byte, 4092)...))
	image := writeImage(t, builder{clusterBits: 12, version: 3}.build(noise(1, 8192)))
	for name, s := range map[string]Spec{
		"missing":             {Path: filepath.Join(dir, "none")},
		"directory":           {Path: dir, ReadOnly: true},
		"fifo":                {Path: fifo, ReadOnly: true},
		"odd size":            {Path: odd, Format: Raw},
		"format":              {Path: good, Format: "vmdk"},
		"cache":               {Path: good, Cache: "writethrough"},
		"read-only overlay":   {Path: good, ReadOnly: true, Throwaway: true},
		"two overlays":        {Path: good, Throwaway: true, Overlay: filepath.Join(dir, "o")},
		"raw or qcow2":        {Path: disguised},
		"qcow2 to be written": {Path: image, Format: Qcow2},
		"no qcow2":            {Path: good, Format: Qcow2, ReadOnly: true},
		"overlay is no file":  {Path: good, Overlay: dir},
		"overlay is none":     {Path: good, Overlay: image},
		"overlay nowhere":     {Path: good, Overlay: filepath.Join(dir, "no", "o")},
		"throwaway nowhere":   {Path: good, Throwaway: true, Dir: filepath.Join(dir, "no")},
	} {
		if d, err := Open(s); err == nil {
			t.Errorf("%s: opened", name)
			d.Close()
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	// Nothing of all this has left a lock behind, or a descriptor.
	mustOpen(t, Spec{Path: good, Format: Raw})
}

// TestLeaks opens and closes every kind of disk and counts descriptors.
func TestLeaks(t *testing.T) {
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	specs := writableSpecs(t, noise(1, 64<<10))
	before := count()
	for range 3 {
		for name, s := range specs {
			d, err := Open(s)
			if err != nil {
				t.Fatal(name, err)
			}
			if err := d.Close(); err != nil {
				t.Error(name, err)
			}
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors became %d", before, after)
	}
}

func TestCut(t *testing.T) {
	all := noise(1, 60)
	vec := [][]byte{all[:7], {}, all[7:8], all[8:40], all[40:]}
	for skip := range len(all) + 1 {
		for n := range len(all) - skip + 1 {
			if got := bytes.Join(Cut(vec, int64(skip), int64(n)), nil); !bytes.Equal(got, all[skip:skip+n]) {
				t.Fatalf("%d bytes from %d on: %v", n, skip, got)
			}
		}
	}
}

// TestManyBuffers moves more buffers than the kernel takes at once.
func TestManyBuffers(t *testing.T) {
	const n = 3*maxVec + 7
	content := noise(1, n*SectorSize)
	d := mustOpen(t, Spec{Path: writeImage(t, make([]byte, n*SectorSize)), Format: Raw})
	vec, back := make([][]byte, n), make([][]byte, n)
	for i := range vec {
		vec[i], back[i] = content[i*SectorSize:][:SectorSize], make([]byte, SectorSize)
	}
	if err := d.Write(vec, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Read(back, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Join(back, nil), content) {
		t.Error("not what was written")
	}
}

// TestFlushFails wants a failed flush to fail for ever, and an overlay's bitmap to stay as it was.
func TestFlushFails(t *testing.T) {
	d := mustOpen(t, Spec{Path: writeImage(t, make([]byte, 64<<10)), Overlay: filepath.Join(t.TempDir(), "o")}).(*overlay)
	if err := d.Write([][]byte{noise(1, 4096)}, 8192); err != nil {
		t.Fatal(err)
	}
	stored := func() byte {
		b := []byte{0}
		if err := d.file.readAt([][]byte{b}, d.bitsAt); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	if stored() != 0 {
		t.Error("the bitmap names a block before the flush")
	}
	gone := fmt.Errorf("flush: %w", unix.EIO)
	d.file.broken.Store(&gone)
	for range 2 {
		if err := d.Flush(); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	}
	if stored() != 0 {
		t.Error("the bitmap names a block that is not durable")
	}
	d.file.broken.Store(nil)
	if err := d.Flush(); err != nil || stored() != 1<<2 {
		t.Errorf("%v, bitmap %#x", err, stored())
	}
}
