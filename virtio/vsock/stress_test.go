package vsock

import (
	"bytes"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

// maxGrowth is how much more heap there may be after a stress test than before.
const maxGrowth = 16 << 20

// heap returns the live bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// chanceHeader makes a header that is mostly plausible, about few connections.
func chanceHeader(r *rand.Rand, room int) header {
	pick := func(of ...uint64) uint64 { return of[r.IntN(len(of))] }
	h := header{
		srcCID: testCID, dstCID: hostCID, typ: typeStream,
		srcPort: uint32(pick(1, 2, 3, 1024)), dstPort: uint32(pick(80, 80, 81, 90, firstPort, firstPort+1)) + uint32(r.IntN(2)*r.IntN(3)),
		op:       uint16(pick(opRequest, opRequest, opResponse, opResponse, opShutdown, opData, opData, opData, opCreditUpdate, opCreditRequest)),
		bufAlloc: uint32(pick(0, 1, 100, 1<<16, 1<<20, 1<<32-1)),
		fwdCnt:   uint32(pick(0, 0, 0, 0, 1, 5, 1<<31, 1<<32-1)),
	}
	if h.op == opShutdown {
		h.flags = uint32(r.IntN(4))
	}
	if h.op == opData {
		h.len = uint32(r.IntN(room + 1))
	}
	switch r.IntN(64) {
	case 0:
		h.srcCID = r.Uint64()
	case 1:
		h.dstCID = pick(0, 1, 3, r.Uint64())
	case 2:
		h.typ = uint16(r.Uint32())
	case 3:
		h.op = uint16(r.IntN(12))
	case 4:
		h.len = r.Uint32() >> r.IntN(32)
	case 5:
		h.flags = r.Uint32() >> r.IntN(32)
	case 6:
		h.fwdCnt = r.Uint32()
	case 7:
		h.op = opReset
	}
	return h
}

// users are the host's programs that a hostile guest has to do with.
type users struct {
	stop chan struct{}
	wg   sync.WaitGroup
}

// startUsers has echoing listeners at port 80 and, as host programs, 90, and somebody who dials all the time.
func startUsers(t testing.TB, d *Device) *users {
	u := &users{stop: make(chan struct{})}
	l, err := d.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	listeners := []net.Listener{l}
	if d.path != "" {
		h, err := net.Listen("unix", d.path+"_90")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, h)
	}
	for _, l := range listeners {
		u.wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				u.wg.Go(func() {
					defer c.Close()
					// A guest that neither reads nor writes any more does not keep it.
					c.SetDeadline(time.Now().Add(time.Second))
					io.Copy(c, c)
				})
			}
		})
	}
	u.wg.Go(func() {
		<-u.stop
		for _, l := range listeners {
			l.Close()
		}
	})
	u.wg.Go(func() {
		for {
			select {
			case <-u.stop:
				return
			default:
			}
			if c, err := d.Dial(1024); err == nil {
				c.SetDeadline(time.Now().Add(time.Millisecond))
				c.Write(make([]byte, 10_000))
				io.Copy(io.Discard, c)
				c.Close()
			}
			runtime.Gosched()
		}
	})
	return u
}

// end waits for the users; the device has been stopped, or refuses what they wait for.
func (u *users) end() {
	close(u.stop)
	u.wg.Wait()
}

