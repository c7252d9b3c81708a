package virtiotest

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// Nonsense is a hostile driver. It begins as a good one would, and then makes requests, writes rings, descriptors, data, status and
// configuration by chance, and begins anew when the device asks for a reset.
type Nonsense struct {
	// Fill writes a readable buffer's content, part of the nth of its request; what is plausible to the device takes it further. Nil
	// leaves what is there. Of a large buffer it is given the first page.
	Fill func(r *rand.Rand, queue, part int, p []byte)
	// Refuse are feature bits never accepted.
	Refuse uint64
}

// Count is what came of it.
type Count struct {
	Ops      int    // operations
	Requests uint64 // of them, requests made available
	Answers  uint64 // used by the device
	Starts   uint64 // times the device was started
	Failures uint64 // times the device asked for a reset
}

func (c Count) String() string {
	return fmt.Sprintf("%d operations: %d starts, %d requests, %d answers, %d failures", c.Ops, c.Starts, c.Requests, c.Answers, c.Failures)
}

// nonsenseMemory is the guest memory of Nonsense in bytes: little, so that buffers and rings overlap often.
const nonsenseMemory = memmap.MinSize

// Run makes ops operations on the device, by chance from seed, and stops it.
func (n Nonsense) Run(t testing.TB, dev virtio.Device, seed uint64, ops int) Count {
	return n.run(t, dev, rand.New(rand.NewPCG(seed, 0)), func(done int) bool { return done < ops })
}

// Script makes the operations that data stands for, for fuzzers.
func (n Nonsense) Script(t testing.TB, dev virtio.Device, data []byte) Count {
	s := &script{data: data}
	return n.run(t, dev, rand.New(s), func(int) bool { return len(s.data) > 0 })
}

// script is a rand.Source whose upper bits, which decide most, are given bytes, then zeroes. The others differ each time, for rand
// draws again until it is content.
type script struct {
	data []byte
	n    uint64
}

func (s *script) Uint64() uint64 {
	var b [2]byte
	s.data = s.data[copy(b[:], s.data):]
	s.n += 0x9e3779b97f4a7c15
	return uint64(b[0])<<56 | uint64(b[1])<<48 | s.n*s.n>>16
}

type nonsense struct {
	Nonsense
	r        *rand.Rand
	mem      *memmap.Memory
	in       *virtio.Instance
	queues   []hostileQueue
	count    Count
	failures atomic.Uint64
	irq      chan struct{} // holds one when the device interrupted
	timer    *time.Timer
}

type hostileQueue struct {
	size              uint16
	desc, avail, used uint64
	idx, seen         uint16
	nextDesc          uint16
}

func (n *nonsense) Interrupt(int) {
	select {
	case n.irq <- struct{}{}:
	default:
	}
}
func (n *nonsense) ConfigInterrupt() {}
func (n *nonsense) Failed(error)     { n.failures.Add(1) }

func (n Nonsense) run(t testing.TB, dev virtio.Device, r *rand.Rand, more func(int) bool) Count {
	t.Helper()
	mem, err := memmap.New(nonsenseMemory)
	if err != nil {
		t.Fatal(err)
	}
	x := &nonsense{Nonsense: n, r: r, mem: mem, irq: make(chan struct{}, 1), timer: time.NewTimer(0)}
	if x.in, err = virtio.NewInstance(dev, mem, x); err != nil {
		t.Fatal(err)
	}
	x.queues = make([]hostileQueue, x.in.NumQueues())
	x.start()
	for ; more(x.count.Ops); x.count.Ops++ {
		x.op()
	}
	x.settle()
	if err := x.in.Close(); err != nil {
		t.Error(err)
	}
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	x.count.Failures = x.failures.Load()
	return x.count
}

