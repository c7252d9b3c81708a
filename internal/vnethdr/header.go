// Package vnethdr is the header that says what a frame's sender left to do: struct virtio_net_hdr of virtio 1.2, 5.1.6, which Linux puts
// before the frames of a TAP interface too. Whoever passes offloaded frames on agrees on it here: virtio/nic, usernet and tapnet.
//
// No frame is sent, received or changed here.
package vnethdr

import (
	"encoding/binary"
	"fmt"
)

// Size of the header in bytes: that of a device with VIRTIO_F_VERSION_1, which has num_buffers always.
const Size = 12

// NumBuffers is where num_buffers begins.
const NumBuffers = 10

// MaxFrame is the size of the largest frame that may follow a header, in bytes: an Ethernet header and 65535 bytes of IP, and a VLAN tag.
const MaxFrame = 14 + 4 + 65535

// Flags of a header.
const (
	NeedsCsum = 1 // the checksum is to be summed from CsumStart on and put at CsumStart+CsumOffset
	DataValid = 2 // checksums have been verified
)

// Kinds of segmentation offload.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
)

// Offloads are what a receiver of frames can do for the sender.
type Offloads uint8

const (
	Csum Offloads = 1 << iota // fill in a TCP or UDP checksum
	TSO4                      // segment TCP over IPv4
	TSO6                      // segment TCP over IPv6
)

// Header is a virtio_net_hdr without num_buffers.
type Header struct {
	Flags      uint8
	GSO        uint8
	HdrLen     uint16 // of the headers in front of the payload, in bytes; a hint
	GSOSize    uint16 // bytes of payload in a segment
	CsumStart  uint16
	CsumOffset uint16
}

// Parse reads a header.
func Parse(b *[Size]byte) Header {
	le := binary.LittleEndian
	return Header{Flags: b[0], GSO: b[1], HdrLen: le.Uint16(b[2:]), GSOSize: le.Uint16(b[4:]), CsumStart: le.Uint16(b[6:]), CsumOffset: le.Uint16(b[8:])}
}

// Put writes the header with a num_buffers of 1.
func (h Header) Put(b *[Size]byte) {
	le := binary.LittleEndian
	b[0], b[1] = h.Flags, h.GSO
	le.PutUint16(b[2:], h.HdrLen)
	le.PutUint16(b[4:], h.GSOSize)
	le.PutUint16(b[6:], h.CsumStart)
	le.PutUint16(b[8:], h.CsumOffset)
	le.PutUint16(b[NumBuffers:], 1)
}

// Check refuses a header that cannot belong to a frame of so many bytes whose sender may rely on the given offloads. What it lets through
// has only meaningful fields: the rest is zeroed, and HdrLen, which nobody may rely on (virtio 1.2, 5.1.6.2.2), is within the frame.
func (h *Header) Check(frame int, may Offloads) error {
	h.Flags &= NeedsCsum
	if h.Flags == 0 {
		h.CsumStart, h.CsumOffset = 0, 0
	} else if may&Csum == 0 {
		return fmt.Errorf("a frame without its checksum, which was not negotiated")
	} else if end := int(h.CsumStart) + int(h.CsumOffset) + 2; end > frame {
		return fmt.Errorf("a checksum that ends at byte %d of a frame of %d", end, frame)
	}
	switch {
	case h.GSO == GSONone:
		h.HdrLen, h.GSOSize = 0, 0
		return nil
	case h.GSO == GSOTCPv4 && may&TSO4 != 0, h.GSO == GSOTCPv6 && may&TSO6 != 0:
	default:
		return fmt.Errorf("segmentation of kind %#x, which was not negotiated", h.GSO)
	}
	if h.Flags == 0 {
		return fmt.Errorf("a frame to be segmented with a checksum of its own")
	}
	if h.GSOSize == 0 {
		return fmt.Errorf("a frame to be cut into segments of 0 bytes")
	}
	h.HdrLen = uint16(min(int(h.HdrLen), frame))
	return nil
}
