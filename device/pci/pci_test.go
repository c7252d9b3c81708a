package pci

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/qenex/qenex-kernel/device"
)

// chipset stands for the reset control register.
type chipset struct{ log []string }

func (c *chipset) Read(off uint64, p []byte) {
	c.log = append(c.log, fmt.Sprintf("read %d+%d", off, len(p)))
	clear(p)
}

func (c *chipset) Write(off uint64, p []byte) {
	c.log = append(c.log, fmt.Sprintf("write %d+%d", off, len(p)))
}

// host is a bus on its ports.
type host struct {
	t     *testing.T
	ports *device.Bus
	bus   *Bus
	rest  *chipset
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, ports: device.NewPortBus(), rest: new(chipset)}
	h.bus = NewBus(h.rest)
	if err := h.ports.Register(h.bus.Registrations()...); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) read(address uint32, at uint64, n int) uint64 {
	h.ports.Write(0xcf8, le.AppendUint32(nil, address))
	var b [8]byte
	h.ports.Read(0xcfc+at, b[:n])
	return le.Uint64(b[:])
}

func (h *host) write(address uint32, v uint32) {
	h.ports.Write(0xcf8, le.AppendUint32(nil, address))
	h.ports.Write(0xcfc, le.AppendUint32(nil, v))
}

const slot3 = 1<<31 | 3<<11

func TestAddressing(t *testing.T) {
	h := newHost(t)
	f := NewFunction(Identity{Vendor: 0x1234, Device: 0x5678, SubVendor: 0x9abc, SubDevice: 0xdef0, Class: 0x020304, Revision: 5})
	if err := h.bus.Add(3, f); err != nil {
		t.Fatal(err)
	}
	for _, slot := range []int{-1, 0, 3, 32} {
		if h.bus.Add(slot, f) == nil {
			t.Errorf("a second function in slot %d", slot)
		}
	}
	for _, tt := range []struct {
		address uint32
		at      uint64
		n       int
		want    uint64
	}{
		{slot3, 0, 4, 0x56781234},
		{slot3 | 3, 0, 4, 0x56781234}, // bits 0 and 1 are none
		{slot3, 2, 2, 0x5678},
		{slot3, 1, 1, 0x12},
		{slot3 | 8, 0, 4, 0x02030405},
		{slot3 | 0x2c, 0, 4, 0xdef09abc},
		{slot3 | 0x0c, 0, 4, 0},
		{slot3 | 0xfc, 0, 4, 0},
		{1 << 31, 0, 4, 0x0d578086},
		{1<<31 | 8, 0, 4, 0x06000000},          // a host bridge
		{slot3 &^ (1 << 31), 0, 4, 0xffffffff}, // not enabled
		{slot3 | 1<<8, 0, 4, 0xffffffff},       // function 1
		{slot3 | 1<<16, 0, 4, 0xffffffff},      // bus 1
		{1<<31 | 4<<11, 0, 2, 0xffff},          // empty slot
	} {
		if got := h.read(tt.address, tt.at, tt.n); got != tt.want {
			t.Errorf("address %#x, data port %d, %d bytes: %#x, want %#x", tt.address, tt.at, tt.n, got, tt.want)
		}
	}
	var b [4]byte
	if h.ports.Read(0xcf8, b[:]); le.Uint32(b[:]) != 1<<31|4<<11 {
		t.Errorf("the address register reads %#x", b)
	}
	// What is read-only stays.
	for reg := uint32(0); reg < 0x100; reg += 4 {
		if reg != 4 {
			before := h.read(slot3|reg, 0, 4)
			if h.write(slot3|reg, ^uint32(before)); h.read(slot3|reg, 0, 4) != before {
				t.Errorf("register %#x was written", reg)
			}
		}
	}
	// Accesses of the address register's ports that are not its own go on.
	h.ports.Write(0xcf9, []byte{6})
	h.ports.Write(0xcf8, []byte{1, 2})
	h.ports.Write(0xcfa, []byte{1, 2, 3, 4})
	h.ports.Read(0xcfb, b[:1])
	if want := []string{"write 1+1", "write 0+2", "write 2+2", "read 3+1"}; !slices.Equal(h.rest.log, want) {
		t.Errorf("the chipset saw %v, want %v", h.rest.log, want)
	}
}

