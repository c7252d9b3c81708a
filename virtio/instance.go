package virtio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/memmap"
)

// Host is what a transport offers an Instance. Its methods are called by any goroutine, with locks of the Instance held: they must
// not call back and must not block.
type Host interface {
	// Interrupt tells the driver that a queue has used buffers (virtio 1.2, 2.3).
	Interrupt(queue int)
	// ConfigInterrupt tells the driver that the configuration or the status changed.
	ConfigInterrupt()
	// Failed says why the device needs a reset.
	Failed(err error)
}

// Instance is one device as its driver sees it: features, status and queues, without the registers of a transport. Methods may
// be called by several vCPUs at the same time.
//
//	reset: status 0, no queue, no feature
//	  | features accepted, FEATURES_OK (refused bits: it does not stick), queues enabled
//	  v DRIVER_OK
//	running: Device.Start was called, queues are served
//	  | Fail: queues stop, NEEDS_RESET
//	  v status 0, or Close
//	reset: Device.Stop has returned
type Instance struct {
	dev   Device
	mem   *memmap.Memory
	host  Host
	bells []*bell

	status     atomic.Uint32
	generation atomic.Uint32
	queues     atomic.Pointer[[]*Queue] // those of the running device, nil without one

	mu       sync.Mutex
	accepted uint64       // protected by mu; the driver's features
	setup    []queueSetup // protected by mu
	running  bool         // protected by mu; Start was called and Stop was not
	closed   bool         // protected by mu
}

// Ring is one of the three areas of a queue.
type Ring int

// The areas of a queue (virtio 1.2, 2.7).
const (
	Descriptors Ring = iota
	Available        // the driver area
	Used             // the device area
)

// queueSetup is what the driver has said of a queue.
type queueSetup struct {
	max, size uint16
	ready     bool
	addr      [3]uint64 // by Ring
	views     [3][]byte // valid while ready
}

// NewInstance makes a device that has not been reset by a driver yet. Close frees it.
func NewInstance(dev Device, mem *memmap.Memory, host Host) (*Instance, error) {
	in := &Instance{dev: dev, mem: mem, host: host}
	for i, max := range dev.Queues() {
		if max == 0 || max > MaxQueueSize || max&(max-1) != 0 {
			return nil, errors.Join(fmt.Errorf("virtio device of type %d: queue %d has %d descriptors; a power of two up to %d is needed", dev.Type(), i, max, MaxQueueSize), in.Close())
		}
		b, err := newBell(fmt.Sprintf("virtio%d.%d", dev.Type(), i))
		if err != nil {
			return nil, errors.Join(err, in.Close())
		}
		in.bells = append(in.bells, b)
		in.setup = append(in.setup, queueSetup{max: max, size: max})
	}
	return in, nil
}

// Close stops the device for good. No vCPU may be inside the transport any more.
func (in *Instance) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil
	}
	err := in.reset()
	in.closed = true
	for _, b := range in.bells {
		err = errors.Join(err, b.close())
	}
	return err
}

// Device returns the device itself.
func (in *Instance) Device() Device { return in.dev }

// Features returns the bits that the device offers.
func (in *Instance) Features() uint64 { return in.dev.Features() | coreFeatures }

// Accepted returns the bits that the driver accepted.
func (in *Instance) Accepted() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.accepted
}

// Accept replaces the bits of mask in what the driver accepted. After FEATURES_OK it has no effect.
func (in *Instance) Accept(bits, mask uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.status.Load()&StatusFeaturesOK == 0 {
		in.accepted = in.accepted&^mask | bits&mask
	}
}

// Status returns the device status.
func (in *Instance) Status() byte { return byte(in.status.Load()) }

// SetStatus is the driver's write of the device status: 0 resets, other values add bits (virtio 1.2, 2.1.1).
func (in *Instance) SetStatus(v byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	if v == 0 {
		if err := in.reset(); err != nil {
			in.Fail(err)
		}
		return
	}
	added := uint32(v) &^ in.status.Load()
	in.status.Or(added & (StatusAcknowledge | StatusDriver | StatusFailed))
	if added&StatusFeaturesOK != 0 && in.accepted&^in.Features() == 0 && in.accepted&FeatureVersion1 != 0 {
		in.status.Or(StatusFeaturesOK)
	}
	if added&StatusDriverOK == 0 || in.running {
		return
	}
	switch {
	case in.status.Load()&StatusNeedsReset != 0:
	case in.status.Load()&StatusFeaturesOK == 0:
		in.Fail(fmt.Errorf("%w: DRIVER_OK without FEATURES_OK", ErrProtocol))
	default:
		in.start()
	}
}

// start serves the driver. in.mu is held.
func (in *Instance) start() {
	queues := make([]*Queue, len(in.setup))
	for i := range in.setup {
		s := &in.setup[i]
		if !s.ready {
			continue
		}
		if err := in.bells[i].start(); err != nil {
			in.Fail(err)
			return
		}
		queues[i] = &Queue{
			index: i, size: s.size,
			eventIdx: in.accepted&FeatureEventIdx != 0, indirect: in.accepted&FeatureIndirectDesc != 0,
			desc: s.views[Descriptors], avail: s.views[Available], used: s.views[Used],
			mem: in.mem, bell: in.bells[i], env: in,
			taken: make([]bool, s.size), stop: make(chan struct{}),
		}
	}
	in.queues.Store(&queues)
	in.running = true
	in.status.Or(StatusDriverOK)
	// The device gets a slice of its own.
	if err := in.dev.Start(in.accepted, append([]*Queue(nil), queues...), in); err != nil {
		in.Fail(err)
	}
}

// reset stops the device and forgets what the driver said. in.mu is held.
func (in *Instance) reset() error {
	err := in.halt()
	if in.running {
		in.dev.Stop()
		for _, q := range *in.queues.Load() {
			if q != nil {
				q.kill()
			}
		}
	}
	in.queues.Store(nil)
	in.running, in.accepted = false, 0
	in.status.Store(0)
	for i := range in.setup {
		in.setup[i] = queueSetup{max: in.setup[i].max, size: in.setup[i].max}
	}
	return err
}

// halt makes the queues of the running device stop.
func (in *Instance) halt() error {
	queues := in.queues.Load()
	if queues == nil {
		return nil
	}
	var errs []error
	for _, q := range *queues {
		if q != nil {
			errs = append(errs, q.halt())
		}
	}
	return errors.Join(errs...)
}

// Fail implements Env. It takes no lock: devices call it while Stop waits for them.
func (in *Instance) Fail(err error) {
	old := in.status.Or(StatusNeedsReset)
	if old&StatusNeedsReset != 0 {
		return
	}
	in.host.Failed(errors.Join(err, in.halt()))
	if old&StatusDriverOK != 0 {
		in.host.ConfigInterrupt() // virtio 1.2, 2.1.2
	}
}

// ConfigChanged implements Env.
func (in *Instance) ConfigChanged() {
	in.generation.Add(1)
	if in.status.Load()&StatusDriverOK != 0 {
		in.host.ConfigInterrupt()
	}
}

// Memory implements Env.
func (in *Instance) Memory() *memmap.Memory { return in.mem }

// Generation changes whenever the device changes its configuration (virtio 1.2, 2.5).
func (in *Instance) Generation() uint32 { return in.generation.Load() }

// ReadConfig reads the device-specific configuration.
func (in *Instance) ReadConfig(off uint64, p []byte) { in.dev.ReadConfig(off, p) }

// WriteConfig writes the device-specific configuration.
func (in *Instance) WriteConfig(off uint64, p []byte) { in.dev.WriteConfig(off, p) }
