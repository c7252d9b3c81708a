package virtio_test

import (
	"math"
	"testing"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// benchQueue is a started device's queue of 256, with a request of so many readable and as many writable parts at each head, none of them
// available.
func benchQueue(b *testing.B, parts int) (*memmap.Memory, *virtio.Instance, *virtio.Queue) {
	b.Helper()
	const size, rings, table, data = 256, 0x10000, 0x100000, 0x200000
	mem, err := memmap.New(4 * memmap.MiB)
	if err != nil {
		b.Fatal(err)
	}
	h := &holder{Echo: virtiotest.NewEcho(size), queues: make(chan *virtio.Queue, 1)}
	in, err := virtio.NewInstance(h, mem, silent{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := in.Close(); err != nil {
			b.Error(err)
		}
		if err := mem.Close(); err != nil {
			b.Error(err)
		}
	})
	in.SetStatus(3)
	in.Accept(math.MaxUint64, virtio.FeatureVersion1|virtio.FeatureIndirectDesc|virtio.FeatureEventIdx)
	in.SetStatus(11)
	for r, gpa := range []uint64{0, rings, 2 * rings} {
		in.SetQueueAddr(0, virtio.Ring(r), gpa, math.MaxUint64)
	}
	in.EnableQueue(0)
	in.SetStatus(15)
	put := func(at, addr uint64, n uint32, flags, next uint16) {
		mem.PutUint64(at, addr)
		mem.PutUint32(at+8, n)
		mem.PutUint16(at+12, flags)
		mem.PutUint16(at+14, next)
	}
	for head := range uint64(size) {
		at := table + head*4096
		put(16*head, at, uint32(32*parts), indirect, 0)
		mem.PutUint16(rings+4+2*head, uint16(head))
		for i := range 2 * parts {
			flags := uint16(next)
			if i >= parts {
				flags |= write
			}
			if i == 2*parts-1 {
				flags &^= next
			}
			put(at+16*uint64(i), data+head*4096, 512, flags, uint16(i+1))
		}
	}
	return mem, in, <-h.queues
}

type silent struct{}

func (silent) Interrupt(int)    {}
func (silent) ConfigInterrupt() {}
func (silent) Failed(err error) { panic(err) }

// BenchmarkRequest takes requests from a queue and gives them back, in batches of 64.
func BenchmarkRequest(b *testing.B) {
	for name, parts := range map[string]int{"2-descriptors": 1, "32-descriptors": 16} {
		b.Run(name, func(b *testing.B) {
			mem, _, q := benchQueue(b, parts)
			view, err := mem.View(0x10000, 4)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			idx := uint16(0)
			for n := 0; b.Loop(); n++ {
				if n%64 == 0 {
					idx += 64
					memmap.StoreUint16(view[2:], idx)
				}
				c, err := q.Next()
				if err != nil || c == nil {
					b.Fatalf("%v, %v", c, err)
				}
				q.Done(c, 512)
				if n%64 == 63 {
					q.Flush()
				}
			}
		})
	}
}

// BenchmarkDoorbell rings and waits, on one goroutine.
func BenchmarkDoorbell(b *testing.B) {
	_, in, q := benchQueue(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		in.Ring(0)
		if err := q.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
