package pci

import "github.com/qenex/qenex-kernel/virtio"

// readCommon answers a load from the common configuration. Fields are read with their own width, of 64-bit ones each half or both (virtio
// 1.2, 4.1.3.1); other accesses read zeroes.
func (t *Transport) readCommon(off uint64, p []byte) {
	clear(p)
	in, q := t.in, t.queueSelR.Load()
	if off >= queueDesc && off < queueDevice+8 {
		if len(p) == 8 && off%8 == 0 {
			le.PutUint64(p, in.QueueAddr(q, ring(off)))
		} else if len(p) == 4 && off%4 == 0 {
			le.PutUint32(p, uint32(in.QueueAddr(q, ring(off))>>(8*(off&4))))
		}
		return
	}
	switch len(p) {
	case 1:
		switch off {
		case deviceStatus:
			p[0] = in.Status()
		case configGeneration:
			p[0] = byte(in.Generation())
		}
	case 2:
		le.PutUint16(p, t.read16(off, q))
	case 4:
		switch off {
		case deviceFeatureSelect:
			le.PutUint32(p, t.deviceSel.Load())
		case deviceFeature:
			if sel := t.deviceSel.Load(); sel < 2 {
				le.PutUint32(p, uint32(in.Features()>>(32*sel)))
			}
		case driverFeatureSelect:
			le.PutUint32(p, t.driverSel.Load())
		case driverFeature:
			if sel := t.driverSel.Load(); sel < 2 {
				le.PutUint32(p, uint32(in.Accepted()>>(32*sel)))
			}
		}
	}
}

func (t *Transport) read16(off uint64, q uint32) uint16 {
	in := t.in
	switch off {
	case configMSIXVector:
		return uint16(t.configVector.Load())
	case numQueues:
		return uint16(in.NumQueues())
	case queueSelect:
		return uint16(q)
	case queueSize:
		return in.QueueSize(q) // 0 for a queue that does not exist
	case queueMSIXVector:
		if int(q) < len(t.queueVector) {
			return uint16(t.queueVector[q].Load())
		}
		return noVector
	case queueEnable:
		if in.QueueReady(q) {
			return 1
		}
	case queueNotifyOff:
		if int(q) < in.NumQueues() {
			return uint16(q)
		}
	}
	return 0
}

// writeCommon takes a store to the common configuration, with widths as readCommon; others are ignored.
func (t *Transport) writeCommon(off uint64, p []byte) {
	in, q := t.in, t.queueSelR.Load()
	if off >= queueDesc && off < queueDevice+8 {
		if len(p) == 8 && off%8 == 0 {
			in.SetQueueAddr(q, ring(off), le.Uint64(p), ^uint64(0))
		} else if len(p) == 4 && off%4 == 0 {
			shift := 8 * (off & 4)
			in.SetQueueAddr(q, ring(off), uint64(le.Uint32(p))<<shift, 0xffffffff<<shift)
		}
		return
	}
	switch len(p) {
	case 1:
		if off == deviceStatus {
			in.SetStatus(p[0])
			if p[0] == 0 {
				t.forget()
				t.isr.Store(0)
				t.fn.SetLine(false)
			}
		}
	case 2:
		t.write16(off, q, le.Uint16(p))
	case 4:
		v := le.Uint32(p)
		switch off {
		case deviceFeatureSelect:
			t.deviceSel.Store(v)
		case driverFeatureSelect:
			t.driverSel.Store(v)
		case driverFeature:
			if sel := t.driverSel.Load(); sel < 2 {
				in.Accept(uint64(v)<<(32*sel), 0xffffffff<<(32*sel))
			}
		}
	}
}

func (t *Transport) write16(off uint64, q uint32, v uint16) {
	switch off {
	case configMSIXVector:
		t.configVector.Store(t.vector(v))
	case queueSelect:
		t.queueSelR.Store(uint32(v))
	case queueSize:
		t.in.SetQueueSize(q, uint32(v))
	case queueMSIXVector:
		if int(q) < len(t.queueVector) {
			t.queueVector[q].Store(t.vector(v))
		}
	case queueEnable:
		if v == 1 { // a driver must not write 0 (virtio 1.2, 4.1.4.3.2)
			t.in.EnableQueue(q)
		}
	}
}

// vector returns v, or none if there is no such vector: the driver reads that back (virtio 1.2, 4.1.5.1.2.1).
func (t *Transport) vector(v uint16) uint32 {
	if int(v) >= t.msix.Vectors() {
		return noVector
	}
	return uint32(v)
}

// ring says of which area the address at off is.
func ring(off uint64) virtio.Ring { return virtio.Ring((off - queueDesc) / 8) }
