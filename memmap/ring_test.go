package memmap

import (
	"bytes"
	"errors"
	"testing"
)

// TestWords loads and stores words at each alignment that a doubleword has, up to the ends of the memory.
func TestWords(t *testing.T) {
	m := newMemory(t, MinSize)
	for _, gpa := range []uint64{0, 2, 4, 6, PageSize - 2, MinSize - 4, MinSize - 2} {
		v, err := m.View(gpa, 2)
		if err != nil {
			t.Fatal(err)
		}
		StoreUint16(v, 0xa55a)
		if got := LoadUint16(v); got != 0xa55a || v[0] != 0x5a || v[1] != 0xa5 {
			t.Errorf("at %#x: %#x, bytes % x", gpa, got, v)
		}
	}
	p := make([]byte, 8)
	if err := m.Read(0, p); err != nil || !bytes.Equal(p, []byte{0x5a, 0xa5, 0x5a, 0xa5, 0x5a, 0xa5, 0x5a, 0xa5}) {
		t.Errorf("neighbours: % x, %v", p, err)
	}
	StoreUint16(p[2:], 0x1234)
	if p[1] != 0xa5 || p[2] != 0x34 || p[3] != 0x12 || p[4] != 0x5a {
		t.Errorf("a store of 2 bytes changed others: % x", p)
	}
	for _, f := range []func(){func() { LoadUint16(p[:1]) }, func() { StoreUint16(nil, 1) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("an access to a view that is too short went through")
				}
			}()
			f()
		}()
	}
}

func TestDiscard(t *testing.T) {
	m := newMemory(t, HoleStart+4*MiB)
	page := bytes.Repeat([]byte{0xee}, PageSize)
	for _, gpa := range []uint64{0, PageSize, 2 * PageSize, HoleEnd, HoleEnd + PageSize} {
		if err := m.Write(gpa, page); err != nil {
			t.Fatal(err)
		}
	}
	touched := func() uint64 {
		n, err := m.Touched()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := touched(); n != 5*PageSize {
		t.Fatalf("%d bytes touched", n)
	}
	// Of the first page only a part, of the third nothing but a part.
	for _, d := range []struct{ gpa, n uint64 }{{100, 2*PageSize + 100}, {HoleEnd + PageSize, PageSize}, {2*PageSize + 1, PageSize - 1}, {0, 0}} {
		if err := m.Discard(d.gpa, d.n); err != nil {
			t.Errorf("discard %#x+%#x: %v", d.gpa, d.n, err)
		}
	}
	for gpa, want := range map[uint64]byte{0: 0xee, PageSize: 0, 2 * PageSize: 0xee, HoleEnd: 0xee, HoleEnd + PageSize: 0} {
		if b, err := m.Uint8(gpa); err != nil || b != want {
			t.Errorf("%#x at gpa %#x, want %#x; %v", b, gpa, want, err)
		}
	}
	for _, d := range []struct{ gpa, n uint64 }{{HoleStart - PageSize, 2 * PageSize}, {HoleStart, PageSize}, {HoleEnd + 4*MiB, PageSize}, {PageSize, ^uint64(0)}} {
		if err := m.Discard(d.gpa, d.n); !errors.Is(err, ErrBounds) {
			t.Errorf("discard %#x+%#x: %v, want ErrBounds", d.gpa, d.n, err)
		}
	}
}
