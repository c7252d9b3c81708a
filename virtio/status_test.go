package virtio_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// TestFeatures accepts what a device offers, and nothing else.
func TestFeatures(t *testing.T) {
	dev := virtiotest.NewEcho(4)
	dev.Offer = 1<<5 | 1<<40
	const core = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	r := newRaw(t, dev, memmap.MinSize)
	if got := r.in.Features(); got != dev.Offer|core {
		t.Errorf("offered %#x", got)
	}
	for _, tt := range []struct {
		accept uint64
		ok     bool
	}{
		{virtio.FeatureVersion1, true},
		{core | dev.Offer, true},
		{0, false},                          // virtio 1.2, 6.2: VERSION_1 must be accepted
		{1 << 5, false},                     //
		{virtio.FeatureVersion1 | 1, false}, // not offered
		{virtio.FeatureVersion1 | 1<<34, false},
		{math.MaxUint64, false},
	} {
		r.in.SetStatus(0)
		r.in.SetStatus(3)
		r.in.Accept(tt.accept, math.MaxUint64)
		r.in.SetStatus(11)
		if got := r.in.Status()&virtio.StatusFeaturesOK != 0; got != tt.ok {
			t.Errorf("FEATURES_OK is %v for %#x", got, tt.accept)
		}
		r.in.Accept(virtio.FeatureEventIdx, math.MaxUint64)
		if got := r.in.Accepted(); tt.ok && got != tt.accept {
			t.Errorf("accepted %#x behind FEATURES_OK, want %#x as before", got, tt.accept)
		}
		if !tt.ok {
			r.in.SetStatus(15)
			if r.in.Status()&(virtio.StatusDriverOK|virtio.StatusNeedsReset) != virtio.StatusNeedsReset {
				t.Errorf("status %#x for a DRIVER_OK without FEATURES_OK", r.in.Status())
			}
			<-r.failed
		}
	}
	r.start(virtio.FeatureEventIdx | 1<<40)
	r.in.SetStatus(0)
	if dev.Starts.Load() != 1 || dev.Accepted != virtio.FeatureVersion1|virtio.FeatureEventIdx|1<<40 {
		t.Errorf("%d starts, accepted %#x", dev.Starts.Load(), dev.Accepted)
	}
}

// TestReset forgets everything.
func TestReset(t *testing.T) {
	dev := virtiotest.NewEcho(8)
	r := newRaw(t, dev, memmap.MinSize)
	r.start(0)
	r.in.SetStatus(15) // again: no second start
	r.echoes()
	r.in.SetStatus(0)
	if r.in.Status() != 0 || r.in.Accepted() != 0 || r.in.QueueReady(0) || r.in.QueueSize(0) != 8 || r.in.QueueAddr(0, virtio.Used) != 0 {
		t.Errorf("behind a reset: status %#x, features %#x, ready %v, size %d", r.in.Status(), r.in.Accepted(), r.in.QueueReady(0), r.in.QueueSize(0))
	}
	if dev.Running.Load() != 0 || dev.Starts.Load() != 1 {
		t.Errorf("%d goroutines, %d starts", dev.Running.Load(), dev.Starts.Load())
	}
	r.in.SetStatus(virtio.StatusFailed | 3)
	if r.in.Status() != virtio.StatusFailed|3 {
		t.Errorf("status %#x", r.in.Status())
	}
	if err := r.in.Close(); err != nil {
		t.Error(err)
	}
	r.in.SetStatus(15)
	if r.in.Status() != 0 {
		t.Errorf("status %#x of a closed device", r.in.Status())
	}
}

// TestPlaces refuses queues that do not fit where the driver put them.
func TestPlaces(t *testing.T) {
	for name, tt := range map[string]struct {
		size              uint32
		desc, avail, used uint64
		want              string
	}{
		"good":                     {4, rawDesc, rawAvail, rawUsed, ""},
		"least alignments":         {4, rawDesc + 16, rawAvail + 2, rawUsed + 4, ""},
		"last bytes":               {4, memmap.MinSize - 64, rawAvail, rawUsed, ""},
		"size 0":                   {0, rawDesc, rawAvail, rawUsed, "0 descriptors"},
		"size 3":                   {3, rawDesc, rawAvail, rawUsed, "3 descriptors"},
		"size above the maximum":   {16, rawDesc, rawAvail, rawUsed, "16 descriptors"},
		"huge size":                {1<<16 | 4, rawDesc, rawAvail, rawUsed, "power of two"},
		"descriptors misaligned":   {4, rawDesc + 8, rawAvail, rawUsed, "descriptor table at gpa 0x1008 is not 16-byte"},
		"available ring misplaced": {4, rawDesc, rawAvail + 1, rawUsed, "available ring at gpa 0x2001 is not 2-byte"},
		"used ring misaligned":     {4, rawDesc, rawAvail, rawUsed + 2, "used ring at gpa 0x3002 is not 4-byte"},
		"descriptors outside":      {4, memmap.MinSize - 48, rawAvail, rawUsed, "descriptor table: 64 bytes"},
		"available ring outside":   {4, rawDesc, memmap.MinSize - 12, rawUsed, "available ring: 14 bytes"},
		"used ring outside":        {4, rawDesc, rawAvail, memmap.MinSize - 36, "used ring: 38 bytes"},
		"used ring wraps":          {4, rawDesc, rawAvail, math.MaxUint64 - 3, "used ring: 38 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, virtiotest.NewEcho(8), memmap.MinSize)
			r.in.SetStatus(3)
			r.in.Accept(virtio.FeatureVersion1, math.MaxUint64)
			r.in.SetStatus(11)
			r.in.SetQueueSize(0, tt.size)
			r.place(tt.desc, tt.avail, tt.used)
			r.in.EnableQueue(0)
			if r.in.QueueReady(0) != (tt.want == "") {
				t.Errorf("ready %v", r.in.QueueReady(0))
			}
			if tt.want == "" {
				return
			}
			if err := r.failure(); !errors.Is(err, virtio.ErrProtocol) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("reason %v, want %q in it", err, tt.want)
			}
			if len(r.interrupts) != 0 {
				t.Error("an interrupt before DRIVER_OK")
			}
			if r.in.SetStatus(15); r.in.Status()&virtio.StatusDriverOK != 0 {
				t.Error("a device that needs a reset was started")
			}
		})
	}
}

