package mmio

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 300_000, "operations of TestStressRegisters")

// patience bounds what a test waits for.
const patience = 30 * time.Second

// machine is a transport with an echo device of two queues.
type machine struct {
	t      testing.TB
	mem    *memmap.Memory
	tr     *Transport
	edges  chan struct{}
	failed atomic.Uint64
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, edges: make(chan struct{}, 1)}
	var err error
	if m.mem, err = memmap.New(memmap.MinSize); err != nil {
		t.Fatal(err)
	}
	raise := func() {
		select {
		case m.edges <- struct{}{}:
		default:
		}
	}
	if m.tr, err = New(virtiotest.NewEcho(8, 4), m.mem, raise, func(error) { m.failed.Add(1) }); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) close() {
	if err := m.tr.Instance().Close(); err != nil {
		m.t.Error(err)
	}
	if err := m.mem.Close(); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) get(off uint64) uint32 {
	p := []byte{0xee, 0xee, 0xee, 0xee}
	m.tr.Read(off, p)
	return binary.LittleEndian.Uint32(p)
}

func (m *machine) put(off uint64, v uint32) {
	m.tr.Write(off, binary.LittleEndian.AppendUint32(nil, v))
}

const (
	testDesc, testAvail, testUsed, testData = 0x1000, 0x2000, 0x3000, 0x4000
)

// start drives the device to DRIVER_OK with queue 0.
func (m *machine) start() {
	m.put(status, 0)
	m.put(status, 3)
	m.put(driverFeaturesSel, 0)
	m.put(driverFeatures, m.get(deviceFeatures)&(1<<28))
	m.put(driverFeaturesSel, 1)
	m.put(driverFeatures, 1)
	m.put(status, 11)
	m.put(queueSel, 0)
	m.put(queueNum, 8)
	m.put(queueDescLow, testDesc)
	m.put(queueDescHigh, 0)
	m.put(queueDriverLow, testAvail)
	m.put(queueDriverHigh, 0)
	m.put(queueDeviceLow, testUsed)
	m.put(queueDeviceHigh, 0)
	m.put(queueReady, 1)
	m.put(status, 15)
}

func TestRegisters(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t)
	defer m.close()
	for off, want := range map[uint64]uint32{
		magicValue: 0x74726976, version: 2, deviceID: virtiotest.TypeEcho, vendorID: vendor, status: 0, interruptStatus: 0,
		queueNumMax: 8, queueReady: 0,
		0x0ac: 0, 0x0b0: 0xffffffff, 0x0b4: 0xffffffff, 0x0b8: 0xffffffff, 0x0bc: 0xffffffff, // no shared memory
		0x0fc: 0, 0x0f8: 0, 0x018: 0, driverFeatures: 0, // write-only or nothing
	} {
		if got := m.get(off); got != want {
			t.Errorf("register %#x is %#x, want %#x", off, got, want)
		}
	}
	m.put(deviceFeaturesSel, 1)
	if got := m.get(deviceFeatures); got != 1 {
		t.Errorf("upper features %#x", got)
	}
	m.put(deviceFeaturesSel, 2)
	if got := m.get(deviceFeatures); got != 0 {
		t.Errorf("features behind the end %#x", got)
	}
	for q, want := range map[uint32]uint32{1: 4, 2: 0, 0xffffffff: 0} {
		if m.put(queueSel, q); m.get(queueNumMax) != want {
			t.Errorf("queue %d has %d, want %d", q, m.get(queueNumMax), want)
		}
	}
	// Other widths and places are no register.
	for _, n := range []int{1, 2, 8} {
		p := make([]byte, n)
		p[0] = 0xee
		if m.tr.Read(magicValue, p); p[0] != 0 {
			t.Errorf("a read of %d bytes gives % x", n, p)
		}
		m.tr.Write(status, append([]byte{3}, p[1:]...))
	}
	m.tr.Write(status+1, []byte{1, 1, 1, 1})
	if m.get(status) != 0 {
		t.Errorf("status %#x by accesses that are no register's", m.get(status))
	}
}

