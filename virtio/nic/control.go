package nic

import (
	"encoding/binary"
	"io"

	"github.com/qenex/qenex-kernel/virtio"
)

// The control queue (virtio 1.2, 5.1.6.5): class, command, data; an answer of one byte.
const (
	classRX, classMAC, classMQ = 0, 1, 4

	rxPromisc, rxAllMulti   = 0, 1
	macTableSet, macAddrSet = 0, 1
	mqPairsSet              = 0

	ackOK, ackError = 0, 1

	maxControl = 64 << 10 // bytes of a command
)

// control answers a command. A command without room for the answer has none.
func (d *Device) control(r *run, q *virtio.Queue, c *virtio.Chain) error {
	if c.WriteLen() == 0 {
		q.Done(c, 0)
		return nil
	}
	ack := byte(ackError)
	if c.ReadLen() >= 2 && c.ReadLen() <= maxControl {
		command, err := io.ReadAll(c)
		if err == nil && d.command(r, command[0], command[1], command[2:]) {
			ack = ackOK
		}
	}
	c.Write([]byte{ack})
	q.Done(c, 1)
	return nil
}

// command does what the driver wants, if the features and the data allow it.
func (d *Device) command(r *run, class, command byte, data []byte) bool {
	switch {
	case class == classRX && r.features&featureCtrlRX != 0 && (command == rxPromisc || command == rxAllMulti):
		// The filter is best-effort (5.1.6.5.1): whatever the network brings is for this guest alone.
		return len(data) == 1 && data[0] <= 1
	case class == classMAC && command == macTableSet && r.features&featureCtrlRX != 0:
		return isMACTables(data)
	case class == classMAC && command == macAddrSet && r.features&featureCtrlMAC != 0:
		if len(data) != 6 || data[0]&1 != 0 {
			return false
		}
		d.mu.Lock()
		d.mac = [6]byte(data)
		d.mu.Unlock()
		return true
	case class == classMQ && command == mqPairsSet && r.features&featureMQ != 0:
		if len(data) != 2 {
			return false
		}
		n := int(binary.LittleEndian.Uint16(data))
		if n < 1 || n > d.config.Pairs || d.backend.SetPairs(n) != nil {
			return false
		}
		d.steer.Lock()
		d.pairs.Store(int32(n))
		d.steer.Unlock()
		return true
	}
	return false
}

// isMACTables says whether data is a table of unicast and one of multicast addresses.
func isMACTables(data []byte) bool {
	for range 2 {
		if len(data) < 4 {
			return false
		}
		n := uint64(binary.LittleEndian.Uint32(data))
		if data = data[4:]; n*6 > uint64(len(data)) {
			return false
		}
		data = data[n*6:]
	}
	return len(data) == 0
}