func TestWindow(t *testing.T) {
	var log []string
	f := NewFunction(Identity{})
	f.Window(0xd0000000, 0x10000, func(base uint64, on bool) { log = append(log, fmt.Sprintf("%#x %v", base, on)) })
	put := func(reg uint64, v uint32) { f.Write(reg, le.AppendUint32(nil, v)) }
	get := func(reg uint64) uint32 {
		var b [4]byte
		f.Read(reg, b[:])
		return le.Uint32(b[:])
	}
	if get(4) != 2 || get(0x10) != 0xd0000000 {
		t.Errorf("command %#x, base %#x", get(4), get(0x10))
	}
	put(4, 0)
	put(0x10, 0xffffffff)
	if get(0x10) != 0xffff0000 {
		t.Errorf("size %#x", get(0x10))
	}
	put(0x14, 0xffffffff)
	if get(0x14) != 0 {
		t.Error("a second window")
	}
	put(0x10, 0xd0000000)
	put(4, 6)
	put(4, 0xffffffff)
	if get(4) != 6 {
		t.Errorf("command %#x", get(4))
	}
	put(0x10, 0xd0010001)
	f.Write(0x13, []byte{0xd1})
	if want := []string{"0xd0000000 false", "0xd0000000 true", "0xd0010000 true", "0xd1010000 true"}; !slices.Equal(log, want) {
		t.Errorf("%v, want %v", log, want)
	}
	f.Write(0xfd, make([]byte, 4))
	f.Write(1<<40, make([]byte, 4))
	b := []byte{1, 1, 1, 1}
	if f.Read(0xfd, b); !bytes.Equal(b, make([]byte, 4)) {
		t.Errorf("behind the end: % x", b)
	}
}

func TestLine(t *testing.T) {
	var log []bool
	f := NewFunction(Identity{})
	f.Line(11, func(level bool) { log = append(log, level) })
	pin := make([]byte, 2)
	if f.Read(0x3c, pin); pin[0] != 11 || pin[1] != 1 {
		t.Errorf("line %d, pin %d", pin[0], pin[1])
	}
	status := func() byte {
		b := make([]byte, 4)
		f.Read(4, b)
		return b[2] & statusINTx
	}
	f.SetLine(true)
	f.SetLine(true)
	if status() == 0 {
		t.Error("no interrupt in the status")
	}
	f.Write(5, []byte{4}) // disabled
	f.Write(5, []byte{0})
	f.SetLine(false)
	if want := []bool{true, false, true, false}; !slices.Equal(log, want) || status() != 0 {
		t.Errorf("%v, want %v", log, want)
	}
}

func TestCapabilities(t *testing.T) {
	f := NewFunction(Identity{})
	var writes []uint64
	a, err := f.Capability(CapVendor, []byte{1, 2, 3}, []byte{0, 0xf0}, nil, func(off uint64, p []byte) { writes = append(writes, off) })
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Capability(CapMSIX, make([]byte, 10), nil, func(off uint64, p []byte) { p[0] = byte(off) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, 0x100)
	f.Read(0, all)
	if all[6]&statusCaps == 0 || all[0x34] != byte(a) || all[a] != CapVendor || all[a+1] != byte(b) || all[b] != CapMSIX || all[b+1] != 0 || b%4 != 0 || !bytes.Equal(all[a+2:a+5], []byte{1, 2, 3}) {
		t.Errorf("list at %#x: %#x, %#x; % x", all[0x34], a, b, all[0x34:0x60])
	}
	f.Write(a+2, []byte{0xff, 0xff, 0xff})
	one := make([]byte, 3)
	if f.Read(a+2, one); !bytes.Equal(one, []byte{1, 0xf2, 3}) || !slices.Equal(writes, []uint64{2}) {
		t.Errorf("% x, writes %v", one, writes)
	}
	if f.Read(b+4, one[:1]); one[0] != 4 {
		t.Errorf("a read that is answered gives %d", one[0])
	}
	for err == nil {
		_, err = f.Capability(CapVendor, make([]byte, 60), nil, nil, nil)
	}
}

// messages keeps what MSI-X does.
type messages struct{ log []string }

func (m *messages) Route(v int, address uint64, data uint32) {
	m.log = append(m.log, fmt.Sprintf("route %d %#x %#x", v, address, data))
}
func (m *messages) Signal(v int) { m.log = append(m.log, fmt.Sprintf("signal %d", v)) }

func TestMSIX(t *testing.T) {
	f := NewFunction(Identity{})
	to := new(messages)
	m, err := NewMSIX(f, 3, 0x8000, 0xc000, to)
	if err != nil {
		t.Fatal(err)
	}
	control := func(v uint16) { f.Write(0x42, le.AppendUint16(nil, v)) }
	entry := func(i uint64, lo, data, mask uint32) {
		for k, w := range []uint32{lo, 0xff, data, mask} {
			m.WriteTable(16*i+4*uint64(k), le.AppendUint32(nil, w))
		}
	}
	pending := func() byte {
		b := []byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
		m.ReadPending(0, b)
		if !bytes.Equal(b[1:], make([]byte, 7)) {
			t.Errorf("pending bits % x", b)
		}
		return b[0]
	}
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(to.log, want) {
			t.Errorf("%q, want %q", to.log, want)
		}
		to.log = nil
	}
	header := make([]byte, 12)
	if f.Read(0x40, header); !bytes.Equal(header, []byte{0x11, 0, 2, 0, 0, 0x80, 0, 0, 0, 0xc0, 0, 0}) {
		t.Errorf("capability % x", header)
	}
	entry(1, 0xfee00000, 0x41, 0)
	m.Raise(1)
	m.Raise(2)
	m.Raise(-1)
	m.Raise(3)
	expect() // not enabled
	if m.Enabled() || pending() != 6 {
		t.Errorf("enabled %v, pending %#x", m.Enabled(), pending())
	}
	control(controlEnable | controlMask)
	expect() // all masked
	control(controlEnable | 0x3ff)
	expect("route 1 0xfffee00000 0x41", "signal 1")
	if !m.Enabled() || pending() != 4 {
		t.Errorf("enabled %v, pending %#x", m.Enabled(), pending())
	}
	entry(2, 0xfee01000, 0x42, 0)
	expect("route 2 0xfffee01000 0x42", "signal 2")
	m.Raise(1)
	expect("signal 1")
	entry(1, 0xfee00000, 0x41, 1)
	m.Raise(1)
	m.Raise(1)
	expect()
	entry(1, 0xfee00000, 0x51, 0) // was masked by the fourth word, which is written last
	expect("route 1 0xfffee00000 0x51", "signal 1")
	b := make([]byte, 8)
	if m.ReadTable(16+8, b); le.Uint64(b) != 0x51 {
		t.Errorf("table % x", b)
	}
	m.WriteTable(28, []byte{0xff, 0xff, 0xff, 0xff})
	if m.ReadTable(28, b[:4]); le.Uint32(b) != 1 {
		t.Errorf("vector control % x", b[:4])
	}
	// What is no entry's, or no good access.
	for _, off := range []uint64{48, 0x3ff8, 1 << 40, ^uint64(7)} {
		m.WriteTable(off, b)
		m.ReadPending(off, b)
		if m.ReadTable(off, b); le.Uint64(b) != 0 {
			t.Errorf("table at %#x: % x", off, b)
		}
	}
	m.WriteTable(1, b[:1])
	m.WriteTable(20, b)
	expect()
	control(0)
	if m.Raise(0); m.Enabled() || pending() != 1 {
		t.Errorf("enabled %v, pending %#x", m.Enabled(), pending())
	}
}

