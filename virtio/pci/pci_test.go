package pci

import (
	"flag"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 300_000, "operations of TestStressRegisters")

// patience bounds what a test waits for.
const patience = 30 * time.Second

// machine is a function with an echo device of two queues.
type machine struct {
	t       testing.TB
	mem     *memmap.Memory
	tr      *Transport
	signals chan int
	level   atomic.Bool
	routed  atomic.Uint64
	failed  atomic.Uint64
}

func (m *machine) Route(int, uint64, uint32) { m.routed.Add(1) }
func (m *machine) Signal(vector int) {
	select {
	case m.signals <- vector:
	default:
	}
}

func newMachine(t testing.TB, queues ...uint16) *machine {
	t.Helper()
	m := &machine{t: t, signals: make(chan int, 16)}
	var err error
	if m.mem, err = memmap.New(memmap.MinSize); err != nil {
		t.Fatal(err)
	}
	if m.tr, err = New(virtiotest.NewEcho(queues...), m.mem, Surroundings{
		Base: 0xd0000000, Moved: func(uint64, bool) {}, Messages: m, IRQ: 5, Line: m.level.Store, Failed: func(error) { m.failed.Add(1) },
	}); err != nil {
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

// get and put access n bytes of the window.
func (m *machine) get(off uint64, n int) uint64 {
	b := make([]byte, 8)
	m.tr.Read(off, b[:n])
	return le.Uint64(b)
}

func (m *machine) put(off uint64, n int, v uint64) { m.tr.Write(off, le.AppendUint64(nil, v)[:n]) }

const (
	testDesc, testAvail, testUsed, testData = 0x1000, 0x2000, 0x3000, 0x4000

	controlAt = 0x42 // MSI-X message control
)

// start drives the device to DRIVER_OK with queue 0, its vector 1 and the configuration's 2.
func (m *machine) start() {
	m.put(deviceStatus, 1, 0)
	m.put(deviceStatus, 1, 3)
	m.put(driverFeatureSelect, 4, 1)
	m.put(driverFeature, 4, 1)
	m.put(driverFeatureSelect, 4, 0)
	m.put(driverFeature, 4, 1<<28)
	m.put(deviceStatus, 1, 11)
	m.put(configMSIXVector, 2, 2)
	m.put(queueSelect, 2, 0)
	m.put(queueMSIXVector, 2, 1)
	m.put(queueDesc, 4, testDesc)
	m.put(queueDesc+4, 4, 0)
	m.put(queueDriver, 8, testAvail)
	m.put(queueDevice, 4, testUsed)
	m.put(queueEnable, 2, 1)
	m.put(deviceStatus, 1, 15)
}

// request makes one available and rings.
func (m *machine) request(n uint32) {
	for i, w := range []uint32{testData, 0, 4, 1 | 1<<16, testData + 4, 0, 4, 2} {
		m.mem.PutUint32(testDesc+4*uint64(i), w)
	}
	m.mem.PutUint32(testData, 0x11223344)
	m.mem.PutUint16(testAvail+4+2*uint64((n-1)%8), 0)
	m.mem.PutUint16(testAvail+2, uint16(n))
	m.put(NotifyOffset(0), 2, 0)
}

func (m *machine) signal(want int) {
	m.t.Helper()
	select {
	case v := <-m.signals:
		if v != want {
			m.t.Errorf("vector %d, want %d", v, want)
		}
	case <-time.After(patience):
		m.t.Fatal("no message")
	}
}

// TestCapabilities walks the list as a driver does (virtio 1.2, 4.1.4).
func TestCapabilities(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8, 4)
	defer m.close()
	space := make([]byte, 0x100)
	m.tr.Function().Read(0, space)
	if id := le.Uint32(space); id != 0x107f1af4 || space[8] == 0 || le.Uint16(space[0x2e:]) < 0x40 {
		t.Errorf("ID %#x, revision %d, subsystem %#x", id, space[8], le.Uint16(space[0x2e:]))
	}
	seen := map[byte]uint32{}
	for at := space[0x34]; at != 0; at = space[at+1] {
		c := space[at:]
		if c[0] != pci.CapVendor {
			continue
		}
		size := byte(16)
		if c[3] == capNotify || c[3] == capPCI {
			size = 20
		}
		if c[2] != size || c[4] != 0 {
			t.Errorf("structure %d: %d bytes, in window %d", c[3], c[2], c[4])
		}
		off, n := le.Uint32(c[8:]), le.Uint32(c[12:])
		if c[3] != capPCI && (off%4 != 0 || n == 0 || off+n > WindowSize) {
			t.Errorf("structure %d is %d bytes at %#x", c[3], n, off)
		}
		if c[3] == capNotify && (le.Uint32(c[16:]) != NotifyStep || n < 2*NotifyStep) {
			t.Errorf("notification step %d", le.Uint32(c[16:]))
		}
		seen[c[3]] = off
	}
	if len(seen) != 5 || seen[capCommon] != commonOff || seen[capDevice] != configOff {
		t.Errorf("structures %v", seen)
	}
}

func TestCommonConfiguration(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8, 4)
	defer m.close()
	if m.get(numQueues, 2) != 2 || m.get(deviceStatus, 1) != 0 || m.get(configMSIXVector, 2) != noVector || m.get(queueMSIXVector, 2) != noVector {
		t.Error("bad registers at reset")
	}
	m.put(deviceFeatureSelect, 4, 1)
	if m.get(deviceFeature, 4) != 1 || m.get(deviceFeatureSelect, 4) != 1 {
		t.Errorf("upper features %#x", m.get(deviceFeature, 4))
	}
	m.put(deviceFeatureSelect, 4, 7)
	if m.get(deviceFeature, 4) != 0 {
		t.Error("features behind the end")
	}
	for q, want := range []uint64{8, 4, 0} {
		m.put(queueSelect, 2, uint64(q))
		if got := m.get(queueSize, 2); got != want || m.get(queueSelect, 2) != uint64(q) {
			t.Errorf("queue %d has %d, want %d", q, got, want)
		}
		if off := m.get(queueNotifyOff, 2); want != 0 && off != uint64(q) {
			t.Errorf("queue %d notifies at %d", q, off)
		}
	}
	m.put(queueMSIXVector, 2, 1) // no such queue
	m.put(queueSelect, 2, 1)
	for write, want := range map[uint64]uint64{2: 2, 3: noVector, 0x7fff: noVector, 0: 0, noVector: noVector} {
		m.put(queueMSIXVector, 2, write)
		m.put(configMSIXVector, 2, write)
		if m.get(queueMSIXVector, 2) != want || m.get(configMSIXVector, 2) != want {
			t.Errorf("vector %#x reads back %#x and %#x", write, m.get(queueMSIXVector, 2), m.get(configMSIXVector, 2))
		}
	}
	m.put(queueSize, 2, 2)
	m.put(queueDesc, 8, 0x1_0000_2000)
	m.put(queueDevice+4, 4, 7)
	if m.get(queueSize, 2) != 2 || m.get(queueDesc, 8) != 0x1_0000_2000 || m.get(queueDesc+4, 4) != 1 || m.get(queueDevice, 8) != 7<<32 {
		t.Error("a queue's registers do not read back")
	}
	m.put(queueEnable, 2, 0)
	// Accesses that are not a field's do nothing.
	for _, a := range []struct {
		off uint64
		n   int
	}{{deviceStatus, 2}, {deviceStatus, 4}, {configGeneration, 1}, {numQueues, 2}, {queueDesc + 2, 4}, {queueDesc + 4, 8}, {queueDesc, 2}, {deviceFeature, 4}, {0x38, 4}, {0x3f, 1}} {
		m.put(a.off, a.n, 0xffffffffffffffff)
		if a.n == 8 || a.off == queueDesc+2 {
			if m.get(a.off, a.n) != 0 {
				t.Errorf("%d bytes at %#x read %#x", a.n, a.off, m.get(a.off, a.n))
			}
		}
	}
	if m.get(deviceStatus, 1) != 0 || m.get(numQueues, 2) != 2 || m.get(queueDesc, 8) != 0x1_0000_2000 {
		t.Error("an access that is no field's changed one")
	}
}

