// Package nic is the network device of virtio 1.2, 5.1: queues of frames between a driver and a Backend, which may be a user-mode network
// or a TAP interface.
//
// Frames go straight between the guest's memory and the backend; none waits here, so that a guest which does not empty its queues holds
// nothing of the host's but what the backend lets wait. No network protocol and no system call may enter.
package nic

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio"
)

// Feature bits (virtio 1.2, 5.1.3).
const (
	featureCsum      = 1 << 0  // the device fills in checksums of frames sent
	featureGuestCsum = 1 << 1  // the driver does, of frames received
	featureMTU       = 1 << 3  // the configuration has the MTU
	featureMAC       = 1 << 5  // the configuration has the MAC address
	featureGuestTSO4 = 1 << 7  // the driver takes frames of TCP over IPv4 to be segmented
	featureGuestTSO6 = 1 << 8  // and over IPv6
	featureHostTSO4  = 1 << 11 // the device takes such frames
	featureHostTSO6  = 1 << 12 // and over IPv6
	featureMrgRxbuf  = 1 << 15 // a received frame may take several buffers
	featureStatus    = 1 << 16 // the configuration has the link's state
	featureCtrlVQ    = 1 << 17 // there is a control queue
	featureCtrlRX    = 1 << 18 // with which reception is filtered
	featureMQ        = 1 << 22 // and several pairs of queues are put to use
	featureCtrlMAC   = 1 << 23 // and the MAC address changed
)

// Sizes of the queues, in descriptors.
const (
	queueSize   = 1024
	controlSize = 64
)

// Backend is a network's end of the cable. Frames have a vnethdr header in front. The device calls Start, then Transmit and Receive, each by
// one goroutine for each pair of queues, and SetPairs; then Stop, and perhaps Start again. Nobody but the owner closes a backend.
type Backend interface {
	// Offloads says what the guest may leave to the backend in frames it sends, and what the backend would leave to the guest.
	Offloads() (take, give vnethdr.Offloads)
	// MTU is the largest IP packet in bytes, 68 to 65535.
	MTU() int
	// MaxPairs is how many pairs of queues can be used.
	MaxPairs() int
	// Start lets frames pass, on the first pair. The guest does the given offloads, some of those offered.
	Start(give vnethdr.Offloads) error
	// Stop ends all calls of Receive and Transmit.
	Stop()
	// SetPairs says how many pairs, from the first on, are in use.
	SetPairs(n int) error
	// Transmit sends a frame of the guest, and may lose it. The views are guest memory, which changes at any time, and not kept. An error says that the
	// backend is lost for good.
	Transmit(pair int, views [][]byte) error
	// Receive waits for a frame for the guest and writes it to views. It returns its size with the header; a size beyond that of the views says
	// that the frame was cut. Before it waits it calls idle. An error is ErrStopped of the backend after Stop, or says that the
	// backend is lost for good.
	Receive(pair int, views [][]byte, idle func()) (int, error)
}

// Config says what a device is like.
type Config struct {
	MAC   [6]byte     // of the guest; not a group address
	Pairs int         // of queues, 1 to the backend's MaxPairs; 0 means 1
	Lost  func(error) // is told once, by any goroutine, when the backend is lost and the link therefore down; may be nil
}

// Stats count frames since New.
type Stats struct {
	Sent, Received               uint64 // frames of the guest, and for it
	SentBytes, ReceivedBytes     uint64 // in them
	SentDropped, ReceivedDropped uint64 // frames with impossible headers or sizes, or without a link
}

// Device is a network device. Its methods may be called by any goroutine.
type Device struct {
	config  Config
	backend Backend

	sent, received, sentBytes, receivedBytes, sentDropped, receivedDropped atomic.Uint64

	pairs atomic.Int32 // in use
	steer sync.RWMutex // read-locked while a frame goes to a receive queue, locked while pairs changes
	down  atomic.Bool  // the backend is lost

	mu  sync.Mutex
	mac [6]byte // guarded by mu
	run *run    // guarded by mu; nil between Stop and Start
}

// run is a device between Start and Stop.
type run struct {
	features uint64
	env      virtio.Env
	stop     chan struct{} // closed by Stop
	wg       sync.WaitGroup
}

// New makes a device for a backend, which no other may use.
func New(config Config, backend Backend) (*Device, error) {
	if config.Pairs == 0 {
		config.Pairs = 1
	}
	if config.Pairs < 1 || config.Pairs > backend.MaxPairs() {
		return nil, fmt.Errorf("virtio/nic: %d pairs of queues; 1 to %d are possible here", config.Pairs, backend.MaxPairs())
	}
	if config.MAC[0]&1 != 0 || config.MAC == [6]byte{} {
		return nil, fmt.Errorf("virtio/nic: the MAC address % x is no card's", config.MAC)
	}
	if mtu := backend.MTU(); mtu < 68 || mtu > 65535 {
		return nil, fmt.Errorf("virtio/nic: an MTU of %d bytes; 68 to 65535 are possible (virtio 1.2, 5.1.4.1)", mtu)
	}
	return &Device{config: config, backend: backend, mac: config.MAC}, nil
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeNet }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := uint64(featureMAC | featureStatus | featureMTU | featureMrgRxbuf | featureCtrlVQ | featureCtrlRX | featureCtrlMAC)
	if d.config.Pairs > 1 {
		f |= featureMQ
	}
	take, give := d.backend.Offloads()
	for _, o := range offloads {
		if take&o.offload != 0 {
			f |= o.host
		}
		if give&o.offload != 0 {
			f |= o.guest
		}
	}
	return f
}