// start begins anew, mostly as it should be done.
func (x *nonsense) start() {
	x.settle()
	x.in.SetStatus(0)
	x.in.SetStatus(virtio.StatusAcknowledge | virtio.StatusDriver)
	accept := x.in.Features() &^ x.Refuse
	switch x.r.IntN(4) {
	case 0:
		accept &= x.r.Uint64() | virtio.FeatureVersion1
	case 1:
		accept &^= virtio.FeatureEventIdx
	}
	if x.r.IntN(64) == 0 {
		accept = x.r.Uint64()
	}
	x.in.Accept(accept, ^uint64(0))
	x.in.SetStatus(virtio.StatusFeaturesOK)
	at := uint64(memmap.PageSize)
	for i := range x.queues {
		q := &x.queues[i]
		limit := int(min(x.in.QueueMax(uint32(i)), 256))
		*q = hostileQueue{size: uint16(limit)}
		for q.size > 1 && x.r.IntN(2) == 0 {
			q.size /= 2
		}
		q.desc, q.avail, q.used = at, at+16*uint64(q.size), at+20*uint64(q.size)+16
		q.avail, q.used = q.avail&^1, q.used&^3
		at = (q.used + 8*uint64(q.size) + 6 + 15) &^ 15
		if x.r.IntN(64) == 0 {
			q.desc, q.avail, q.used = x.r.Uint64N(nonsenseMemory), x.r.Uint64N(nonsenseMemory), x.r.Uint64N(2*nonsenseMemory)
		}
		x.clear(q.avail, 6+2*uint64(q.size))
		x.clear(q.used, 6+8*uint64(q.size))
		x.in.SetQueueSize(uint32(i), uint32(q.size))
		x.in.SetQueueAddr(uint32(i), virtio.Descriptors, q.desc, ^uint64(0))
		x.in.SetQueueAddr(uint32(i), virtio.Available, q.avail, ^uint64(0))
		x.in.SetQueueAddr(uint32(i), virtio.Used, q.used, ^uint64(0))
		if x.r.IntN(32) != 0 {
			x.in.EnableQueue(uint32(i))
		}
	}
	x.in.SetStatus(virtio.StatusDriverOK)
	x.count.Starts++
}

// settle counts what the device has used.
func (x *nonsense) settle() {
	for i := range x.queues {
		if q := &x.queues[i]; q.size > 0 {
			x.seen(q)
		}
	}
}

// seen counts what the device has used of a queue and returns its used index.
func (x *nonsense) seen(q *hostileQueue) uint16 {
	v, err := x.mem.View(q.used&^3, 4)
	if err != nil {
		return q.seen
	}
	idx := memmap.LoadUint16(v[2:])
	if n := idx - q.seen; n <= q.size {
		x.count.Answers += uint64(n)
	}
	q.seen = idx
	return idx
}

func (x *nonsense) op() {
	if x.in.Status()&virtio.StatusNeedsReset != 0 && x.r.IntN(4) == 0 {
		x.start()
		return
	}
	if len(x.queues) == 0 {
		x.config()
		return
	}
	i := x.r.IntN(len(x.queues))
	q := &x.queues[i]
	switch k := x.r.IntN(1024); {
	case k < 560:
		x.request(i, q)
	case k < 800:
		x.in.Ring(uint32(i))
		if k < 576 {
			runtime.Gosched()
		}
	case k < 900:
		x.poke(x.r.Uint64N(nonsenseMemory), x.r.IntN(64)) // data, at times a ring
	case k < 1000:
		x.config()
	case k < 1006:
		x.poke(q.desc+x.r.Uint64N(16*uint64(q.size)), 1+x.r.IntN(8))
	case k < 1008:
		x.poke(q.avail+x.r.Uint64N(6+2*uint64(q.size)), 1+x.r.IntN(4))
	case k < 1009:
		x.poke(q.used+x.r.Uint64N(6+8*uint64(q.size)), 1+x.r.IntN(8))
	case k < 1010:
		x.in.SetStatus(byte(x.r.Uint32()))
	case k < 1011:
		x.registers(uint32(x.r.IntN(len(x.queues) + 1)))
	case k < 1012:
		x.start()
	default:
		runtime.Gosched()
	}
}

// giveTime parks this goroutine until the device interrupts, which it need not do, or for a moment.
func (x *nonsense) giveTime() {
	x.timer.Reset(50 * time.Microsecond)
	select {
	case <-x.irq:
	case <-x.timer.C:
	}
}

// registers writes what a driver must not write now.
func (x *nonsense) registers(i uint32) {
	switch x.r.IntN(5) {
	case 0:
		x.in.Accept(x.r.Uint64(), x.r.Uint64())
	case 1:
		x.in.SetQueueSize(i, x.r.Uint32())
	case 2:
		x.in.SetQueueAddr(i, virtio.Ring(x.r.IntN(3)), x.r.Uint64(), ^uint64(0))
	case 3:
		x.in.EnableQueue(i)
	case 4:
		x.in.DisableQueue(i)
	}
}

