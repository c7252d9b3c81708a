package virtio_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

const noEvents = virtio.FeatureEventIdx
const noIndirect = virtio.FeatureIndirectDesc

// TestEcho sends requests of many shapes through queues of several sizes, with and without the queue features.
func TestEcho(t *testing.T) {
	kvmtest.NoLeaks(t)
	for _, refuse := range []uint64{0, noEvents, noIndirect, noEvents | noIndirect} {
		for _, size := range []uint16{1, 2, 64} {
			t.Run(fmt.Sprintf("refuse=%#x/size=%d", refuse, size), func(t *testing.T) {
				dev := virtiotest.NewEcho(64, 64)
				d := virtiotest.NewWith(t, dev, 8*memmap.MiB, virtiotest.Options{Refuse: refuse, QueueSize: size})
				r := rand.New(rand.NewPCG(1, uint64(size)))
				var waiting []func()
				for i := range 600 {
					var in [][]byte
					var all []byte
					parts := 1 + r.IntN(4)
					if refuse&noIndirect != 0 {
						parts = min(parts, int(size))
					}
					n := r.IntN(parts + 1)
					for range n {
						b := make([]byte, 1+r.IntN(9000))
						for k := range b {
							b[k] = byte(r.Uint32())
						}
						in, all = append(in, b), append(all, b...)
					}
					var out []int
					room := 0
					for range parts - n {
						out = append(out, 1+r.IntN(9000))
						room += out[len(out)-1]
					}
					p := d.Post(i%2, in, out...)
					waiting = append(waiting, func() {
						u := p.Wait()
						want := all[:min(len(all), room)]
						if got := u.Bytes(); !bytes.Equal(got, want) {
							t.Errorf("%d bytes came back of %d with room for %d", len(got), len(all), room)
						}
					})
					if len(waiting) == 40 {
						for _, f := range waiting {
							f()
						}
						waiting = nil
					}
				}
				for _, f := range waiting {
					f()
				}
				if dev.Starts.Load() != 1 {
					t.Errorf("%d starts", dev.Starts.Load())
				}
			})
		}
	}
}

// TestResetAndRestart ends a device with requests on their way, many times: none of its goroutines is left, and it serves again.
func TestResetAndRestart(t *testing.T) {
	kvmtest.NoLeaks(t)
	dev := virtiotest.NewEcho(8)
	d := virtiotest.New(t, dev, 2*memmap.MiB)
	for range 200 {
		for range 5 {
			d.Post(0, [][]byte{{1, 2, 3}}, 3)
		}
		d.Reset()
		if n := dev.Running.Load(); n != 0 {
			t.Fatalf("%d goroutines after the reset", n)
		}
		if s := d.Instance.Status(); s != 0 {
			t.Fatalf("status %#x after the reset", s)
		}
		d.Start()
		if got := d.Send(0, [][]byte{[]byte("hello")}, 5).Bytes(); string(got) != "hello" {
			t.Fatalf("%q came back", got)
		}
	}
}

func TestStressEcho(t *testing.T) {
	kvmtest.NoLeaks(t)
	count := virtiotest.Nonsense{}.Run(t, virtiotest.NewEcho(256, 64, 1), 1, *stress)
	t.Log(count)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 {
		t.Errorf("%v: too little of it", count)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Add(bytes.Repeat([]byte("\xf0\x01\x22\x70\xfb\xff\x00"), 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		virtiotest.Nonsense{}.Script(t, virtiotest.NewEcho(16, 4), data)
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	d := virtiotest.New(b, virtiotest.NewEcho(256), 4*memmap.MiB)
	data := [][]byte{make([]byte, 64)}
	b.ReportAllocs()
	for b.Loop() {
		d.Send(0, data, 64)
	}
}
