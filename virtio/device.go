package virtio

import (
	"errors"

	"github.com/qenex/qenex-kernel/memmap"
)

// Device types (virtio 1.2, 5).
const (
	TypeNet     = 1
	TypeBlock   = 2
	TypeConsole = 3
	TypeEntropy = 4
	TypeBalloon = 5
	Type9P      = 9
	TypeVsock   = 19
)

// Feature bits that belong to the queues and the transport (virtio 1.2, 6).
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32

	coreFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
)

// Bits of the device status (virtio 1.2, 2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// MaxQueueSize is the largest size of a split virtqueue (virtio 1.2, 2.7).
const MaxQueueSize = 1 << 15

// Device is one virtio device. ReadConfig and WriteConfig may be called at any time, by several goroutines;
// calls of Start and Stop do not overlap and alternate.
type Device interface {
	// Type returns the device type (virtio 1.2, 5).
	Type() uint32
	// Features returns the feature bits that the device itself offers, always the same ones. Those of the queues and the
	// transport are added.
	Features() uint64
	// Queues returns the maximum size of each queue, powers of two up to MaxQueueSize, always the same ones.
	Queues() []uint16
	// ReadConfig fills p from the device-specific configuration at off; past its end it reads as zeroes.
	ReadConfig(off uint64, p []byte)
	// WriteConfig writes p to the device-specific configuration at off; what cannot be written is left out.
	WriteConfig(off uint64, p []byte)
	// Start begins to serve a driver, which accepted these features. queues[i] is nil if the driver did not enable that
	// queue. The device starts its own goroutines. An error is one for Env.Fail; Stop is called all the same.
	Start(features uint64, queues []*Queue, env Env) error
	// Stop ends what Start began, because of a reset or the end of the machine. It returns when none of the device's
	// goroutines touches queues or guest memory any more; it must not wait for the guest. Start may follow.
	// It is never called within Start.
	Stop()
}

// Env is what a started device may ask of its surroundings. Its methods may be called by any goroutine between Start and
// the return of Stop, also within both.
type Env interface {
	// ConfigChanged tells the driver that the device-specific configuration has changed.
	ConfigChanged()
	// Fail says that the device cannot go on: it goes to DEVICE_NEEDS_RESET, its queues stop, the driver and
	// whoever watches the machine hear of it. The machine lives on.
	Fail(err error)
	// Memory is the guest's memory.
	Memory() *memmap.Memory
}

// ErrStopped is what the methods of a queue return when its device is to stop.
var ErrStopped = errors.New("virtqueue is stopped")

// ErrProtocol says that the driver broke a rule of the specification; the text says which.
var ErrProtocol = errors.New("driver broke the virtio protocol")
