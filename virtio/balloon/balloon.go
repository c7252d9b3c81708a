// Package balloon is the traditional virtio memory balloon (virtio 1.2, 5.5): the host asks a guest for memory and gets it, page by page;
// the guest reports pages that are free, of its own accord, and statistics when it is asked.
//
// A page that the guest gives is taken from its memory with Discard: if it uses the page again, it finds zeroes. Page frames are
// checked; a guest that lies hurts nobody but itself. KVM and the machine may not enter.
package balloon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// PageSize is the unit of the balloon in bytes, whatever the guest's page size is (virtio 1.2, 5.5.6).
const PageSize = 4096

// Queues (virtio 1.2, 5.5.2). Drivers of old number those that they use without gaps: with statistics their reporting queue is 3, without it is
// 2. As the hint queue is not offered, queue 3, and 2 without statistics, can only be that.
const (
	queueInflate = iota
	queueDeflate
	queueStats
	queueHint
	queueReport
	numQueues
)

// Feature bits (virtio 1.2, 5.5.3).
const (
	featureStats        = 1 << 1
	featureDeflateOnOOM = 1 << 2
	featureReporting    = 1 << 5
)

// Config is what makes a Device.
type Config struct {
	// DeflateOnOOM lets the guest take pages back when it is out of memory, whatever the target is.
	DeflateOnOOM bool
}

// Device is a virtio memory balloon.
type Device struct {
	features uint64
	served   sync.WaitGroup
	wanted   chan struct{} // has room for one: Refresh asks for statistics

	mu       sync.Mutex
	env      virtio.Env    // protected by mu; nil while stopped
	target   uint32        // protected by mu; pages
	actual   uint32        // protected by mu; pages, as the driver says
	given    uint64        // protected by mu; bytes ever inflated
	returned uint64        // protected by mu; bytes ever deflated
	reported uint64        // protected by mu; bytes ever reported as free
	stats    Statistics    // protected by mu
	fresh    chan struct{} // protected by mu; closed, and replaced, when statistics that were asked for have come
}

// New makes a device whose target is 0.
func New(config Config) *Device {
	d := &Device{features: featureStats | featureReporting, wanted: make(chan struct{}, 1), fresh: make(chan struct{})}
	if config.DeflateOnOOM {
		d.features |= featureDeflateOnOOM
	}
	return d
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeBalloon }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return d.features }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return []uint16{128, 128, 16, 128, 128} }

// ReadConfig implements virtio.Device: num_pages and actual (virtio 1.2, 5.5.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [8]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint32(b[:], d.target)
	binary.LittleEndian.PutUint32(b[4:], d.actual)
	d.mu.Unlock()
	clear(p)
	if off < uint64(len(b)) {
		copy(p, b[off:])
	}
}

// WriteConfig implements virtio.Device: actual, whole.
func (d *Device) WriteConfig(off uint64, p []byte) {
	if off != 4 || len(p) != 4 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actual = binary.LittleEndian.Uint32(p)
}

