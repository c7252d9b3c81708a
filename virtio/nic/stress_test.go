package nic

import (
	"errors"
	"flag"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

// mirror is a backend that sends the guest's frames back, as far as there is room, and checks what the device has let through.
type mirror struct {
	t      testing.TB
	frames [4]chan []byte
	sent   atomic.Uint64

	mu   sync.Mutex
	stop chan struct{} // guarded by mu; nil if stopped
}

func newMirror(t testing.TB) *mirror {
	m := &mirror{t: t}
	for i := range m.frames {
		m.frames[i] = make(chan []byte, 16)
	}
	return m
}

func (m *mirror) Offloads() (take, give vnethdr.Offloads) { return all, all }
func (m *mirror) MTU() int                                { return 1500 }
func (m *mirror) MaxPairs() int                           { return len(m.frames) }

func (m *mirror) Start(vnethdr.Offloads) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.t.Error("started twice")
	}
	m.stop = make(chan struct{})
	return nil
}

func (m *mirror) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.stop)
	m.stop = nil
}

func (m *mirror) SetPairs(n int) error {
	if n < 1 || n > len(m.frames) {
		m.t.Errorf("%d pairs", n)
	}
	return nil
}

func (m *mirror) Transmit(pair int, views [][]byte) error {
	m.sent.Add(1)
	h := vnethdr.Parse((*[vnethdr.Size]byte)(views[0]))
	frame := append([]byte(nil), views[0]...)
	for _, v := range views[1:] {
		frame = append(frame, v...)
	}
	n := len(frame) - vnethdr.Size
	if err := h.Check(n, all); err != nil || len(views[0]) != vnethdr.Size || n < minFrame || n > vnethdr.MaxFrame || len(views) > maxViews+1 {
		m.t.Errorf("a frame of %d bytes in %d pieces with %+v: %v", n, len(views), h, err)
	}
	select {
	case m.frames[pair] <- frame:
	default:
	}
	return nil
}

func (m *mirror) Receive(pair int, views [][]byte, idle func()) (int, error) {
	m.mu.Lock()
	stop := m.stop
	m.mu.Unlock()
	if stop == nil {
		return 0, errors.New("stopped")
	}
	if len(views) > maxViews+1 {
		m.t.Errorf("%d views", len(views))
	}
	idle()
	select {
	case f := <-m.frames[pair]:
		n := len(f)
		for _, v := range views {
			f = f[copy(v, f):]
		}
		return n, nil
	case <-stop:
		return 0, errors.New("stopped")
	}
}

// plausible fills the beginning of a request with what takes it further.
func plausible(r *rand.Rand, queue, part int, p []byte) {
	switch {
	case part != 0:
	case queue == 8 || queue == 2 && r.IntN(4) == 0:
		copy(p, [][]byte{
			{classRX, byte(r.IntN(8)), byte(r.IntN(3))},
			{classMAC, macAddrSet, byte(r.IntN(4)), 2, 3, 4, 5, 6},
			{classMAC, macTableSet, byte(r.IntN(3)), 0, 0, byte(r.IntN(2)), 1, 2, 3, 4, 5, 6},
			{classMQ, mqPairsSet, byte(r.IntN(6)), 0},
		}[r.IntN(4)])
	case queue&1 == 1:
		h := vnethdr.Header{Flags: byte(r.IntN(2)), CsumStart: uint16(r.IntN(40)), CsumOffset: uint16(r.IntN(20))}
		if r.IntN(2) == 0 {
			h.GSO, h.GSOSize, h.HdrLen = byte(r.IntN(6)), uint16(r.IntN(2000)), uint16(r.IntN(200))
		}
		if r.IntN(16) == 0 {
			h.CsumStart, h.CsumOffset = uint16(r.Uint32()), uint16(r.Uint32())
		}
		copy(p, header(h))
	}
}

// heap is the memory in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// maxGrowth of the heap by a stress test, in bytes: what the mirror holds, and some air.
const maxGrowth = 16 << 20

