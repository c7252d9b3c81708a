package boot

import (
	"bytes"
	"testing"

	"github.com/qenex/qenex-kernel/memmap"
)

// BenchmarkLoad puts a 16 MiB ELF kernel and a 4 MiB initrd into a fresh guest, memory creation
// and release included: the part of a start that grows with the files.
func BenchmarkLoad(b *testing.B) {
	k := tinyELF()
	k.segments[0].data = pattern(4*mib, 1)
	k.segments[1].data = pattern(12*mib, 2)
	file, initrd := k.bytes(), pattern(4*mib, 3)
	b.SetBytes(int64(len(file) + len(initrd)))
	kernel := open(b, file)
	for b.Loop() {
		mem, err := memmap.New(256 * mib)
		if err != nil {
			b.Fatal(err)
		}
		load(b, mem, Config{Kernel: kernel, Mode: Direct, Fresh: true, Initrds: []Initrd{{R: bytes.NewReader(initrd), Size: int64(len(initrd))}}})
		if err := mem.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
