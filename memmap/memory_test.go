package memmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

func newMemory(t testing.TB, size uint64) *Memory {
	t.Helper()
	m, err := New(size)
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

func TestNewSizes(t *testing.T) {
	for _, tt := range []struct {
		size    uint64
		regions []Region
		ok      bool
	}{
		{0, nil, false},
		{MinSize - PageSize, nil, false},
		{32*MiB + 1, nil, false},
		{MaxSize + PageSize, nil, false},
		{1 << 63, nil, false},
		{32 * MiB, []Region{{GPA: 0, Size: 32 * MiB}}, true},
		{3 * GiB, []Region{{GPA: 0, Size: 3 * GiB}}, true},
		{3*GiB + PageSize, []Region{{GPA: 0, Size: 3 * GiB}, {GPA: 4 * GiB, Size: PageSize}}, true},
		{20 * GiB, []Region{{GPA: 0, Size: 3 * GiB}, {GPA: 4 * GiB, Size: 17 * GiB}}, true},
	} {
		m, err := New(tt.size)
		if !tt.ok {
			if !errors.Is(err, ErrSize) {
				t.Errorf("New(%#x): error %v, want ErrSize", tt.size, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("New(%#x): %v", tt.size, err)
		}
		got := m.Regions()
		if len(got) != len(tt.regions) {
			t.Fatalf("New(%#x): %d regions, want %d", tt.size, len(got), len(tt.regions))
		}
		for i, r := range got {
			if r.GPA != tt.regions[i].GPA || r.Size != tt.regions[i].Size {
				t.Errorf("New(%#x): region %d is %#x+%#x, want %#x+%#x", tt.size, i, r.GPA, r.Size, tt.regions[i].GPA, tt.regions[i].Size)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBounds(t *testing.T) {
	m := newMemory(t, 3*GiB+4*MiB)
	end := uint64(4*GiB + 4*MiB)
	for _, tt := range []struct {
		gpa, n uint64
		ok     bool
	}{
		{0, 1, true},
		{0, 0, true},
		{HoleStart - 1, 1, true},
		{HoleStart - 1, 2, false},
		{HoleStart, 0, false},
		{HoleEnd - 1, 2, false},
		{HoleEnd, 8, true},
		{end - 8, 8, true},
		{end - 7, 8, false},
		{end, 1, false},
		{^uint64(0), 1, false},
		{^uint64(0), ^uint64(0), false},
		{PageSize, ^uint64(0), false},
		{PageSize, ^uint64(0) - PageSize + 1, false},
	} {
		v, err := m.View(tt.gpa, tt.n)
		if (err == nil) != tt.ok {
			t.Errorf("View(%#x, %#x): error %v, want ok=%v", tt.gpa, tt.n, err, tt.ok)
		}
		if err != nil && !errors.Is(err, ErrBounds) {
			t.Errorf("View(%#x, %#x): error %v does not wrap ErrBounds", tt.gpa, tt.n, err)
		}
		if err == nil && (uint64(len(v)) != tt.n || uint64(cap(v)) != tt.n) {
			t.Errorf("View(%#x, %#x): len %d cap %d", tt.gpa, tt.n, len(v), cap(v))
		}
	}
}

func TestAccess(t *testing.T) {
	m := newMemory(t, 2*MiB)
	if err := m.PutUint64(0x1000, 0x1122334455667788); err != nil {
		t.Fatal(err)
	}
	b, _ := m.Uint8(0x1000)
	w, _ := m.Uint16(0x1001)
	d, _ := m.Uint32(0x1004)
	q, _ := m.Uint64(0x1000)
	if b != 0x88 || w != 0x6677 || d != 0x11223344 || q != 0x1122334455667788 {
		t.Errorf("got %#x %#x %#x %#x", b, w, d, q)
	}
	for _, put := range []func(uint64) error{
		func(a uint64) error { return m.PutUint8(a, 1) },
		func(a uint64) error { return m.PutUint16(a, 1) },
		func(a uint64) error { return m.PutUint32(a, 1) },
		func(a uint64) error { return m.Zero(a, 1) },
		func(a uint64) error { _, err := m.Uint8(a); return err },
		func(a uint64) error { _, err := m.Uint64(a); return err },
		func(a uint64) error { return m.ReadFromAt(a, strings.NewReader("x"), 1) },
	} {
		if err := put(2 * MiB); !errors.Is(err, ErrBounds) {
			t.Errorf("access behind the end: %v", err)
		}
	}
	if err := m.ReadFromAt(0x2000, strings.NewReader("abc"), 4); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short reader: %v", err)
	}
	if err := m.ReadFromAt(0x2000, strings.NewReader("abcd"), 4); err != nil {
		t.Error(err)
	}
	p := make([]byte, 4)
	if err := m.Read(0x2000, p); err != nil || !bytes.Equal(p, []byte("abcd")) {
		t.Errorf("read back %q, %v", p, err)
	}
	if err := m.Zero(0x2000, 2); err != nil {
		t.Error(err)
	}
	if err := m.Read(0x2000, p); err != nil || !bytes.Equal(p, []byte("\x00\x00cd")) {
		t.Errorf("after zero %q, %v", p, err)
	}
}

// TestNothingTouched holds the promise that a guest's RAM costs nothing until used.
func TestNothingTouched(t *testing.T) {
	before := residentKiB(t)
	newMemory(t, 4*GiB)
	if grown := residentKiB(t) - before; grown >= 1024 {
		t.Errorf("resident set grew by %d KiB for 4 GiB of guest memory, want < 1 MiB", grown)
	}
}

// FuzzAccess checks View, Read and Write against plain arithmetic.
func FuzzAccess(f *testing.F) {
	f.Add(uint64(0), uint64(1))
	f.Add(uint64(HoleStart-4), uint64(8))
	f.Add(uint64(HoleEnd), uint64(MiB))
	f.Add(^uint64(0), uint64(2))
	f.Add(uint64(1), ^uint64(0))
	m, err := New(3*GiB + MiB)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.Close() })
	f.Fuzz(func(t *testing.T, gpa, n uint64) {
		inside := func(start, size uint64) bool { return gpa >= start && gpa < start+size && n <= start+size-gpa }
		want := inside(0, HoleStart) || inside(HoleEnd, MiB)
		v, err := m.View(gpa, n)
		if (err == nil) != want {
			t.Fatalf("View(%#x, %#x) = %v, want ok=%v", gpa, n, err, want)
		}
		if err == nil && uint64(len(v)) != n {
			t.Fatalf("View(%#x, %#x) has %d bytes", gpa, n, len(v))
		}
		p := make([]byte, n%64)
		inside = func(start, size uint64) bool {
			return gpa >= start && gpa < start+size && uint64(len(p)) <= start+size-gpa
		}
		want = inside(0, HoleStart) || inside(HoleEnd, MiB)
		if err := m.Write(gpa, p); (err == nil) != want {
			t.Fatalf("Write(%#x, %d bytes) = %v, want ok=%v", gpa, len(p), err, want)
		}
		if err := m.Read(gpa, p); (err == nil) != want {
			t.Fatalf("Read(%#x, %d bytes) = %v, want ok=%v", gpa, len(p), err, want)
		}
	})
}

func BenchmarkView(b *testing.B) {
	m := newMemory(b, 4*GiB)
	for b.Loop() {
		if _, err := m.View(5*GiB-4096, 4096); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreate4GiB(b *testing.B) {
	for b.Loop() {
		m, err := New(4 * GiB)
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}

// residentKiB reads the process's resident set.
func residentKiB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize() / 1024
}
