package pci

import "encoding/binary"

var le = binary.LittleEndian

// The function's window.
const (
	// WindowSize is its size in bytes.
	WindowSize = 0x10000

	commonOff, commonSize = 0x0000, 0x40
	isrOff, isrSize       = 0x1000, 4
	configOff, configSize = 0x2000, 0x1000
	notifyOff, notifySize = 0x3000, 0x1000
	tableOff, tableSize   = 0x8000, 0x4000
	pendingOff            = 0xc000

	// NotifyStep is how far the doorbells of queues are apart in bytes.
	NotifyStep = 4

	maxQueues = notifySize / NotifyStep
)

// NotifyOffset returns where in the window a driver writes 2 bytes, the queue's number, to ring for queue i.
func NotifyOffset(i int) uint64 { return notifyOff + NotifyStep*uint64(i) }

// Fields of the common configuration (virtio 1.2, 4.1.4.3).
const (
	deviceFeatureSelect = 0x00
	deviceFeature       = 0x04
	driverFeatureSelect = 0x08
	driverFeature       = 0x0c
	configMSIXVector    = 0x10
	numQueues           = 0x12
	deviceStatus        = 0x14
	configGeneration    = 0x15
	queueSelect         = 0x16
	queueSize           = 0x18
	queueMSIXVector     = 0x1a
	queueEnable         = 0x1c
	queueNotifyOff      = 0x1e
	queueDesc           = 0x20
	queueDriver         = 0x28
	queueDevice         = 0x30
)

// noVector is a vector number that stands for none (virtio 1.2, 4.1.5.1.2).
const noVector = 0xffff

// Types of structures that capabilities point to (virtio 1.2, 4.1.4).
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
)

// structCap is the content of a vendor capability from its length on.
func structCap(kind byte, off, size uint32, more ...byte) []byte {
	b := make([]byte, 14, 14+len(more))
	b[0] = byte(2 + len(b) + len(more))
	b[1] = kind
	le.PutUint32(b[6:], off)
	le.PutUint32(b[10:], size)
	return append(b, more...)
}

// Bits of the interrupt status (virtio 1.2, 4.1.4.5).
const (
	isrQueue  = 1
	isrConfig = 2
)
