package pagetable

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// memory is tables in a slice; gpa is the index in pages, from 1 on.
type memory struct {
	tables []*Table
	limit  int
}

var errFull = errors.New("full")

func (m *memory) NewTable() (uint64, error) {
	if len(m.tables) == m.limit {
		return 0, errFull
	}
	m.tables = append(m.tables, new(Table))
	return uint64(len(m.tables)) << 12, nil
}

func (m *memory) Table(gpa uint64) *Table { return m.tables[gpa>>12-1] }

// TestAgainstModel makes random calls and holds every entry, and every report of a replaced one, against a map.
func TestAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	mem := &memory{limit: 1 << 20}
	tree, err := New(mem)
	if err != nil {
		t.Fatal(err)
	}
	model := map[uint64]uint64{}
	bases := []uint64{0x1000, 0x400000 - 8*PageSize, 1<<30 - 8*PageSize, 1<<39 - 8*PageSize, Limit - 600*PageSize}
	for range 3000 {
		addr := bases[rng.IntN(len(bases))] + rng.Uint64N(16)*PageSize
		n := 1 + rng.Uint64N(560)
		n = min(n, (Limit-addr)/PageSize)
		var reported, want []uint64
		if rng.IntN(3) == 0 {
			for i := range n {
				if old, ok := model[addr+i*PageSize]; ok {
					want = append(want, old)
					delete(model, addr+i*PageSize)
				}
			}
			count := tree.Unmap(addr, n, func(old uint64) { reported = append(reported, old) })
			if count != uint64(len(want)) {
				t.Fatalf("Unmap(%#x, %d) = %d, expected %d", addr, n, count, len(want))
			}
		} else {
			gpa := (1 + rng.Uint64N(1<<20)) * PageSize
			if rng.IntN(2) == 0 { // often the same page again, with other rights
				gpa = addr & (1<<30 - 1)
			}
			bits := []uint64{User, User | Writable, User | NoExec, User | Writable | NoExec}[rng.IntN(4)]
			for i := range n {
				e := gpa + i*PageSize | bits | Present | accessedDirty
				if old, ok := model[addr+i*PageSize]; ok {
					same := Address(old) == Address(e)
					lost := old&Writable != 0 && e&Writable == 0 || old&NoExec == 0 && e&NoExec != 0
					if !same || lost {
						want = append(want, old)
					}
				}
				model[addr+i*PageSize] = e
			}
			if err := tree.Map(addr, gpa, n, bits, func(old uint64) { reported = append(reported, old) }); err != nil {
				t.Fatal(err)
			}
		}
		if len(reported) != len(want) {
			t.Fatalf("at %#x, %d pages: %d entries reported, expected %d", addr, n, len(reported), len(want))
		}
		for i := range want {
			if reported[i] != want[i] {
				t.Fatalf("at %#x: reported %#x, expected %#x", addr, reported[i], want[i])
			}
		}
		for i := range n {
			if got := tree.Entry(addr + i*PageSize); got != model[addr+i*PageSize] {
				t.Fatalf("entry of %#x is %#x, expected %#x", addr+i*PageSize, got, model[addr+i*PageSize])
			}
		}
	}
	if n := tree.Unmap(0, Limit/PageSize, func(uint64) {}); n != uint64(len(model)) {
		t.Errorf("unmapping all: %d pages, expected %d", n, len(model))
	}
}

// TestFull: an error of the memory comes through, and what was mapped stays.
func TestFull(t *testing.T) {
	mem := &memory{limit: 4}
	tree, err := New(mem)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Map(0x1000, 0x5000, 1, User, nil); err != nil {
		t.Fatal(err)
	}
	if err := tree.Map(1<<40, 0x5000, 1, User, nil); !errors.Is(err, errFull) {
		t.Errorf("mapping without memory for tables: %v", err)
	}
	if tree.Entry(0x1000)&Present == 0 {
		t.Error("the first mapping is gone")
	}
}

func TestLink(t *testing.T) {
	mem := &memory{limit: 100}
	a, err := New(mem)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(mem)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := mem.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	const at = 0xFFFFFFFF80000000
	for _, tree := range []*Tree{a, b} {
		if err := tree.Link(at, 1, shared); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Map(at+0x3000, 0x7000, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	if e := b.Entry(at + 0x3000); Address(e) != 0x7000 {
		t.Errorf("the other tree shows %#x", e)
	}
}
