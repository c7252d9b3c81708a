package virtio_test

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/virtio"
)

// echo is a device that copies what is readable to what is writable, in order, on each of its queues.
type echo struct {
	queues   []uint16
	features uint64
	config   atomic.Uint32 // at offset 0
	startErr error
	running  atomic.Int32 // goroutines
	starts   atomic.Int32
	accepted uint64
	enabled  []bool
	env      virtio.Env
	done     sync.WaitGroup
}

func newEcho(queues ...uint16) *echo { return &echo{queues: queues} }

func (e *echo) Type() uint32     { return 63 }
func (e *echo) Features() uint64 { return e.features }
func (e *echo) Queues() []uint16 { return e.queues }

func (e *echo) ReadConfig(off uint64, p []byte) {
	var c [4]byte
	binary.LittleEndian.PutUint32(c[:], e.config.Load())
	clear(p)
	if off < 4 {
		copy(p, c[off:])
	}
}

func (e *echo) WriteConfig(off uint64, p []byte) {
	if off == 0 && len(p) == 4 {
		e.config.Store(binary.LittleEndian.Uint32(p))
		e.env.ConfigChanged()
	}
}

func (e *echo) Start(features uint64, queues []*virtio.Queue, env virtio.Env) error {
	e.env, e.accepted = env, features
	e.enabled = nil
	e.starts.Add(1)
	for _, q := range queues {
		e.enabled = append(e.enabled, q != nil)
		if q == nil {
			continue
		}
		e.running.Add(1)
		e.done.Go(func() {
			defer e.running.Add(-1)
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
	return e.startErr
}

func (e *echo) Stop() { e.done.Wait() }