// SetTarget asks the guest to give as many bytes of its memory, in pages of PageSize, or to take them back if it has given more.
func (d *Device) SetTarget(bytes uint64) error {
	if bytes%PageSize != 0 || bytes/PageSize > 1<<32-1 {
		return fmt.Errorf("balloon of %d bytes: it must be a multiple of %d and less than 16 TiB", bytes, PageSize)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.env != nil {
		if size := d.env.Memory().Size(); bytes > size {
			return fmt.Errorf("balloon of %d bytes: the guest has %d bytes of memory", bytes, size)
		}
	}
	d.target = uint32(bytes / PageSize)
	if d.env != nil {
		d.env.ConfigChanged()
	}
	return nil
}

// Sizes are bytes of the guest's memory.
type Sizes struct {
	Target   uint64 // what SetTarget asked for
	Actual   uint64 // what the guest says it has given and not taken back
	Inflated uint64 // given, ever
	Deflated uint64 // taken back, ever
	Reported uint64 // reported as free, ever
}

// Sizes returns how far the balloon is. Only Target is not the guest's word.
func (d *Device) Sizes() Sizes {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Sizes{
		Target: uint64(d.target) * PageSize, Actual: uint64(d.actual) * PageSize,
		Inflated: d.given, Deflated: d.returned, Reported: d.reported,
	}
}

// Start implements virtio.Device.
func (d *Device) Start(features uint64, queues []*virtio.Queue, env virtio.Env) error {
	if queues[queueInflate] == nil || queues[queueDeflate] == nil {
		return fmt.Errorf("%w: balloon without its inflate and deflate queues", virtio.ErrProtocol)
	}
	d.mu.Lock()
	d.env, d.actual = env, 0
	d.mu.Unlock()
	serve := func(q *virtio.Queue, f func(*virtio.Chain) error) {
		d.served.Go(func() {
			err := q.Serve(func(c *virtio.Chain) error {
				if err := f(c); err != nil {
					return err
				}
				q.Done(c, 0)
				return nil
			})
			if !errors.Is(err, virtio.ErrStopped) {
				env.Fail(err)
			}
		})
	}
	mem := env.Memory()
	serve(queues[queueInflate], func(c *virtio.Chain) error { return d.inflate(mem, c) })
	serve(queues[queueDeflate], func(c *virtio.Chain) error { return d.deflate(mem, c) })
	report := queues[queueReport]
	stats := queues[queueStats]
	if features&featureStats == 0 {
		stats = nil
		if report == nil {
			report = queues[queueStats]
		}
	}
	if report == nil {
		report = queues[queueHint]
	}
	if features&featureReporting != 0 && report != nil {
		serve(report, func(c *virtio.Chain) error { return d.report(mem, c) })
	}
	if stats != nil {
		d.served.Go(func() {
			if err := d.serveStats(stats); !errors.Is(err, virtio.ErrStopped) {
				env.Fail(err)
			}
		})
	}
	return nil
}

// Stop implements virtio.Device.
func (d *Device) Stop() {
	d.mu.Lock()
	d.env = nil
	d.mu.Unlock()
	d.served.Wait()
}

// frames calls f with each run of pages that a request names, in bytes.
func frames(mem *memmap.Memory, c *virtio.Chain, f func(gpa, n uint64) error) error {
	if c.WriteLen() > 0 || c.ReadLen()%4 != 0 {
		return fmt.Errorf("%w: balloon pages in a buffer of %d readable and %d writable bytes; it must be readable, 4 bytes a page", virtio.ErrProtocol, c.ReadLen(), c.WriteLen())
	}
	var first, n uint64 // the run so far, in pages
	var buf [1024]byte
	for {
		k, err := c.Read(buf[:])
		if err != nil { // the end
			break
		}
		for b := buf[:k]; len(b) > 0; b = b[4:] {
			page := uint64(binary.LittleEndian.Uint32(b))
			if _, err := mem.View(page*PageSize, PageSize); err != nil {
				return fmt.Errorf("%w: balloon page %#x: %w", virtio.ErrProtocol, page, err)
			}
			if n > 0 && page == first+n {
				n++
				continue
			}
			if n > 0 {
				if err := f(first*PageSize, n*PageSize); err != nil {
					return err
				}
			}
			first, n = page, 1
		}
	}
	if n == 0 {
		return nil
	}
	return f(first*PageSize, n*PageSize)
}

// inflate takes the pages that the guest gives.
func (d *Device) inflate(mem *memmap.Memory, c *virtio.Chain) error {
	return frames(mem, c, func(gpa, n uint64) error {
		d.count(&d.given, n)
		return mem.Discard(gpa, n)
	})
}

// deflate notes the pages that the guest takes back: the host has memory for them when the guest touches them.
func (d *Device) deflate(mem *memmap.Memory, c *virtio.Chain) error {
	return frames(mem, c, func(_, n uint64) error {
		d.count(&d.returned, n)
		return nil
	})
}

// report takes pages that the guest does not use, until it touches them: the buffers themselves (virtio 1.2, 5.5.6.7).
func (d *Device) report(mem *memmap.Memory, c *virtio.Chain) error {
	if c.ReadLen() > 0 {
		return fmt.Errorf("%w: a report of free pages with %d readable bytes", virtio.ErrProtocol, c.ReadLen())
	}
	for _, view := range c.Writable() {
		gpa, err := address(mem, view)
		if err != nil {
			return err
		}
		d.count(&d.reported, uint64(len(view)))
		if err := mem.Discard(gpa, uint64(len(view))); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) count(counter *uint64, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*counter += n
}