// TestMessages makes requests with MSI-X.
func TestMessages(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8, 4)
	defer m.close()
	m.tr.Function().Write(controlAt, []byte{0, 0x80})
	for v := range uint64(3) {
		m.put(tableOff+16*v+12, 4, 0)
	}
	m.start()
	m.request(1)
	m.signal(1)
	if got, _ := m.mem.Uint32(testData + 4); got != 0x11223344 || m.level.Load() || m.get(isrOff, 1) != 0 {
		t.Errorf("answer %#x, pin %v", got, m.level.Load())
	}
	before := m.get(configGeneration, 1)
	m.put(configOff, 4, 0xaabbccdd)
	m.signal(2)
	if m.get(isrOff, 1) != isrConfig || m.get(configOff, 4) != 0xaabbccdd || m.get(configGeneration, 1) == before {
		t.Error("a change of the configuration")
	}
	// A masked vector waits.
	m.put(tableOff+16+12, 4, 1)
	m.request(2)
	for end := time.Now().Add(patience); m.get(pendingOff, 8) != 2; {
		if time.Now().After(end) {
			t.Fatal("nothing is pending")
		}
	}
	m.put(tableOff+16+12, 4, 0)
	m.signal(1)
	if m.get(pendingOff, 8) != 0 {
		t.Error("still pending")
	}
	m.put(deviceStatus, 1, 0)
	if m.get(configMSIXVector, 2) != noVector || m.get(queueMSIXVector, 2) != noVector || m.get(queueEnable, 2) != 0 {
		t.Error("registers remember behind a reset")
	}
}

