package block

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

const hostileSectors = 256

// fill writes headers and segments that are near to what is right.
func fill(r *rand.Rand, _, part int, p []byte) {
	kinds := []uint32{typeIn, typeOut, typeFlush, typeGetID, typeDiscard, typeWriteZeroes}
	where := func() uint64 {
		if r.IntN(16) == 0 {
			return r.Uint64()
		}
		return r.Uint64N(hostileSectors + 2)
	}
	if part == 0 && len(p) >= headerLen {
		kind := kinds[r.IntN(len(kinds))]
		if r.IntN(32) == 0 {
			kind = r.Uint32()
		}
		binary.LittleEndian.PutUint32(p, kind)
		binary.LittleEndian.PutUint64(p[8:], where())
		p = p[headerLen:]
	}
	for len(p) >= segmentLen && r.IntN(4) != 0 {
		binary.LittleEndian.PutUint64(p, where())
		binary.LittleEndian.PutUint32(p[8:], r.Uint32N(64))
		binary.LittleEndian.PutUint32(p[12:], r.Uint32N(4))
		p = p[segmentLen:]
	}
}

// hostile returns a device in front of an overlay, and a check that its files are as large as before.
func hostile(t testing.TB) (*Device, func()) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	content := noise(1, hostileSectors*sector)
	if err := os.WriteFile(base, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s := blockdev.Spec{Path: base, Format: blockdev.Raw, Overlay: filepath.Join(dir, "overlay"), Cache: blockdev.Unsafe}
	disk, err := blockdev.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(s.Overlay)
	if err != nil {
		t.Fatal(err)
	}
	dev := newDevice(t, Config{Disk: disk, Queues: 2, QueueSize: 64})
	return dev, func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
		if after, err := os.Stat(s.Overlay); err != nil || after.Size() != before.Size() {
			t.Errorf("the overlay of %d bytes has %d now, %v", before.Size(), after.Size(), err)
		}
		if got, err := os.ReadFile(base); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the base was written, %v", err)
		}
	}
}

// TestStressBlock drives the device by chance: half of the operations are nonsense in rings and registers, half are requests in good
// order with nonsense in them.
func TestStressBlock(t *testing.T) {
	kvmtest.NoLeaks(t)
	dev, check := hostile(t)
	count := virtiotest.Nonsense{Fill: fill}.Run(t, dev, 1, *stress/2)
	t.Logf("%v; %+v", count, dev.Stats())
	nonsenseRequests(t, dev, *stress/2)
	check()
	s := dev.Stats()
	t.Logf("and %d requests: %+v", *stress/2, s)
	if count.Failures == 0 || count.Answers == 0 || s.Reads == 0 || s.Writes == 0 || s.Flushes == 0 || s.Discards == 0 || s.Refused == 0 || s.Errors != 0 {
		t.Error("too little of it, or errors of the storage")
	}
}

// nonsenseRequests makes requests by chance, many at a time; each gets an answer that the specification knows.
func nonsenseRequests(t *testing.T, dev *Device, n int) {
	d := virtiotest.New(t, dev, 16<<20)
	defer d.Close()
	r := rand.New(rand.NewPCG(3, 4))
	size := func() int {
		switch r.IntN(8) {
		case 0:
			return 1 + r.IntN(3*sector)
		case 1:
			return segmentLen * (1 + r.IntN(maxSegments+1))
		case 2:
			return SerialLen
		}
		return sector * (1 + r.IntN(8))
	}
	var flight []*virtiotest.Pending
	answer := func(p *virtiotest.Pending) {
		if st, _, _ := result(p.Wait()); st > statusUnsupp {
			t.Fatalf("status %d", st)
		}
	}
	for range n {
		head := make([]byte, headerLen)
		fill(r, 0, 0, head)
		readable, writable := [][]byte{head}, []int{1}
		kind := binary.LittleEndian.Uint32(head)
		if in := kind == typeIn || kind == typeGetID; in != (r.IntN(64) == 0) {
			writable = []int{size(), 1}
		} else if kind != typeFlush {
			data := make([]byte, size())
			fill(r, 0, 1, data)
			readable = append(readable, data)
		}
		if flight = append(flight, d.Post(r.IntN(2), readable, writable...)); len(flight) > 24 {
			answer(flight[0])
			flight = flight[1:]
		}
	}
	for _, p := range flight {
		answer(p)
	}
}

func FuzzBlock(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Add(bytes.Repeat([]byte("\x20\x01\x22\x70\xfb\xff\x00"), 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		dev, check := hostile(t)
		virtiotest.Nonsense{Fill: fill}.Script(t, dev, data)
		check()
	})
}

// FuzzRequest makes one request of any header and shape.
func FuzzRequest(f *testing.F) {
	f.Add(header(typeIn, 1), 0, sector, 1)
	f.Add(append(header(typeOut, 3), make([]byte, 2*sector)...), 16, 0, 1)
	f.Add(append(header(typeWriteZeroes, 0), segment(1, 2, flagUnmap)...), 20, 0, 1)
	f.Add(append(header(typeDiscard, 0), segment(1<<63, 1<<31, 0)...), 1, 0, 1)
	f.Add(header(typeGetID, 0), 3, SerialLen, 1)
	f.Fuzz(func(t *testing.T, readable []byte, cut, in, more int) {
		if len(readable) > 64<<10 || in < 0 || in > 64<<10 || more < 0 || more > 64<<10 {
			return
		}
		dev, check := hostile(t)
		d := virtiotest.New(t, dev, 1<<20)
		parts := [][]byte{readable}
		if cut > 0 && cut < len(readable) {
			parts = [][]byte{readable[:cut], readable[cut:]}
		}
		if u := d.Send(0, parts, in, more, 1); u.Data[2][0] > statusUnsupp {
			t.Errorf("status %d", u.Data[2][0])
		}
		d.Close()
		check()
	})
}