func (x *nonsense) config() {
	var b [16]byte
	p := b[:1<<x.r.IntN(4)]
	off := x.r.Uint64N(256)
	if x.r.IntN(16) == 0 {
		off = x.r.Uint64()
	}
	if x.r.IntN(4) != 0 {
		x.in.ReadConfig(off, p)
		return
	}
	for k := range p {
		p[k] = byte(x.r.Uint32())
	}
	x.in.WriteConfig(off, p)
}

// request makes a chain available, mostly a good one.
func (x *nonsense) request(i int, q *hostileQueue) {
	// Requests on their way use descriptors, of which no account is kept: there should not be many.
	if q.idx-x.seen(q) > q.size/8 && x.r.IntN(512) != 0 {
		x.in.Ring(uint32(i))
		if x.r.IntN(16) == 0 {
			x.giveTime()
		}
		return
	}
	parts := 1 + x.r.IntN(4)
	if x.r.IntN(32) == 0 {
		parts = 1 + x.r.IntN(300)
	}
	readable := x.r.IntN(parts + 1)
	table, n, first := q.desc, q.size, q.nextDesc
	head := first % q.size
	if x.r.IntN(3) == 0 {
		// Indirect; the table overlaps with data.
		n, first = uint16(parts), 0
		table = x.address(16 * uint64(parts))
		x.descriptor(q.desc+16*uint64(head), table, uint32(16*parts), flagIndirect, 0)
		q.nextDesc++
	} else {
		parts = min(parts, int(q.size))
		readable = min(readable, parts)
		q.nextDesc += uint16(parts)
	}
	for k := range parts {
		size := uint64(1 + x.r.IntN(64))
		switch x.r.IntN(16) {
		case 0:
			size = 0
		case 1, 2:
			size = x.r.Uint64N(8192)
		case 3, 4, 5:
			size = 512
		case 6:
			size = x.r.Uint64N(nonsenseMemory)
		}
		gpa := x.address(size)
		var flags uint16
		if k >= readable {
			flags = flagWrite
		} else if x.Fill != nil {
			if p, err := x.mem.View(gpa, size); err == nil {
				x.Fill(x.r, i, k, p[:min(len(p), memmap.PageSize)])
			}
		}
		if k+1 < parts {
			flags |= flagNext
		}
		if x.r.IntN(1024) == 0 {
			flags = uint16(x.r.Uint32())
		}
		x.descriptor(table+16*uint64((first+uint16(k))%n), gpa, uint32(size), flags, (first+uint16(k)+1)%n)
	}
	x.mem.PutUint16(q.avail+4+2*uint64(q.idx%q.size), head)
	q.idx++
	if v, err := x.mem.View(q.avail&^1, 4); err == nil {
		memmap.StoreUint16(v[2:], q.idx)
	}
	x.count.Requests++
	if x.r.IntN(2) == 0 {
		x.in.Ring(uint32(i))
	}
}

// address returns where a buffer may lie, seldom one outside memory.
func (x *nonsense) address(size uint64) uint64 {
	if x.r.IntN(512) == 0 {
		return x.r.Uint64() >> x.r.IntN(64)
	}
	// Behind the rings mostly.
	low := uint64(nonsenseMemory / 4)
	if x.r.IntN(512) == 0 {
		low = 0
	}
	return low + x.r.Uint64N(max(1, nonsenseMemory-low-min(size, nonsenseMemory/2)))
}

// The writes below may fail where the rings were placed by chance: then the device refuses them too.

func (x *nonsense) descriptor(at, gpa uint64, size uint32, flags, next uint16) {
	x.mem.PutUint64(at, gpa)
	x.mem.PutUint32(at+8, size)
	x.mem.PutUint16(at+12, flags)
	x.mem.PutUint16(at+14, next)
}

func (x *nonsense) clear(gpa, n uint64) { x.mem.Zero(gpa, n) }

// poke writes n bytes by chance.
func (x *nonsense) poke(gpa uint64, n int) {
	var b [64]byte
	for i := range n {
		b[i] = byte(x.r.Uint32())
	}
	x.mem.Write(gpa, b[:n])
}