// TestStressVsock has a driver that writes rings, descriptors and packets by chance.
func TestStressVsock(t *testing.T) {
	kvmtest.NoLeaks(t)
	d, err := New(Config{CID: testCID, Path: filepath.Join(t.TempDir(), "v")})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	u := startUsers(t, d)
	count := virtiotest.Nonsense{Fill: func(r *rand.Rand, queue, part int, p []byte) {
		if queue == queueTransmit && part == 0 {
			h := chanceHeader(r, max(0, len(p)-headerSize))
			b := h.bytes()
			copy(p, b[:])
		}
	}}.Run(t, d, 1, *stress)
	u.end()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	t.Log(count)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 {
		t.Errorf("%v: too little of it", count)
	}
	if d.live != 0 || len(d.conns) != 0 {
		t.Errorf("%d connections are left, %d of them not gone", d.live, len(d.conns))
	}
	if after := heap(); after > before+maxGrowth {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
}

// TestStressPackets has a driver that is right, and a guest that sends packets by chance.
func TestStressPackets(t *testing.T) {
	before := heap()
	g := newGuest(t, Config{Path: filepath.Join(t.TempDir(), "v")})
	u := startUsers(t, g.dev)
	n := *stress / 4
	answers := g.flood(n, rand.New(rand.NewPCG(2, 0)))
	g.works()
	t.Logf("%d packets of the guest, %d of the device", n, answers)
	g.drv.Instance.SetStatus(0)
	u.end()
	if after := heap(); after > before+maxGrowth {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
}

// flood sends n packets by chance and returns how many came meanwhile.
func (g *guest) flood(n int, r *rand.Rand) (answers int) {
	g.t.Helper()
	payload := make([]byte, 8<<10)
	for range n {
		p := payload[:r.IntN(1+r.IntN(len(payload)))]
		h := chanceHeader(r, len(p))
		b := h.bytes()
		if len(p) > 0 {
			g.post(b[:], p)
		} else {
			g.post(b[:])
		}
		for more := true; more; {
			select {
			case <-g.packets:
				answers++
			default:
				more = false
			}
		}
	}
	return answers
}

// works checks that a guest that behaves is served, after whatever came before.
func (g *guest) works() {
	g.t.Helper()
	p := &peer{g: g, src: 777_777, dst: 80, alloc: 1 << 16}
	own := func() packet {
		g.t.Helper()
		for {
			select {
			case q := <-g.packets:
				if q.dstPort == p.src {
					return q
				}
			case <-time.After(patience):
				g.t.Fatalf("no packet in %v", patience)
			}
		}
	}
	// Connections that are gone count until the host's programs have closed them: there may be too many for a moment.
	p.send(opRequest)
	for end := time.Now().Add(patience); own().op != opResponse; p.send(opRequest) {
		if time.Now().After(end) {
			g.t.Fatal("every connection is refused")
		}
	}
	p.send(opData, []byte("are you there?")...)
	if q := own(); q.op != opData || string(q.payload) != "are you there?" {
		g.t.Errorf("echo %+v %q", q.header, q.payload)
	}
	p.shutdown(shutBoth)
	if q := own(); q.op != opReset {
		g.t.Errorf("end %+v", q.header)
	}
}

// script is a rand.Source of given bytes; each is followed by bits that change, for rand draws again while a number does not suit it.
type script struct {
	data []byte
	tail uint64
}

func (s *script) Uint64() uint64 {
	s.tail += 0x9e3779b97f4a7c15
	if len(s.data) == 0 {
		return s.tail
	}
	b := s.data[0]
	s.data = s.data[1:]
	return uint64(b)<<56 | uint64(b)<<24 | s.tail>>8&^(0xff<<24)
}

func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x00\x10\x20\x30\x40\x50\x60\x70\x80\x90\xa0\xb0\xc0\xd0\xe0\xf0"))
	f.Add(bytes.Repeat([]byte("\x13\x37\xc0\xde"), 40))
	f.Add(bytes.Repeat([]byte("\xff\x00\x7f"), 60))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := newGuest(t, Config{})
		u := startUsers(t, g.dev)
		s := &script{data: data}
		r := rand.New(s)
		for len(s.data) > 0 {
			g.flood(1, r)
		}
		g.works()
		g.drv.Instance.SetStatus(0)
		u.end()
	})
}

func FuzzVsock(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := New(Config{CID: testCID})
		if err != nil {
			t.Fatal(err)
		}
		virtiotest.Nonsense{}.Script(t, d, data)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
