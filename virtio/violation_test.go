package virtio_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

// raw is a driver that writes rings by hand: queue 0 has 4 descriptors.
type raw struct {
	t          *testing.T
	mem        *memmap.Memory
	in         *virtio.Instance
	interrupts chan int // queue, or -1 for the configuration
	failed     chan error
}

const (
	rawDesc  = 0x1000
	rawAvail = 0x2000
	rawUsed  = 0x3000
	rawData  = 0x10000
)

func (r *raw) Interrupt(q int)  { r.interrupts <- q }
func (r *raw) ConfigInterrupt() { r.interrupts <- -1 }
func (r *raw) Failed(err error) { r.failed <- err }

func newRaw(t *testing.T, dev virtio.Device, memory uint64) *raw {
	t.Helper()
	kvmtest.NoLeaks(t)
	r := &raw{t: t, interrupts: make(chan int, 1000), failed: make(chan error, 1000)}
	var err error
	if r.mem, err = memmap.New(memory); err != nil {
		t.Fatal(err)
	}
	if r.in, err = virtio.NewInstance(dev, r.mem, r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.in.Close(), r.in.Close(), r.mem.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// start negotiates the features and starts the device with its first queue.
func (r *raw) start(features uint64) {
	r.t.Helper()
	r.in.SetStatus(0)
	for _, at := range []uint64{rawDesc, rawAvail, rawUsed} {
		if err := r.mem.Zero(at, 0x1000); err != nil {
			r.t.Fatal(err)
		}
	}
	r.in.SetStatus(3)
	r.in.Accept(virtio.FeatureVersion1|features, math.MaxUint64)
	r.in.SetStatus(11)
	r.in.SetQueueSize(0, 4)
	r.place(rawDesc, rawAvail, rawUsed)
	r.in.EnableQueue(0)
	r.in.SetStatus(15)
}

func (r *raw) place(desc, avail, used uint64) {
	for ring, gpa := range []uint64{desc, avail, used} {
		r.in.SetQueueAddr(0, virtio.Ring(ring), gpa, math.MaxUint64)
	}
}

type desc struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func (r *raw) write(table uint64, i int, d desc) {
	at := table + 16*uint64(i)
	if err := errors.Join(r.mem.PutUint64(at, d.addr), r.mem.PutUint32(at+8, d.len), r.mem.PutUint16(at+12, d.flags), r.mem.PutUint16(at+14, d.next)); err != nil {
		r.t.Fatal(err)
	}
}

// publish makes heads available behind those before, and says that there are idx.
func (r *raw) publish(idx uint16, heads ...uint16) {
	for i, h := range heads {
		if err := r.mem.PutUint16(rawAvail+4+2*uint64(i), h); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.mem.PutUint16(rawAvail+2, idx); err != nil {
		r.t.Fatal(err)
	}
	r.in.Ring(0)
}

func (r *raw) failure() error {
	r.t.Helper()
	select {
	case err := <-r.failed:
		return err
	case <-time.After(patience):
		r.t.Fatal("the device did not fail")
		return nil
	}
}

func (r *raw) interrupt() int {
	r.t.Helper()
	select {
	case q := <-r.interrupts:
		return q
	case <-time.After(patience):
		r.t.Fatal("no interrupt")
		return 0
	}
}

const (
	next     = 1
	write    = 2
	indirect = 4
)

// TestViolations has a driver break each rule of a queue. The device must say so, set DEVICE_NEEDS_RESET, tell the driver, and serve again
// after a reset.
func TestViolations(t *testing.T) {
	const table = rawData + 0x1000
	for _, tt := range []struct {
		name     string
		features uint64
		queue    []desc // the descriptor table
		table    []desc // at table
		idx      uint16
		heads    []uint16
		want     string
	}{
		{name: "head outside the table", idx: 1, heads: []uint16{4}, want: "head 4 of 4"},
		{name: "next outside the table", queue: []desc{{rawData, 8, next, 9}}, idx: 1, want: "9 of 4"},
		{name: "loop of one", queue: []desc{{rawData, 8, next, 0}}, idx: 1, want: "loop"},
		{name: "loop of two", queue: []desc{{rawData, 8, next, 1}, {rawData, 8, next, 0}}, idx: 1, want: "loop"},
		{name: "readable behind writable", queue: []desc{{rawData, 8, next | write, 1}, {rawData, 8, 0, 0}}, idx: 1, want: "behind a device-writable"},
		{name: "buffer outside memory", queue: []desc{{memmap.MinSize, 8, 0, 0}}, idx: 1, want: "outside guest memory"},
		{name: "buffer over the end of memory", queue: []desc{{memmap.MinSize - 4, 8, 0, 0}}, idx: 1, want: "outside guest memory"},
		{name: "buffer that wraps", queue: []desc{{math.MaxUint64 - 3, 8, 0, 0}}, idx: 1, want: "outside guest memory"},
		{name: "available index runs away", idx: 5, want: "runs away"},
		{name: "available index backwards", idx: math.MaxUint16, want: "runs away"},
		{name: "indirect not accepted", queue: []desc{{table, 16, indirect, 0}}, idx: 1, want: "not accepted"},
		{name: "indirect and next", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 16, indirect | next, 1}}, idx: 1, want: "has a next one"},
		{name: "indirect in indirect", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 16, indirect, 0}}, table: []desc{{table, 16, indirect, 0}}, idx: 1, want: "inside an indirect"},
		{name: "empty table", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 0, indirect, 0}}, idx: 1, want: "length is 0"},
		{name: "odd table", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 24, indirect, 0}}, idx: 1, want: "no multiple of 16"},
		{name: "huge table", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 1025 * 16, indirect, 0}}, idx: 1, want: "more than 1024"},
		{name: "table outside memory", features: virtio.FeatureIndirectDesc, queue: []desc{{math.MaxUint64 &^ 15, 32, indirect, 0}}, idx: 1, want: "indirect table"},
		{name: "loop in the table", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 32, indirect, 0}}, table: []desc{{rawData, 8, next, 1}, {rawData, 8, next, 0}}, idx: 1, want: "loop"},
		{name: "next outside the indirect table", features: virtio.FeatureIndirectDesc, queue: []desc{{table, 32, indirect, 0}}, table: []desc{{rawData, 8, next, 2}}, idx: 1, want: "2 of 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRaw(t, virtiotest.NewEcho(4), memmap.MinSize)
			r.start(tt.features)
			for i, d := range tt.queue {
				r.write(rawDesc, i, d)
			}
			for i, d := range tt.table {
				r.write(table, i, d)
			}
			r.publish(tt.idx, tt.heads...)
			if err := r.failure(); !errors.Is(err, virtio.ErrProtocol) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("reason %v, want %q in it", err, tt.want)
			}
			if q := r.interrupt(); q != -1 || r.in.Status() != 15|virtio.StatusNeedsReset {
				t.Errorf("interrupt %d, status %#x", q, r.in.Status())
			}
			r.start(tt.features)
			r.echoes()
		})
	}
}

