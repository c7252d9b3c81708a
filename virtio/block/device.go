package block

import (
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/virtio"
)

// Device is a virtio block device. It implements virtio.Device.
type Device struct {
	cfg     Config
	space   []byte // the configuration but for writeback; immutable
	limiter *blockdev.Limiter

	writeback atomic.Bool // the configuration's field
	failed    atomic.Bool // Failed was called since Start
	stats     counters

	// The fields below are set by Start and do not change until Stop.
	features uint64
	env      virtio.Env
	running  sync.WaitGroup // goroutines of Start, and the requests they started
}

// New makes a device. Only its configuration is looked at; the disk is used after a driver started the device.
func New(c Config) (*Device, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	d := &Device{cfg: c, space: c.space(), limiter: blockdev.NewLimiter(c.Limits)}
	d.writeback.Store(d.space[writebackAt] != 0)
	return d, nil
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeBlock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return d.cfg.features() }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	q := make([]uint16, d.cfg.Queues)
	for i := range q {
		q[i] = d.cfg.QueueSize
	}
	return q
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	clear(p)
	if off >= uint64(len(d.space)) {
		return
	}
	n := copy(p, d.space[off:])
	if off <= writebackAt && off+uint64(n) > writebackAt && !d.writeback.Load() {
		p[writebackAt-off] = 0
	}
}

// WriteConfig implements virtio.Device: it switches the cache between writeback and writethrough.
func (d *Device) WriteConfig(off uint64, p []byte) {
	if d.Features()&FeatureConfigWCE != 0 && off <= writebackAt && writebackAt-off < uint64(len(p)) {
		d.writeback.Store(p[writebackAt-off] != 0)
	}
}

// Start implements virtio.Device.
func (d *Device) Start(features uint64, queues []*virtio.Queue, env virtio.Env) error {
	d.features, d.env = features, env
	d.failed.Store(false)
	if features&FeatureConfigWCE != 0 && features&FeatureFlush == 0 {
		d.writeback.Store(false) // virtio 1.2, 5.2.5.2
	}
	for i, q := range queues {
		if q == nil || i > 0 && features&FeatureMQ == 0 {
			continue
		}
		s := &server{d: d, q: q, slots: make(chan struct{}, parallel)}
		d.running.Go(func() { _ = q.Serve(s.serve) }) // it ends because of Stop, or has told Env.Fail why
	}
	return nil
}

// Stop implements virtio.Device. It waits for the requests that are under way.
func (d *Device) Stop() {
	d.running.Wait()
	d.writeback.Store(d.space[writebackAt] != 0)
}

// through says whether a write has to be durable before it is answered (virtio 1.2, 5.2.6.2).
func (d *Device) through() bool {
	if d.features&FeatureConfigWCE != 0 {
		return !d.writeback.Load()
	}
	return d.features&FeatureFlush == 0
}

// report tells the host of the first error.
func (d *Device) report(err error) {
	d.stats.errors.Add(1)
	if !d.failed.Swap(true) && d.cfg.Failed != nil {
		d.cfg.Failed(err)
	}
}

// Stats counts what the device has done since it was made.
type Stats struct {
	Reads, Writes, Flushes, Discards uint64 // requests that succeeded; writing of zeroes counts as discard
	ReadBytes, WrittenBytes          uint64
	Refused                          uint64 // requests that broke a rule
	Errors                           uint64 // requests that the storage failed
}

type counters struct {
	reads, writes, flushes, discards, readBytes, writtenBytes, refused, errors atomic.Uint64
}

// Stats returns the counts up to now.
func (d *Device) Stats() Stats {
	s := &d.stats
	return Stats{
		Reads: s.reads.Load(), Writes: s.writes.Load(), Flushes: s.flushes.Load(), Discards: s.discards.Load(),
		ReadBytes: s.readBytes.Load(), WrittenBytes: s.writtenBytes.Load(), Refused: s.refused.Load(), Errors: s.errors.Load(),
	}
}
