package fs9p

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/virtio"
)

// featureMountTag says that the configuration has the tag.
const featureMountTag = 1 << 0

// MaxTag bounds a mount tag in bytes.
const MaxTag = 64

// maxFIDs bounds the files that a guest holds at a time; a quarter of the descriptors that this process may have bounds them too.
const maxFIDs = 8 << 10

// Config is what makes a Device.
type Config struct {
	Tag      string // what the guest mounts: 1 to MaxTag bytes
	Dir      string // the directory; symbolic links in its path are followed once, by New
	ReadOnly bool   // refuse with EROFS what would change anything
}

// Device is a virtio-9p device. New makes it, Close ends it.
type Device struct {
	tag    string
	s      session // of the serving goroutine, or of Stop and Close
	served sync.WaitGroup
}

// New makes a device.
func New(config Config) (*Device, error) {
	if len(config.Tag) == 0 || len(config.Tag) > MaxTag {
		return nil, fmt.Errorf("share %s: the tag %q has %d bytes, 1 to %d are needed", config.Dir, config.Tag, len(config.Tag), MaxTag)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("share %s: getrlimit: %w", config.Dir, err)
	}
	root, err := unix.Open(config.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share directory %s: %w", config.Dir, err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(root)
		return nil, fmt.Errorf("share %s: files are opened through /proc/self/fd, which cannot be: %w", config.Dir, err)
	}
	return &Device{tag: config.Tag, s: session{
		root: root, proc: proc, readOnly: config.ReadOnly, maxFIDs: int(min(maxFIDs, limit.Cur/4)), fids: map[uint32]*fid{},
	}}, nil
}

// Close closes the directory. The machine has stopped the device before.
func (d *Device) Close() error {
	d.s.reset()
	return errors.Join(unix.Close(d.s.root), unix.Close(d.s.proc))
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.Type9P }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureMountTag }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return []uint16{128} }

// ReadConfig implements virtio.Device: the tag's length in 16 bits, and the tag.
func (d *Device) ReadConfig(off uint64, p []byte) {
	b := append(binary.LittleEndian.AppendUint16(nil, uint16(len(d.tag))), d.tag...)
	clear(p)
	if off < uint64(len(b)) {
		copy(p, b[off:])
	}
}

// WriteConfig implements virtio.Device: nothing can be written.
func (d *Device) WriteConfig(uint64, []byte) {}

// Start implements virtio.Device.
func (d *Device) Start(_ uint64, queues []*virtio.Queue, env virtio.Env) error {
	q := queues[0]
	if q == nil {
		return fmt.Errorf("%w: 9p device without its queue", virtio.ErrProtocol)
	}
	d.served.Go(func() {
		err := q.Serve(func(c *virtio.Chain) error {
			n, err := d.s.serve(c.Readable(), c.Writable())
			if err != nil {
				return err
			}
			q.Done(c, n)
			return nil
		})
		if !errors.Is(err, virtio.ErrStopped) {
			env.Fail(err)
		}
	})
	return nil
}

// Stop implements virtio.Device: the guest's files are closed.
func (d *Device) Stop() {
	d.served.Wait()
	d.s.reset()
}