// echoes makes one good request of a device that was just started.
func (r *raw) echoes() {
	r.t.Helper()
	r.write(rawDesc, 0, desc{rawData, 8, next, 1})
	r.write(rawDesc, 1, desc{rawData + 8, 8, write, 0})
	if err := r.mem.PutUint64(rawData, 0x1122334455667788); err != nil {
		r.t.Fatal(err)
	}
	r.publish(1, 0)
	if q := r.interrupt(); q != 0 {
		r.t.Fatalf("interrupt %d", q)
	}
	got, err := r.mem.Uint64(rawData + 8)
	if err != nil || got != 0x1122334455667788 {
		r.t.Errorf("%#x came back, %v", got, err)
	}
	if n, err := r.mem.Uint32(rawUsed + 8); err != nil || n != 8 {
		r.t.Errorf("%d bytes used, %v", n, err)
	}
}

func TestTooManyBytes(t *testing.T) {
	const table, memory = 0x100000, 8 * memmap.MiB
	r := newRaw(t, virtiotest.NewEcho(4), memory)
	r.start(virtio.FeatureIndirectDesc)
	r.write(rawDesc, 0, desc{table, 1024 * 16, indirect, 0})
	for i := range 1024 {
		r.write(table, i, desc{0, memory, write | next, uint16(i + 1)})
	}
	r.publish(1, 0)
	if err := r.failure(); !strings.Contains(err.Error(), "more than 2^32") {
		t.Errorf("reason %v", err)
	}
}

// holder is a device that gives its first queue to a test.
type holder struct {
	*virtiotest.Echo
	queues   chan *virtio.Queue
	startErr error
}

func newHolder() *holder {
	return &holder{Echo: virtiotest.NewEcho(4), queues: make(chan *virtio.Queue, 1)}
}

func (h *holder) Start(_ uint64, queues []*virtio.Queue, _ virtio.Env) error {
	h.queues <- queues[0]
	return h.startErr
}

func (h *holder) Stop() {}

func TestHeadTwice(t *testing.T) {
	h := newHolder()
	r := newRaw(t, h, memmap.MinSize)
	r.start(0)
	q := <-h.queues
	r.write(rawDesc, 0, desc{rawData, 8, 0, 0})
	r.publish(2, 0, 0)
	c, err := q.Next()
	if err != nil || c == nil {
		t.Fatalf("%v, %v", c, err)
	}
	if _, err := q.Next(); !errors.Is(err, virtio.ErrProtocol) || !strings.Contains(err.Error(), "before it was used") {
		t.Errorf("the same head again: %v", err)
	}
	if _, err := q.Next(); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("behind a failure: %v", err)
	}
	if err := q.Wait(); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("wait behind a failure: %v", err)
	}
	select {
	case <-q.Stopping():
	default:
		t.Error("the queue is not stopping")
	}
	r.in.SetStatus(0)
	q.Done(c, 0) // late: the driver has the ring back
	if idx, err := r.mem.Uint16(rawUsed + 2); err != nil || idx != 0 {
		t.Errorf("used index %d behind the reset, %v", idx, err)
	}
}

