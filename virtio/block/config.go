package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/virtio"
)

// Feature bits (virtio 1.2, 5.2.3).
const (
	FeatureSizeMax     = 1 << 1
	FeatureSegMax      = 1 << 2
	FeatureRO          = 1 << 5
	FeatureBlkSize     = 1 << 6
	FeatureFlush       = 1 << 9
	FeatureTopology    = 1 << 10
	FeatureConfigWCE   = 1 << 11
	FeatureMQ          = 1 << 12
	FeatureDiscard     = 1 << 13
	FeatureWriteZeroes = 1 << 14
)

const (
	// DefaultQueueSize is the number of descriptors of a queue.
	DefaultQueueSize = 256
	// MaxQueues is the most queues of a device.
	MaxQueues = 64
	// SerialLen is the most bytes of a serial number.
	SerialLen = 20

	sizeMax = 256 << 10 // bytes of one segment
	segMax  = 126       // segments of one request
	// maxData is the most data of one read or write: more is an error of the request, so that a reset never waits long for one.
	maxData = segMax * sizeMax

	// A segment of a discard is cheap. One of zeroes may have to be written.
	maxDiscardSectors = 4 << 20 // 2 GiB
	maxZeroSectors    = 64 << 10
	maxSegments       = 16

	// physical is what the driver had best align its requests to, in bytes.
	physical = 4096
)

// Config says what a block device is. Disk is the only field that is needed.
type Config struct {
	// Disk is the storage. The caller closes it after the machine has ended.
	Disk blockdev.Disk
	// Serial is what the driver reads as the device's ID: up to SerialLen printable ASCII characters.
	Serial string
	// Queues is the number of queues, best that of the vCPUs, up to MaxQueues. 0 is 1.
	Queues int
	// QueueSize is the number of descriptors of each queue, a power of two from 4 up to virtio.MaxQueueSize. 0 is DefaultQueueSize.
	QueueSize uint16
	// BlockSize is the unit of the driver's requests in bytes: 512 or 4096. 0 is 512, as most images were made for.
	BlockSize int
	// Limits bound the requests of all queues together. Requests that are refused count as well.
	Limits blockdev.Limits
	// Failed is called with the first error of the storage after each start of the device, by any goroutine; the driver gets each of
	// them as an I/O error. Nil: nobody hears of it.
	Failed func(error)
}

// space is the device-specific configuration (virtio 1.2, 5.2.4), little-endian.
type space struct {
	Capacity               uint64 // sectors
	SizeMax, SegMax        uint32
	Cylinders              uint16
	Heads, Sectors         uint8
	BlkSize                uint32
	PhysicalExp            uint8 // logical blocks in a physical one, as power of two
	AlignmentOffset        uint8
	MinIO                  uint16 // logical blocks
	OptIO                  uint32 // logical blocks
	Writeback              uint8
	_                      uint8
	NumQueues              uint16
	MaxDiscardSectors      uint32
	MaxDiscardSeg          uint32
	DiscardSectorAlignment uint32
	MaxWriteZeroesSectors  uint32
	MaxWriteZeroesSeg      uint32
	WriteZeroesMayUnmap    uint8
	_                      [3]uint8
}

// writebackAt is the offset of space.Writeback, the only field that a driver may write.
const writebackAt = 32

// check puts in defaults and says what is wrong.
func (c *Config) check() error {
	if c.Disk == nil {
		return errors.New("virtio block device: there is no disk")
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueSize == 0 {
		c.QueueSize = DefaultQueueSize
	}
	if c.BlockSize == 0 {
		c.BlockSize = blockdev.SectorSize
	}
	switch {
	case c.Queues < 1 || c.Queues > MaxQueues:
		return fmt.Errorf("virtio block device: %d queues; 1 to %d are possible", c.Queues, MaxQueues)
	case c.QueueSize < 4 || c.QueueSize > virtio.MaxQueueSize || c.QueueSize&(c.QueueSize-1) != 0:
		return fmt.Errorf("virtio block device: queues of %d descriptors; a power of two from 4 to %d is possible", c.QueueSize, virtio.MaxQueueSize)
	case c.BlockSize != blockdev.SectorSize && c.BlockSize != 4096:
		return fmt.Errorf("virtio block device: blocks of %d bytes; %d and 4096 are possible", c.BlockSize, blockdev.SectorSize)
	case c.Disk.Size()%int64(c.BlockSize) != 0:
		return fmt.Errorf("virtio block device: the disk's %d bytes are no multiple of its blocks of %d", c.Disk.Size(), c.BlockSize)
	case len(c.Serial) > SerialLen:
		return fmt.Errorf("virtio block device: serial number %q is longer than %d", c.Serial, SerialLen)
	}
	for _, r := range c.Serial {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("virtio block device: serial number %q has other than printable ASCII characters", c.Serial)
		}
	}
	return nil
}

// features returns what the device offers.
func (c *Config) features() uint64 {
	f := uint64(FeatureSizeMax | FeatureSegMax | FeatureBlkSize | FeatureTopology)
	if c.Queues > 1 {
		f |= FeatureMQ
	}
	switch {
	case c.Disk.ReadOnly():
		// There is nothing to flush; but devices should always offer it (virtio 1.2, 5.2.5.2).
		return f | FeatureRO | FeatureFlush
	case c.Disk.Volatile():
		// A device that does not make data durable must not offer FLUSH (virtio 1.2, 5.2.6.2, note), and so not CONFIG_WCE.
		return f | FeatureDiscard | FeatureWriteZeroes
	}
	return f | FeatureDiscard | FeatureWriteZeroes | FeatureFlush | FeatureConfigWCE
}

// space returns the configuration space with a writeback cache.
func (c *Config) space() []byte {
	logical := uint32(c.BlockSize)
	perPhysical := max(physical, uint32(c.Disk.BlockSize())) / logical
	s := space{
		Capacity: uint64(c.Disk.Size()) / blockdev.SectorSize,
		SizeMax:  sizeMax, SegMax: min(segMax, uint32(c.QueueSize)-2),
		BlkSize: logical, PhysicalExp: uint8(bits.Len32(perPhysical) - 1), MinIO: uint16(perPhysical),
		NumQueues: uint16(c.Queues),
	}
	f := c.features()
	if f&FeatureConfigWCE != 0 {
		s.Writeback = 1
	}
	if f&FeatureDiscard != 0 {
		s.MaxDiscardSectors, s.MaxDiscardSeg, s.DiscardSectorAlignment = maxDiscardSectors, maxSegments, physical/blockdev.SectorSize
		s.MaxWriteZeroesSectors, s.MaxWriteZeroesSeg, s.WriteZeroesMayUnmap = maxZeroSectors, maxSegments, 1
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, s) // into memory, of fixed-size fields: cannot fail
	return b.Bytes()
}
