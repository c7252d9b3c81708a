package virtiotest

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/virtio"
)

// TypeEcho is a device type that nobody has.
const TypeEcho = 63

// Echo is a device that copies what is readable to what is writable, in order, on each of its queues. Its configuration is 4 bytes
// that the driver may write, and hears of.
type Echo struct {
	Offer    uint64 // its features
	StartErr error  // what Start returns

	Starts   atomic.Int32
	Running  atomic.Int32 // goroutines
	Accepted uint64       // features at the last start
	Enabled  []bool       // queues at the last start

	queues []uint16
	config atomic.Uint32
	env    atomic.Pointer[virtio.Env]
	done   sync.WaitGroup
}

// NewEcho makes an Echo with queues of these maximum sizes.
func NewEcho(queues ...uint16) *Echo { return &Echo{queues: queues} }

// Type implements virtio.Device.
func (e *Echo) Type() uint32 { return TypeEcho }

// Features implements virtio.Device.
func (e *Echo) Features() uint64 { return e.Offer }

// Queues implements virtio.Device.
func (e *Echo) Queues() []uint16 { return e.queues }

// ReadConfig implements virtio.Device.
func (e *Echo) ReadConfig(off uint64, p []byte) {
	var c [4]byte
	le.PutUint32(c[:], e.config.Load())
	clear(p)
	if off < 4 {
		copy(p, c[off:])
	}
}

// WriteConfig implements virtio.Device.
func (e *Echo) WriteConfig(off uint64, p []byte) {
	if off == 0 && len(p) == 4 {
		e.config.Store(le.Uint32(p))
		if env := e.env.Load(); env != nil {
			(*env).ConfigChanged()
		}
	}
}

// Start implements virtio.Device.
func (e *Echo) Start(features uint64, queues []*virtio.Queue, env virtio.Env) error {
	e.env.Store(&env)
	e.Accepted, e.Enabled = features, nil
	e.Starts.Add(1)
	for _, q := range queues {
		e.Enabled = append(e.Enabled, q != nil)
		if q == nil {
			continue
		}
		e.Running.Add(1)
		e.done.Go(func() {
			defer e.Running.Add(-1)
			err := q.Serve(func(c *virtio.Chain) error {
				// Into an array: io.Copy would make a buffer for each request.
				var buf [4096]byte
				for c.Written() < 1<<20 {
					n, err := c.Read(buf[:])
					if n == 0 || err != nil {
						break
					}
					if _, err := c.Write(buf[:n]); errors.Is(err, io.ErrShortWrite) {
						break
					}
				}
				q.Done(c, c.Written())
				return nil
			})
			if !errors.Is(err, virtio.ErrStopped) && !errors.Is(err, virtio.ErrProtocol) {
				env.Fail(err)
			}
		})
	}
	return e.StartErr
}

// Stop implements virtio.Device.
func (e *Echo) Stop() { e.done.Wait() }