// TestSuppression holds the device to what the driver said of interrupts, and itself to asking for rings.
func TestSuppression(t *testing.T) {
	h := newHolder()
	for _, events := range []bool{false, true} {
		r := newRaw(t, h, memmap.MinSize)
		features := uint64(0)
		if events {
			features = virtio.FeatureEventIdx
		}
		r.start(features)
		q := <-h.queues
		r.write(rawDesc, 0, desc{rawData, 8, 0, 0})
		use := func(idx uint16) {
			t.Helper()
			r.mem.PutUint16(rawAvail+4+2*uint64((idx-1)%4), 0)
			r.mem.PutUint16(rawAvail+2, idx)
			c, err := q.Next()
			if err != nil || c == nil {
				t.Fatalf("request %d: %v, %v", idx, c, err)
			}
			if flags, _ := r.mem.Uint16(rawUsed); !events && flags != 1 {
				t.Errorf("while the queue is served its flags are %d", flags)
			}
			q.Done(c, 0)
			q.Flush()
			q.Flush() // nothing new
		}
		interrupts := func(want int) {
			t.Helper()
			if got := len(r.interrupts); got != want {
				t.Errorf("events %v: %d interrupts, want %d", events, got, want)
			}
		}
		use(1)
		interrupts(1)
		if events {
			r.mem.PutUint16(rawAvail+4+8, 3) // used_event
		} else {
			r.mem.PutUint16(rawAvail, 1)
		}
		use(2)
		use(3)
		interrupts(1)
		if !events {
			r.mem.PutUint16(rawAvail, 0)
		}
		use(4)
		interrupts(2)
		if c, err := q.Next(); c != nil || err != nil {
			t.Errorf("a request too many: %v, %v", c, err)
		}
		if event, _ := r.mem.Uint16(rawUsed + 4 + 8*4); events && event != 4 {
			t.Errorf("avail_event %d, want 4", event)
		}
		if flags, _ := r.mem.Uint16(rawUsed); flags != 0 {
			t.Errorf("flags %d while the device waits", flags)
		}
	}
}

// TestChain reads and writes parts of a request.
func TestChain(t *testing.T) {
	h := newHolder()
	r := newRaw(t, h, memmap.MinSize)
	r.start(virtio.FeatureIndirectDesc)
	q := <-h.queues
	const table = rawData + 0x1000
	// A normal descriptor, then a table, which is said to be writable (virtio 1.2, 2.7.5.3.2).
	r.write(rawDesc, 2, desc{rawData, 3, next, 0})
	r.write(rawDesc, 0, desc{table, 5 * 16, indirect | write, 0})
	r.write(table, 0, desc{rawData + 3, 4, next, 3})
	r.write(table, 3, desc{0, 0, next, 1}) // empty
	r.write(table, 1, desc{rawData + 16, 2, write | next, 4})
	r.write(table, 4, desc{rawData + 32, 5, write, 0})
	if err := r.mem.Write(rawData, []byte("abcdefg")); err != nil {
		t.Fatal(err)
	}
	r.publish(1, 2)
	c, err := q.Next()
	if err != nil || c == nil {
		t.Fatalf("%v, %v", c, err)
	}
	if c.ReadLen() != 7 || c.WriteLen() != 7 || len(c.Readable()) != 2 || len(c.Writable()) != 2 {
		t.Errorf("%d readable bytes in %d views, %d writable in %d", c.ReadLen(), len(c.Readable()), c.WriteLen(), len(c.Writable()))
	}
	b := make([]byte, 5)
	if n, err := c.Read(b); n != 5 || err != nil || string(b) != "abcde" {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	if n, err := c.Read(b); n != 2 || err != nil || string(b[:2]) != "fg" {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	if n, err := c.Read(b); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v at the end", n, err)
	}
	if n, err := c.Write([]byte("xyz")); n != 3 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if n, err := c.Write([]byte("01234")); n != 4 || err != io.ErrShortWrite || c.Written() != 7 {
		t.Errorf("wrote %d, %v; %d in all", n, err, c.Written())
	}
	q.Done(c, math.MaxUint32)
	first, _ := r.mem.Uint16(rawData + 16)
	second, _ := r.mem.Uint32(rawData + 32)
	used, _ := r.mem.Uint64(rawUsed + 4)
	if first != 'x'|'y'<<8 || second != 'z'|'0'<<8|'1'<<16|'2'<<24 || used != 2|7<<32 {
		t.Errorf("%#x %#x, used %#x", first, second, used)
	}
}