// TestQueuesThatAreNotThere wants accesses to them to do nothing, and a device to hear which queues it has.
func TestQueuesThatAreNotThere(t *testing.T) {
	dev := virtiotest.NewEcho(4, 4)
	r := newRaw(t, dev, memmap.MinSize)
	for _, i := range []uint32{2, math.MaxUint32} {
		r.in.SetQueueSize(i, 4)
		r.in.SetQueueAddr(i, virtio.Used, 1, math.MaxUint64)
		r.in.EnableQueue(i)
		r.in.DisableQueue(i)
		r.in.Ring(i)
		if r.in.QueueMax(i) != 0 || r.in.QueueSize(i) != 0 || r.in.QueueReady(i) || r.in.QueueAddr(i, virtio.Used) != 0 {
			t.Errorf("queue %d is there", i)
		}
	}
	r.start(0)
	r.echoes()
	if !dev.Enabled[0] || dev.Enabled[1] {
		t.Errorf("enabled %v", dev.Enabled)
	}
	// A running device's queues stay as they are.
	r.in.SetQueueSize(0, 2)
	r.in.SetQueueAddr(0, virtio.Used, 0, math.MaxUint64)
	r.in.EnableQueue(1)
	if r.in.QueueSize(0) != 4 || r.in.QueueAddr(0, virtio.Used) != rawUsed || r.in.QueueReady(1) {
		t.Error("a running device's queues were changed")
	}
	r.in.DisableQueue(0)
	if err := r.failure(); !strings.Contains(err.Error(), "disabled while the device runs") || r.in.QueueReady(0) {
		t.Errorf("reason %v, ready %v", err, r.in.QueueReady(0))
	}
}

// TestConfigChanged wants a new generation each time, and an interrupt while a driver listens.
func TestConfigChanged(t *testing.T) {
	r := newRaw(t, virtiotest.NewEcho(4), memmap.MinSize)
	r.in.WriteConfig(0, []byte{1, 2, 3, 4}) // not started: nobody to tell
	r.start(0)
	before := r.in.Generation()
	r.in.WriteConfig(0, []byte{5, 6, 7, 8})
	if q := r.interrupt(); q != -1 || r.in.Generation() == before || len(r.interrupts) != 0 {
		t.Errorf("interrupt %d, generation %d, before %d", q, r.in.Generation(), before)
	}
	p := make([]byte, 6)
	if r.in.ReadConfig(1, p); string(p) != "\x06\x07\x08\x00\x00\x00" {
		t.Errorf("configuration % x", p)
	}
	r.in.SetStatus(0)
	before = r.in.Generation()
	r.in.WriteConfig(0, []byte{1, 2, 3, 4})
	if len(r.interrupts) != 0 || r.in.Generation() == before {
		t.Errorf("%d interrupts for a driver that is not there, generation %d", len(r.interrupts), r.in.Generation())
	}
}

// TestFailedStart wants a device that cannot start to say so.
func TestFailedStart(t *testing.T) {
	h := newHolder()
	h.startErr = errors.New("disk on fire")
	r := newRaw(t, h, memmap.MinSize)
	r.start(0)
	if err := r.failure(); !errors.Is(err, h.startErr) || r.in.Status()&virtio.StatusNeedsReset == 0 {
		t.Errorf("reason %v, status %#x", err, r.in.Status())
	}
	if _, err := (<-h.queues).Next(); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("its queue: %v", err)
	}
}

func TestBadQueues(t *testing.T) {
	mem, err := memmap.New(memmap.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, size := range []uint16{0, 3, virtio.MaxQueueSize + 1} {
		if in, err := virtio.NewInstance(virtiotest.NewEcho(4, size), mem, nil); err == nil {
			t.Errorf("a device with a queue of %d: %v", size, errors.Join(in.Close()))
		}
	}
}
