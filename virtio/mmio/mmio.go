package mmio

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// Size is the window's size in bytes: one page, for a guest maps pages.
const Size = memmap.PageSize

// QueueNotify is the offset of the register that a driver writes, 4 bytes, to ring for the queue of that number.
const QueueNotify = 0x050

// Registers (virtio 1.2, 4.2.2).
const (
	magicValue        = 0x000
	version           = 0x004
	deviceID          = 0x008
	vendorID          = 0x00c
	deviceFeatures    = 0x010
	deviceFeaturesSel = 0x014
	driverFeatures    = 0x020
	driverFeaturesSel = 0x024
	queueSel          = 0x030
	queueNumMax       = 0x034
	queueNum          = 0x038
	queueReady        = 0x044
	interruptStatus   = 0x060
	interruptACK      = 0x064
	status            = 0x070
	queueDescLow      = 0x080
	queueDescHigh     = 0x084
	queueDriverLow    = 0x090
	queueDriverHigh   = 0x094
	queueDeviceLow    = 0x0a0
	queueDeviceHigh   = 0x0a4
	shmLenLow         = 0x0b0 // of the selected shared memory region: there are none
	shmBaseHigh       = 0x0bc
	configGeneration  = 0x0fc
	config            = 0x100
)

const (
	magic        = 0x74726976 // "virt"
	versionValue = 2
	vendor       = 0x584e4551 // "QENX"
)

// Bits of interruptStatus.
const (
	usedBuffer   = 1
	configChange = 2
)

// Transport is a device's window. Read and Write may be called by several vCPUs at the same time; registers that select are the
// driver's to guard.
type Transport struct {
	in     *virtio.Instance
	raise  func()
	failed func(error)

	pending                         atomic.Uint32 // interruptStatus
	deviceSel, driverSel, queueSelR atomic.Uint32
}

// New makes a device behind its registers. raise makes an edge on its interrupt line, failed hears why the device needs a reset; they
// are called by any goroutine and must not block. Close of its Instance frees it.
func New(dev virtio.Device, mem *memmap.Memory, raise func(), failed func(error)) (*Transport, error) {
	t := &Transport{raise: raise, failed: failed}
	in, err := virtio.NewInstance(dev, mem, host{t})
	if err != nil {
		return nil, err
	}
	t.in = in
	return t, nil
}

// Instance returns the device behind the registers.
func (t *Transport) Instance() *virtio.Instance { return t.in }

// host is the transport as its instance sees it. An edge for each notification is enough: drivers acknowledge the bits
// that they have seen, then look at what these stand for.
type host struct{ t *Transport }

func (h host) Interrupt(int)    { h.t.interrupt(usedBuffer) }
func (h host) ConfigInterrupt() { h.t.interrupt(configChange) }
func (h host) Failed(err error) { h.t.failed(err) }

func (t *Transport) interrupt(bit uint32) {
	t.pending.Or(bit)
	t.raise()
}

// Read answers a load of len(p) bytes. Registers are 4 bytes, and other accesses to them read zeroes; the configuration takes any size.
func (t *Transport) Read(off uint64, p []byte) {
	clear(p)
	if off >= config {
		t.in.ReadConfig(off-config, p)
		return
	}
	if len(p) == 4 && off%4 == 0 {
		binary.LittleEndian.PutUint32(p, t.read(off))
	}
}

func (t *Transport) read(off uint64) uint32 {
	in, q := t.in, t.queueSelR.Load()
	switch off {
	case magicValue:
		return magic
	case version:
		return versionValue
	case deviceID:
		return in.Device().Type()
	case vendorID:
		return vendor
	case deviceFeatures:
		if sel := t.deviceSel.Load(); sel < 2 {
			return uint32(in.Features() >> (32 * sel))
		}
	case queueNumMax:
		return uint32(in.QueueMax(q))
	case queueReady:
		if in.QueueReady(q) {
			return 1
		}
	case interruptStatus:
		return t.pending.Load()
	case status:
		return uint32(in.Status())
	case configGeneration:
		return in.Generation()
	}
	if off >= shmLenLow && off <= shmBaseHigh {
		return 0xffffffff // virtio 1.2, 4.2.2: length and base of a region that does not exist
	}
	return 0
}

// Write takes a store of len(p) bytes. Registers are 4 bytes, and other accesses to them are ignored.
func (t *Transport) Write(off uint64, p []byte) {
	if off >= config {
		t.in.WriteConfig(off-config, p)
		return
	}
	if len(p) == 4 && off%4 == 0 {
		t.write(off, binary.LittleEndian.Uint32(p))
	}
}

func (t *Transport) write(off uint64, v uint32) {
	in, q := t.in, t.queueSelR.Load()
	low := func(r virtio.Ring) { in.SetQueueAddr(q, r, uint64(v), 0xffffffff) }
	high := func(r virtio.Ring) { in.SetQueueAddr(q, r, uint64(v)<<32, 0xffffffff<<32) }
	switch off {
	case deviceFeaturesSel:
		t.deviceSel.Store(v)
	case driverFeaturesSel:
		t.driverSel.Store(v)
	case driverFeatures:
		if sel := t.driverSel.Load(); sel < 2 {
			in.Accept(uint64(v)<<(32*sel), 0xffffffff<<(32*sel))
		}
	case queueSel:
		t.queueSelR.Store(v)
	case queueNum:
		in.SetQueueSize(q, v)
	case queueReady:
		if v == 0 {
			in.DisableQueue(q)
		} else {
			in.EnableQueue(q)
		}
	case QueueNotify:
		in.Ring(v)
	case interruptACK:
		t.pending.And(^v)
	case status:
		in.SetStatus(byte(v))
		if v == 0 {
			t.pending.Store(0)
		}
	case queueDescLow:
		low(virtio.Descriptors)
	case queueDescHigh:
		high(virtio.Descriptors)
	case queueDriverLow:
		low(virtio.Available)
	case queueDriverHigh:
		high(virtio.Available)
	case queueDeviceLow:
		low(virtio.Used)
	case queueDeviceHigh:
		high(virtio.Used)
	}
}
