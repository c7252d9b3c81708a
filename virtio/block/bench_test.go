package block

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// BenchmarkIO measures requests of 4 KiB at random places, with one and with 32 in flight, through queue and file. The disk lies
// in $QENEX_BENCH_DIR, or the temporary directory.
func BenchmarkIO(b *testing.B) {
	dir := os.Getenv("QENEX_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	const size = 256 << 20
	path := filepath.Join(dir, "bench.img")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.Remove(path) })
	for _, cache := range []blockdev.Cache{blockdev.Writeback, blockdev.Direct} {
		for _, kind := range []uint32{typeIn, typeOut} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("cache=%s/type=%d/depth=%d", cache, kind, depth), func(b *testing.B) {
					disk, err := blockdev.Open(blockdev.Spec{Path: path, Format: blockdev.Raw, Cache: cache})
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { disk.Close() })
					dev, err := New(Config{Disk: disk})
					if err != nil {
						b.Fatal(err)
					}
					d := virtiotest.New(b, dev, 64<<20)
					b.SetBytes(4096)
					data := make([]byte, 4096)
					flight := make([]*virtiotest.Pending, depth)
					b.ResetTimer()
					for i := range b.N + depth {
						slot := i % depth
						if flight[slot] != nil {
							u := flight[slot].Wait()
							if st := u.Data[len(u.Data)-1]; st[0] != statusOK {
								b.Fatalf("status %d", st[0])
							}
							flight[slot] = nil
						}
						if i >= b.N {
							continue
						}
						head := make([]byte, headerLen)
						binary.LittleEndian.PutUint32(head, kind)
						binary.LittleEndian.PutUint64(head[8:], rand.Uint64N(size/4096)*8)
						if kind == typeIn {
							flight[slot] = d.Post(0, [][]byte{head}, 4096, 1)
						} else {
							flight[slot] = d.Post(0, [][]byte{head, data}, 1)
						}
					}
				})
			}
		}
	}
}
