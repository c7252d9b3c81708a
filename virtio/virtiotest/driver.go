package virtiotest

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// patience bounds the wait for a device before a test fails.
const patience = 30 * time.Second

// Options change what a Driver accepts.
type Options struct {
	Refuse    uint64 // feature bits not to be accepted
	QueueSize uint16 // most descriptors of a queue; 0 is 256
	Skip      []int  // queues that are not enabled
}

// Driver drives one device. Methods may be called by any goroutine.
type Driver struct {
	Memory   *memmap.Memory
	Instance *virtio.Instance

	t       testing.TB
	opts    Options
	queues  []*queue
	changes chan struct{} // holds one when ConfigInterrupt was called
	failed  chan error    // what Failed was called with, the first of each start

	mu   sync.Mutex
	next uint64              // protected by mu; first byte that no allocation had
	free map[uint64][]uint64 // protected by mu; freed addresses by size
	end  uint64
}

// New makes a driver and starts the device with all features it offers and all its queues. t.Cleanup stops it. A nil t makes failures
// panics, and then the caller calls Close.
func New(t testing.TB, dev virtio.Device, memory uint64) *Driver {
	return NewWith(t, dev, memory, Options{})
}

// NewWith is New with options.
func NewWith(t testing.TB, dev virtio.Device, memory uint64, opts Options) *Driver {
	d := &Driver{t: t, opts: opts, changes: make(chan struct{}, 1), failed: make(chan error, 1), end: memory}
	var err error
	if d.Memory, err = memmap.New(memory); err != nil {
		d.fatal(err)
	}
	if d.Instance, err = virtio.NewInstance(dev, d.Memory, host{d}); err != nil {
		d.fatal(err)
	}
	if t != nil {
		t.Helper()
		t.Cleanup(d.Close)
	}
	for i := range dev.Queues() {
		d.queues = append(d.queues, &queue{d: d, index: i, irq: make(chan struct{}, 1)})
	}
	d.Start()
	return d
}

// Close stops the device and frees the memory.
func (d *Driver) Close() {
	if d.Memory == nil {
		return
	}
	d.stopQueues()
	err := d.Instance.Close()
	if e := d.Memory.Close(); err == nil {
		err = e
	}
	d.Memory = nil
	if err != nil {
		d.fatal(err)
	}
}

// Reset resets the device; requests that were not answered are lost.
func (d *Driver) Reset() {
	d.stopQueues()
	d.Instance.SetStatus(0)
	select {
	case <-d.failed:
	default:
	}
}

// Start negotiates and sets DRIVER_OK, after New or Reset.
func (d *Driver) Start() {
	d.mu.Lock()
	d.next, d.free = memmap.PageSize, map[uint64][]uint64{}
	d.mu.Unlock()
	in := d.Instance
	in.SetStatus(virtio.StatusAcknowledge)
	in.SetStatus(virtio.StatusAcknowledge | virtio.StatusDriver)
	in.Accept(in.Features()&^d.opts.Refuse, ^uint64(0))
	const ready = virtio.StatusAcknowledge | virtio.StatusDriver | virtio.StatusFeaturesOK
	if in.SetStatus(ready); in.Status() != ready {
		d.fatal(fmt.Errorf("the device does not take its own features %#x", in.Features()))
	}
	for _, q := range d.queues {
		skip := false
		for _, i := range d.opts.Skip {
			skip = skip || i == q.index
		}
		if !skip {
			q.setup()
		}
	}
	if in.SetStatus(ready | virtio.StatusDriverOK); in.Status() != ready|virtio.StatusDriverOK {
		d.fatal(fmt.Errorf("the device did not start: status %#x, %v", in.Status(), d.Failure()))
	}
}

// Failure waits for the device to ask for a reset and returns the reason.
func (d *Driver) Failure() error {
	select {
	case err := <-d.failed:
		return err
	case <-time.After(patience):
		d.fatal(fmt.Errorf("the device did not fail in %v", patience))
		return nil
	}
}

// WaitConfig waits until the device says that its configuration changed.
func (d *Driver) WaitConfig() {
	select {
	case <-d.changes:
	case <-time.After(patience):
		d.fatal(fmt.Errorf("the device's configuration did not change in %v", patience))
	}
}

// Config reads n bytes of the device-specific configuration.
func (d *Driver) Config(off uint64, n int) []byte {
	p := make([]byte, n)
	d.Instance.ReadConfig(off, p)
	return p
}

// Used is an answered request.
type Used struct {
	Len  uint32   // what the device says it wrote
	Data [][]byte // copies of the writable buffers, whole
}

// Bytes returns the first Len bytes of Data, joined.
func (u Used) Bytes() []byte {
	var b []byte
	for _, p := range u.Data {
		b = append(b, p...)
	}
	return b[:min(uint64(u.Len), uint64(len(b)))]
}

// Send makes one request of copies of the readable parts and of writable parts of the given sizes, rings, and waits for the answer.
func (d *Driver) Send(queue int, readable [][]byte, writable ...int) Used {
	return d.Post(queue, readable, writable...).Wait()
}

// Post is Send without the wait. It waits while the queue is full.
func (d *Driver) Post(queue int, readable [][]byte, writable ...int) *Pending {
	return d.queues[queue].post(readable, writable)
}

// class is how much memory is set aside for n bytes: few different sizes, so that what is released fits again.
func class(n uint64) uint64 { return 1 << max(4, bits.Len64(max(n, 1)-1)) }

// alloc returns the address of n bytes, aligned to 16 bytes.
func (d *Driver) alloc(n uint64) uint64 {
	n = class(n)
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.free[n]; len(l) > 0 {
		d.free[n] = l[:len(l)-1]
		return l[len(l)-1]
	}
	gpa := d.next
	if gpa+n > d.end || gpa+n > memmap.HoleStart {
		d.fatal(fmt.Errorf("the driver's %d bytes of memory are full", d.end))
	}
	d.next += n
	return gpa
}

func (d *Driver) release(gpa, n uint64) {
	n = class(n)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free[n] = append(d.free[n], gpa)
}

// view returns memory that the driver itself allocated.
func (d *Driver) view(gpa, n uint64) []byte {
	v, err := d.Memory.View(gpa, n)
	if err != nil {
		d.fatal(err)
	}
	return v
}

func (d *Driver) fatal(err error) {
	if d.t == nil {
		panic(err)
	}
	d.t.Helper()
	d.t.Fatal(err)
}

func (d *Driver) stopQueues() {
	for _, q := range d.queues {
		q.halt()
	}
}

// host is the Driver as its device's transport.
type host struct{ d *Driver }

func (h host) Interrupt(i int) {
	select {
	case h.d.queues[i].irq <- struct{}{}:
	default:
	}
}

func (h host) ConfigInterrupt() {
	select {
	case h.d.changes <- struct{}{}:
	default:
	}
}

func (h host) Failed(err error) {
	select {
	case h.d.failed <- err:
	default:
	}
}

var le = binary.LittleEndian