// offloads are the features for what a frame's sender leaves to the receiver.
var offloads = []struct {
	offload     vnethdr.Offloads
	host, guest uint64
}{
	{vnethdr.Csum, featureCsum, featureGuestCsum},
	{vnethdr.TSO4, featureHostTSO4, featureGuestTSO4},
	{vnethdr.TSO6, featureHostTSO6, featureGuestTSO6},
}

// negotiated says what the features mean for frames sent and received.
func negotiated(features uint64) (take, give vnethdr.Offloads) {
	for _, o := range offloads {
		if features&o.host != 0 {
			take |= o.offload
		}
		if features&o.guest != 0 {
			give |= o.offload
		}
	}
	return take, give
}

// checkFeatures refuses what virtio 1.2, 5.1.3.1 forbids.
func checkFeatures(features uint64) error {
	for _, r := range []struct{ of, need uint64 }{
		{featureGuestTSO4 | featureGuestTSO6, featureGuestCsum},
		{featureHostTSO4 | featureHostTSO6, featureCsum},
		{featureCtrlRX | featureMQ | featureCtrlMAC, featureCtrlVQ},
	} {
		if features&r.of != 0 && features&r.need == 0 {
			return fmt.Errorf("virtio/nic: the driver wants features %#x without %#x, which they need", features&r.of, r.need)
		}
	}
	return nil
}

// Queues implements virtio.Device: pairs of receive and transmit queues, then the control queue.
func (d *Device) Queues() []uint16 {
	var q []uint16
	for range d.config.Pairs {
		q = append(q, queueSize, queueSize)
	}
	return append(q, controlSize)
}

// configSize is the size of struct virtio_net_config up to mtu (virtio 1.2, 5.1.4).
const configSize = 12

// linkUp is VIRTIO_NET_S_LINK_UP.
const linkUp = 1

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [configSize]byte
	d.mu.Lock()
	copy(b[:], d.mac[:])
	d.mu.Unlock()
	if !d.down.Load() {
		b[6] = linkUp
	}
	binary.LittleEndian.PutUint16(b[8:], uint16(d.config.Pairs))
	binary.LittleEndian.PutUint16(b[10:], uint16(d.backend.MTU()))
	clear(p)
	if off < configSize {
		copy(p, b[off:])
	}
}

// WriteConfig implements virtio.Device; there is nothing to be written.
func (d *Device) WriteConfig(uint64, []byte) {}

// Start implements virtio.Device.
func (d *Device) Start(features uint64, queues []*virtio.Queue, env virtio.Env) error {
	if err := checkFeatures(features); err != nil {
		return err
	}
	take, give := negotiated(features)
	if err := d.backend.Start(give); err != nil {
		d.lose(err)
	}
	d.pairs.Store(1)
	r := &run{features: features, env: env, stop: make(chan struct{})}
	d.mu.Lock()
	d.run = r
	d.mu.Unlock()
	pairs := 1
	if features&featureMQ != 0 {
		pairs = d.config.Pairs
	}
	for i := range pairs {
		if q := queues[2*i]; q != nil {
			x := newReceiver(d, r, q, i, give)
			r.wg.Go(func() { x.serve() })
		}
		if q := queues[2*i+1]; q != nil {
			x := &sender{d: d, q: q, pair: i, take: take}
			r.wg.Go(func() { q.Serve(x.send) })
		}
	}
	if q := queues[2*pairs]; q != nil && features&featureCtrlVQ != 0 {
		r.wg.Go(func() { q.Serve(func(c *virtio.Chain) error { return d.control(r, q, c) }) })
	}
	return nil
}

// Stop implements virtio.Device.
func (d *Device) Stop() {
	d.mu.Lock()
	r := d.run
	d.run = nil
	d.mac = d.config.MAC // a reset undoes what the driver did
	d.mu.Unlock()
	if r == nil {
		return
	}
	close(r.stop)
	d.backend.Stop()
	r.wg.Wait()
}

// lose says that the backend is gone: the link is down from now on.
func (d *Device) lose(err error) {
	if d.down.Swap(true) {
		return
	}
	d.mu.Lock()
	r := d.run
	d.mu.Unlock()
	if r != nil && r.features&featureStatus != 0 {
		r.env.ConfigChanged()
	}
	if d.config.Lost != nil {
		d.config.Lost(err)
	}
}

// Stats reads the counters.
func (d *Device) Stats() Stats {
	return Stats{
		Sent: d.sent.Load(), Received: d.received.Load(),
		SentBytes: d.sentBytes.Load(), ReceivedBytes: d.receivedBytes.Load(),
		SentDropped: d.sentDropped.Load(), ReceivedDropped: d.receivedDropped.Load(),
	}
}
