package programs

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// Offsets in the header and the program headers of a 64-bit ELF file; elf(5).
const (
	elfClass, elfData, elfType, elfMachine, elfEntry = 4, 5, 16, 18, 24
	elfPhoff, elfEhsize, elfPhentsize, elfPhnum      = 32, 52, 54, 56
	phType, phFlags, phOffset, phVaddr               = 0, 4, 8, 16
	phFilesz, phMemsz, phAlign, phSize               = 32, 40, 48, 56
)

// mutant is an ELF file that something is wrong with.
type mutant struct {
	name string
	data []byte
}

// mutants returns about 200 variants of a good ELF file, the same in every run.
func mutants(good []byte) []mutant {
	le := binary.LittleEndian
	var all []mutant
	change := func(name string, f func(b []byte) []byte) {
		all = append(all, mutant{fmt.Sprintf("%03d-%s", len(all), name), f(append([]byte(nil), good...))})
	}
	odd := []uint64{0, 1, 0xfff, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 1<<63 - 1, 1<<64 - 1, 1<<64 - 4096, uint64(len(good)), uint64(len(good)) - 1}
	phnum, phoff := int(le.Uint16(good[elfPhnum:])), int(le.Uint64(good[elfPhoff:]))
	for _, v := range odd {
		change(fmt.Sprintf("entry-%x", v), func(b []byte) []byte { le.PutUint64(b[elfEntry:], v); return b })
		change(fmt.Sprintf("phoff-%x", v), func(b []byte) []byte { le.PutUint64(b[elfPhoff:], v); return b })
		for i := range min(phnum, 3) {
			h := phoff + i*phSize
			for _, f := range []struct {
				name string
				at   int
			}{{"offset", phOffset}, {"vaddr", phVaddr}, {"filesz", phFilesz}, {"memsz", phMemsz}, {"align", phAlign}} {
				change(fmt.Sprintf("%s-of-%d-%x", f.name, i, v), func(b []byte) []byte { le.PutUint64(b[h+f.at:], v); return b })
			}
		}
	}
	for _, v := range []uint16{0, 1, 2, 0x7fff, 0xffff} {
		for _, at := range []int{elfType, elfMachine, elfEhsize, elfPhentsize, elfPhnum} {
			change(fmt.Sprintf("half-at-%d-%x", at, v), func(b []byte) []byte { le.PutUint16(b[at:], v); return b })
		}
	}
	for i := range phnum {
		for _, v := range []uint32{0, 2, 3, 0x6474e551, 0xffffffff} {
			change(fmt.Sprintf("type-of-%d-%x", i, v), func(b []byte) []byte { le.PutUint32(b[phoff+i*phSize+phType:], v); return b })
		}
		change(fmt.Sprintf("flags-of-%d", i), func(b []byte) []byte { le.PutUint32(b[phoff+i*phSize+phFlags:], 0); return b })
	}
	for at := range 8 {
		change(fmt.Sprintf("ident-%d", at), func(b []byte) []byte { b[at] ^= 0xff; return b })
	}
	for _, n := range []int{1, 4, 16, 63, 64, 65, 120, 4095, 4096, len(good) / 2, len(good) - 1} {
		change(fmt.Sprintf("cut-%d", n), func(b []byte) []byte { return b[:n] })
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		change("random", func(b []byte) []byte {
			for range 1 + rng.IntN(8) {
				b[rng.IntN(phoff+phnum*phSize)] = byte(rng.Uint32())
			}
			return b
		})
	}
	return all
}

// makeMutants writes mutants of a static program to a directory and returns it.
func makeMutants(t *testing.T) (dir string, paths []string) {
	t.Helper()
	good, err := os.ReadFile(needC(t, "hello", cc.Static))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, m := range mutants(good) {
		path := filepath.Join(dir, m.name)
		if err := os.WriteFile(path, m.data, 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if len(paths) < 200 {
		t.Errorf("only %d mutants", len(paths))
	}
	return dir, paths
}
