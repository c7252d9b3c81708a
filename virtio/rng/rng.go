// Package rng is the virtio entropy device (virtio 1.2, 5.4): random bytes of the host's kernel for the guest, so many a second at most.
// Every byte is fresh from crypto/rand, which asks getrandom; none is kept. KVM and the machine may not enter.
package rng

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/qenex/qenex-kernel/virtio"
)

// Defaults of Config.
const (
	DefaultRate  = 1 << 20
	DefaultBurst = 64 << 10
)

// Config is what makes a Device.
type Config struct {
	Rate  int // bytes a second, 0 is DefaultRate
	Burst int // bytes that a guest gets at once after it has asked for none for a while, 0 is DefaultBurst
}

// Device is a virtio entropy device.
type Device struct {
	rate, burst float64
	served      sync.WaitGroup

	tokens float64   // of the serving goroutine: bytes that may be given out now
	filled time.Time // of the serving goroutine: when tokens was right
}

// New makes a device.
func New(config Config) (*Device, error) {
	if config.Rate < 0 || config.Burst < 0 {
		return nil, fmt.Errorf("random bytes for a guest: rate %d and burst %d must not be negative", config.Rate, config.Burst)
	}
	if config.Rate == 0 {
		config.Rate = DefaultRate
	}
	if config.Burst == 0 {
		config.Burst = DefaultBurst
	}
	return &Device{rate: float64(config.Rate), burst: float64(config.Burst)}, nil
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeEntropy }

// Features implements virtio.Device: there are none.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return []uint16{64} }

// ReadConfig implements virtio.Device: there is no configuration.
func (d *Device) ReadConfig(_ uint64, p []byte) { clear(p) }

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig(uint64, []byte) {}

// Start implements virtio.Device.
func (d *Device) Start(_ uint64, queues []*virtio.Queue, env virtio.Env) error {
	q := queues[0]
	if q == nil {
		return fmt.Errorf("%w: entropy device without its queue", virtio.ErrProtocol)
	}
	d.tokens, d.filled = d.burst, time.Now()
	d.served.Go(func() {
		if err := q.Serve(func(c *virtio.Chain) error { return d.fill(q, c) }); !errors.Is(err, virtio.ErrStopped) {
			env.Fail(err)
		}
	})
	return nil
}

// Stop implements virtio.Device.
func (d *Device) Stop() { d.served.Wait() }

// fill answers a request: with as many bytes as the guest wants and may have, one at least (virtio 1.2, 5.4.6.2).
func (d *Device) fill(q *virtio.Queue, c *virtio.Chain) error {
	if c.ReadLen() > 0 || c.WriteLen() == 0 { // virtio 1.2, 5.4.6.1
		return fmt.Errorf("%w: a request for random bytes of %d readable and %d writable bytes; it must be writable only", virtio.ErrProtocol, c.ReadLen(), c.WriteLen())
	}
	n, err := d.take(q, c.WriteLen())
	if err != nil {
		return err
	}
	left := n
	for _, view := range c.Writable() {
		k := min(left, uint64(len(view)))
		if _, err := rand.Read(view[:k]); err != nil {
			return fmt.Errorf("random bytes for a guest: %w", err)
		}
		if left -= k; left == 0 {
			break
		}
	}
	q.Done(c, uint32(n))
	return nil
}

// take waits until a byte can be given out, and takes as many as can be, up to want.
func (d *Device) take(q *virtio.Queue, want uint64) (uint64, error) {
	for {
		now := time.Now()
		d.tokens = min(d.burst, d.tokens+now.Sub(d.filled).Seconds()*d.rate)
		d.filled = now
		if d.tokens >= 1 {
			n := min(want, uint64(d.tokens))
			d.tokens -= float64(n)
			return n, nil
		}
		q.Flush()
		select {
		case <-time.After(time.Duration((1-d.tokens)/d.rate*float64(time.Second)) + 1):
		case <-q.Stopping():
			return 0, virtio.ErrStopped
		}
	}
}