func TestStressNIC(t *testing.T) {
	kvmtest.NoLeaks(t)
	before := heap()
	m := newMirror(t)
	d := newDevice(t, m, 4)
	count := virtiotest.Nonsense{Fill: plausible}.Run(t, d, 1, *stress)
	s := d.Stats()
	t.Logf("%v; %+v", count, s)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 || s.Sent == 0 || s.SentDropped == 0 || s.Received == 0 || s.Sent != m.sent.Load() {
		t.Errorf("%v, %+v: too little of it", count, s)
	}
	if after := heap(); after > before+maxGrowth {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
}

// FuzzNIC drives by chance from a seed.
func FuzzNIC(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, uint16(500))
	}
	f.Fuzz(func(t *testing.T, seed uint64, ops uint16) {
		virtiotest.Nonsense{Fill: plausible}.Run(t, newDevice(t, newMirror(t), 4), seed, int(ops)%2000)
	})
}

// TestStressFrames keeps to the protocol of the queues, and sends frames, headers and commands by chance into buffers of any size.
func TestStressFrames(t *testing.T) {
	kvmtest.NoLeaks(t)
	const pairs, window = 4, 16
	r := rand.New(rand.NewPCG(3, 0))
	dev := newDevice(t, newMirror(t), pairs)
	d := virtiotest.New(t, dev, 64<<20)
	n := *stress / 10
	var sending, receiving [pairs][]*virtiotest.Pending
	var buffers, frames int
	var missing [pairs]int // buffers of a frame that are still to come
	receive := func(pair int, p *virtiotest.Pending) {
		b := p.Wait().Bytes()
		buffers++
		if missing[pair]--; missing[pair] >= 0 {
			return
		}
		if len(b) < vnethdr.Size {
			t.Fatalf("a frame that begins with %d bytes", len(b))
		}
		frames++
		missing[pair] = int(b[vnethdr.NumBuffers]) + int(b[vnethdr.NumBuffers+1])<<8 - 1
		h := vnethdr.Parse((*[vnethdr.Size]byte)(b))
		if missing[pair] < 0 || h.Flags&^3 != 0 || h.GSO != 0 && h.Flags&vnethdr.NeedsCsum == 0 {
			t.Fatalf("pair %d: %+v in %d buffers", pair, h, missing[pair]+1)
		}
	}
	for range n {
		pair := r.IntN(pairs)
		if r.IntN(100) == 0 {
			command := make([]byte, 2+r.IntN(20))
			plausible(r, 2*pairs, 0, command)
			if u := d.Send(2*pairs, [][]byte{command}, 1); u.Len != 1 || u.Data[0][0] > ackError {
				t.Fatalf("% x: answer % x", command, u.Data)
			}
		}
		for len(receiving[pair]) < window {
			sizes := []int{vnethdr.Size + r.IntN(2000)}
			for range r.IntN(3) {
				sizes = append(sizes, 1+r.IntN(3000))
			}
			receiving[pair] = append(receiving[pair], d.Post(2*pair, nil, sizes...))
		}
		frame := make([]byte, vnethdr.Size+r.IntN(2000))
		if r.IntN(50) == 0 {
			frame = make([]byte, vnethdr.Size+r.IntN(70000))
		}
		plausible(r, 1, 0, frame)
		var parts [][]byte
		for len(frame) > 0 {
			k := 1 + r.IntN(len(frame))
			parts = append(parts, frame[:k])
			frame = frame[k:]
		}
		sending[pair] = append(sending[pair], d.Post(2*pair+1, parts))
		if len(sending[pair]) == window {
			sending[pair][0].Wait()
			sending[pair] = sending[pair][1:]
		}
		for len(receiving[pair]) > 0 {
			select {
			case <-receiving[pair][0].Done():
				receive(pair, receiving[pair][0])
				receiving[pair] = receiving[pair][1:]
				continue
			default:
			}
			break
		}
	}
	for _, l := range sending {
		for _, p := range l {
			p.Wait()
		}
	}
	s := dev.Stats()
	t.Logf("%d frames sent, %d came back in %d buffers; %+v", n, frames, buffers, s)
	if int(s.Sent+s.SentDropped) != n || s.Sent == 0 || s.SentDropped == 0 || frames == 0 || buffers <= frames {
		t.Error("that does not add up")
	}
	if status := d.Instance.Status(); status&virtio.StatusNeedsReset != 0 {
		t.Errorf("status %#x", status)
	}
	d.Close()
}