// TestPin makes requests without MSI-X.
func TestPin(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8)
	defer m.close()
	m.start()
	m.request(1)
	for end := time.Now().Add(patience); !m.level.Load(); {
		if time.Now().After(end) {
			t.Fatal("the pin is not asserted")
		}
	}
	if m.get(isrOff, 1) != isrQueue || m.level.Load() || m.get(isrOff, 1) != 0 {
		t.Error("reading the status does not release the pin")
	}
	m.put(configOff, 4, 1)
	if !m.level.Load() {
		t.Error("no interrupt for the configuration")
	}
	if m.put(deviceStatus, 1, 0); m.level.Load() || m.get(isrOff, 1) != 0 {
		t.Error("a reset does not release the pin")
	}
	if len(m.signals) != 0 {
		t.Error("a message")
	}
}

// TestAccess drives registers through the configuration space (virtio 1.2, 4.1.4.9).
func TestAccess(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8, 4)
	defer m.close()
	at := m.tr.access
	f := m.tr.Function()
	choose := func(bar byte, off, n uint32) {
		f.Write(at+accessBAR, []byte{bar})
		f.Write(at+accessOff, le.AppendUint32(nil, off))
		f.Write(at+accessLen, le.AppendUint32(nil, n))
	}
	choose(0, deviceStatus, 1)
	f.Write(at+accessData, []byte{3})
	if m.get(deviceStatus, 1) != 3 {
		t.Errorf("status %#x", m.get(deviceStatus, 1))
	}
	choose(0, numQueues, 2)
	b := make([]byte, 4)
	if f.Read(at+accessData, b); b[0] != 2 {
		t.Errorf("%d queues", b[0])
	}
	for _, bad := range [][3]uint32{{0, WindowSize, 4}, {0, 0xfffffffc, 4}, {0, 2, 4}, {0, 0, 3}, {0, 0, 0}, {0, 0, 8}, {1, numQueues, 2}} {
		choose(byte(bad[0]), bad[1], bad[2])
		f.Write(at+accessData, b)
		if f.Read(at+accessData, b); b[0]|b[1]|b[2]|b[3] != 0 {
			t.Errorf("%v reads % x", bad, b)
		}
	}
	choose(0, queueDesc, 4)
	f.Read(at+accessData, b[:2]) // fewer bytes than were chosen
}

func TestTooManyQueues(t *testing.T) {
	mem, err := memmap.New(memmap.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := New(virtiotest.NewEcho(make([]uint16, 1024)...), mem, Surroundings{}); err == nil {
		t.Error("1024 queues")
	}
}

func TestClasses(t *testing.T) {
	for kind, want := range map[uint32]uint32{virtio.TypeNet: 2, virtio.TypeBlock: 1, virtio.TypeConsole: 7, virtio.TypeVsock: 2, virtio.TypeEntropy: 0xff} {
		if got := class(kind) >> 16; got != want {
			t.Errorf("device type %d is of class %#x", kind, got)
		}
	}
}

// table is the function's MSI-X table.
type table struct{ tr *Transport }

func (x table) Read(off uint64, p []byte)  { x.tr.Read(tableOff+off, p) }
func (x table) Write(off uint64, p []byte) { x.tr.Write(tableOff+off, p) }

// TestStressRegisters writes window and configuration space by chance, rings and all.
func TestStressRegisters(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := newMachine(t, 8, 4)
	defer m.close()
	r := rand.New(rand.NewPCG(1, 2))
	starts, used := 0, 0
	const batch = 100
	for range *stress / batch {
		if r.IntN(2) == 0 {
			m.start()
			starts++
		}
		for i := range 8 * 4 {
			m.mem.PutUint32(testDesc+4*uint64(i), r.Uint32()>>r.IntN(32))
		}
		m.request(uint32(1 + r.IntN(9)))
		m.tr.Function().Write(controlAt, []byte{0, byte(r.Uint32())})
		virtiotest.Hammer(r, m.tr, WindowSize, 0x40, batch/4)
		virtiotest.Hammer(r, table{m.tr}, 64, 48, batch/4)
		virtiotest.Hammer(r, m.tr.Function(), 0x100, 0x100, batch/2)
		if idx, _ := m.mem.Uint16(testUsed + 2); idx != 0 {
			used++
			m.mem.PutUint16(testUsed+2, 0)
		}
	}
	t.Logf("%d operations: %d starts, %d batches with requests used, %d failures, %d routes", *stress, starts, used, m.failed.Load(), m.routed.Load())
	if used == 0 || m.failed.Load() == 0 || m.routed.Load() == 0 {
		t.Error("too little of it")
	}
}

func FuzzRegisters(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("\x14\x00\x03\x14\x00\x0b\x14\x00\x0f\x30\x00\x00\xff\x80\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMachine(t, 8, 4)
		defer m.close()
		m.start()
		m.request(1)
		virtiotest.HammerScript(data, m.tr, WindowSize, 0x40)
		virtiotest.HammerScript(data, m.tr.Function(), 0x100, 0x100)
	})
}
