package nic

import (
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// quiet is a transport without interrupts.
type quiet struct{ t *testing.T }

func (quiet) Interrupt(int)      {}
func (quiet) ConfigInterrupt()   {}
func (q quiet) Failed(err error) { q.t.Error(err) }

// TestReceiveWhole: a driver that polls finds all buffers of a frame used, or none (5.1.6.4).
func TestReceiveWhole(t *testing.T) {
	kvmtest.NoLeaks(t)
	const size, each, desc, avail, used, data = 64, 100, 0x1000, 0x2000, 0x3000, 0x10000
	mem, err := memmap.New(memmap.MiB)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	w := newWire()
	in, err := virtio.NewInstance(newDevice(t, w, 1), mem, quiet{t})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	const ready = virtio.StatusAcknowledge | virtio.StatusDriver | virtio.StatusFeaturesOK
	in.SetStatus(virtio.StatusAcknowledge | virtio.StatusDriver)
	in.Accept(virtio.FeatureVersion1|featureMrgRxbuf, ^uint64(0))
	in.SetStatus(ready)
	in.SetQueueSize(0, size)
	for ring, at := range map[virtio.Ring]uint64{virtio.Descriptors: desc, virtio.Available: avail, virtio.Used: used} {
		in.SetQueueAddr(0, ring, at, ^uint64(0))
	}
	in.EnableQueue(0)
	for i := range uint64(size) {
		mem.PutUint64(desc+16*i, data+each*i)
		mem.PutUint32(desc+16*i+8, each)
		mem.PutUint16(desc+16*i+12, 2) // to be written
		mem.PutUint16(avail+4+2*i, uint16(i))
	}
	availIdx, err := mem.View(avail, 4)
	if err != nil {
		t.Fatal(err)
	}
	usedIdx, err := mem.View(used, 4)
	if err != nil {
		t.Fatal(err)
	}
	in.SetStatus(ready | virtio.StatusDriverOK)
	frame := append(header(vnethdr.Header{}), pattern(3*each-vnethdr.Size)...)
	for i := range uint16(5000) {
		memmap.StoreUint16(availIdx[2:], 3*i+size-1)
		in.Ring(0)
		w.toGuest[0] <- frame
		for seen := 3 * i; seen != 3*i+3; seen = memmap.LoadUint16(usedIdx[2:]) {
			if seen != 3*i {
				t.Fatalf("frame %d: %d of 3 buffers", i, seen-3*i)
			}

		}
	}
	in.SetStatus(0)
}