// TestConcurrent has vCPUs and a device at a function together; -race looks on.
func TestConcurrent(t *testing.T) {
	f := NewFunction(Identity{})
	f.Window(0xd0000000, 0x1000, func(uint64, bool) {})
	levels := 0
	f.Line(5, func(level bool) {
		if level {
			levels++
		} else {
			levels--
		}
		if levels < 0 || levels > 1 {
			t.Errorf("level %d", levels)
		}
	})
	m, err := NewMSIX(f, 4, 0, 0x800, new(messages))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(k)))
			for range 2000 {
				b := le.AppendUint64(nil, r.Uint64())[:1<<r.IntN(4)]
				switch r.IntN(5) {
				case 0:
					f.Write(r.Uint64N(0x100), b)
				case 1:
					f.Read(r.Uint64N(0x100), b)
				case 2:
					m.WriteTable(r.Uint64N(0x50), b)
				case 3:
					m.Raise(r.IntN(5))
				case 4:
					f.SetLine(r.IntN(2) == 0)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzConfig makes accesses to the ports by what data says: an offset and a length, then the bytes to be written or, with the upper bit
// of the length, a read.
func FuzzConfig(f *testing.F) {
	f.Add([]byte{0, 4, 0, 0x18, 0, 0x80, 4, 0x84})
	f.Add([]byte{0, 4, 0x10, 0x18, 0, 0x80, 4, 4, 0xff, 0xff, 0xff, 0xff, 7, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		ports := device.NewPortBus()
		bus := NewBus(new(chipset))
		fn := NewFunction(Identity{Vendor: 1})
		fn.Window(0xd0000000, 0x1000, func(base uint64, on bool) {
			if base%0x1000 != 0 {
				t.Errorf("window at %#x", base)
			}
		})
		if _, err := NewMSIX(fn, 2, 0, 0x800, new(messages)); err != nil {
			t.Fatal(err)
		}
		if err := bus.Add(3, fn); err != nil {
			t.Fatal(err)
		}
		if err := ports.Register(bus.Registrations()...); err != nil {
			t.Fatal(err)
		}
		for len(data) >= 2 {
			off, n := uint64(data[0]%8), int(data[1]&7)+1
			read := data[1]&0x80 != 0
			p := make([]byte, n)
			data = data[2:]
			if read {
				ports.Read(0xcf8+off, p)
				continue
			}
			data = data[copy(p, data):]
			ports.Write(0xcf8+off, p)
		}
		if fn.word(0) != 1 {
			t.Errorf("the vendor is %#x", fn.word(0))
		}
	})
}