// TestRequest makes one through registers and rings, with its interrupt, then resets.
func TestRequest(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t)
	defer m.close()
	m.start()
	if m.get(status) != 15 || m.get(queueReady) != 1 {
		t.Fatalf("status %#x, ready %d", m.get(status), m.get(queueReady))
	}
	for i, w := range []uint32{testData, 0, 4, 1 | 1<<16, testData + 4, 0, 4, 2} {
		m.mem.PutUint32(testDesc+4*uint64(i), w)
	}
	m.mem.PutUint32(testData, 0x11223344)
	m.mem.PutUint32(testAvail, 1<<16)
	m.put(QueueNotify, 0)
	select {
	case <-m.edges:
	case <-time.After(patience):
		t.Fatal("no interrupt")
	}
	if got, _ := m.mem.Uint32(testData + 4); got != 0x11223344 || m.get(interruptStatus) != usedBuffer {
		t.Errorf("answer %#x, interrupt status %#x", got, m.get(interruptStatus))
	}
	m.put(interruptACK, configChange) // not pending
	if m.get(interruptStatus) != usedBuffer {
		t.Error("an acknowledgement cleared another bit")
	}
	m.put(interruptACK, usedBuffer)
	before := m.get(configGeneration)
	m.put(config, 0xaabbccdd)
	<-m.edges
	if m.get(interruptStatus) != configChange || m.get(config) != 0xaabbccdd || m.get(configGeneration) == before || m.get(0xffc) != 0 {
		t.Errorf("interrupt status %#x, configuration %#x, generation %d", m.get(interruptStatus), m.get(config), m.get(configGeneration))
	}
	m.put(status, 0)
	if m.get(status) != 0 || m.get(interruptStatus) != 0 || m.get(queueReady) != 0 {
		t.Error("registers remember behind a reset")
	}
	m.start()
	m.put(queueReady, 0)
	if m.get(queueReady) != 0 || m.get(status)&64 == 0 || m.get(interruptStatus)&configChange == 0 || m.failed.Load() != 1 {
		t.Errorf("a queue taken back: ready %d, status %#x, %d failures", m.get(queueReady), m.get(status), m.failed.Load())
	}
}

// TestStressRegisters writes registers by chance, rings and all.
func TestStressRegisters(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t)
	defer m.close()
	r := rand.New(rand.NewPCG(1, 2))
	starts, requests := 0, 0
	const batch = 100
	for range *stress / batch {
		if r.IntN(2) == 0 {
			m.start()
			starts++
		}
		for i := range 8 * 4 {
			m.mem.PutUint32(testDesc+4*uint64(i), r.Uint32()>>r.IntN(32))
		}
		for i, w := range []uint32{testData, 0, 4, 1 | 1<<16, testData + 4, 0, 4, 2} {
			m.mem.PutUint32(testDesc+4*uint64(i), w)
		}
		m.mem.PutUint16(testAvail+2, uint16(r.IntN(9)))
		m.put(QueueNotify, 0)
		virtiotest.Hammer(r, m.tr, Size, config+16, batch)
		if idx, _ := m.mem.Uint16(testUsed + 2); idx != 0 {
			requests++
			m.mem.PutUint16(testUsed+2, 0)
		}
	}
	t.Logf("%d operations: %d starts, %d batches with requests used, %d failures", *stress, starts, requests, m.failed.Load())
	if requests == 0 || m.failed.Load() == 0 {
		t.Error("too little of it")
	}
}

func FuzzRegisters(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("\x70\x00\x03\x70\x00\x0b\x70\x00\x0f\x50\x00\x00\xff\x80\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMachine(t)
		defer m.close()
		m.start()
		virtiotest.HammerScript(data, m.tr, Size, config+16)
	})
}
