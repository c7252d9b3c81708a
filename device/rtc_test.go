package device_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/device"
)

const gib = 1 << 30

// fakeClock is a host clock that stands still until it is moved.
type fakeClock struct{ t time.Time }

func (c *fakeClock) now() time.Time { return c.t }

func rtcPC(t testing.TB, at time.Time) (*pc, *device.RTC, *fakeClock) {
	clock := &fakeClock{at}
	r := device.NewRTC(clock.now, 3*gib, 5*gib)
	return newPC(t, r.Registrations(device.RTCIRQ)), r, clock
}

func (c *pc) cmos(addr byte) byte {
	c.out(0x70, addr)
	return c.in(0x71)
}

func (c *pc) setCMOS(addr, v byte) {
	c.out(0x70, addr)
	c.out(0x71, v)
}

func TestRTCTime(t *testing.T) {
	berlin := time.FixedZone("Berlin", 2*3600)
	for _, tc := range []struct {
		name string
		at   time.Time
		regB byte
		want [8]byte // sec min hour weekday day month year century
	}{
		{"BCD, 24 h", time.Date(2026, 7, 31, 23, 59, 58, 0, time.UTC), 0x02, [8]byte{0x58, 0x59, 0x23, 6, 0x31, 0x07, 0x26, 0x20}},
		{"binary, 24 h", time.Date(2026, 7, 31, 23, 59, 58, 0, time.UTC), 0x06, [8]byte{58, 59, 23, 6, 31, 7, 26, 20}},
		{"BCD, afternoon", time.Date(1999, 12, 5, 13, 0, 9, 0, time.UTC), 0x00, [8]byte{0x09, 0, 0x81, 1, 0x05, 0x12, 0x99, 0x19}},
		{"BCD, midnight", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), 0x00, [8]byte{0, 0, 0x12, 6, 1, 1, 0, 0x21}},
		{"binary, noon", time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), 0x04, [8]byte{0, 0, 0x8c, 5, 1, 1, 26, 20}},
		{"binary, one hour before noon", time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC), 0x04, [8]byte{0, 0, 11, 5, 1, 1, 26, 20}},
		{"a clock in another zone reads as UTC", time.Date(2026, 1, 1, 1, 0, 0, 0, berlin), 0x02, [8]byte{0, 0, 0x23, 4, 0x31, 0x12, 0x25, 0x20}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _, _ := rtcPC(t, tc.at)
			c.setCMOS(0x0b, tc.regB)
			var got [8]byte
			for i, addr := range []byte{0, 2, 4, 6, 7, 8, 9, 0x32} {
				got[i] = c.cmos(addr)
			}
			if got != tc.want {
				t.Errorf("clock registers % x, want % x", got, tc.want)
			}
			if c.cmos(0x80|9) != tc.want[6] {
				t.Error("the NMI bit of the index is taken as part of the address")
			}
		})
	}
}

// TestRTCSet sets the clock as Linux does (mc146818_set_time), in all four formats, and
// also without SET; the time must then go on from there.
func TestRTCSet(t *testing.T) {
	host := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	want := time.Date(2031, 12, 31, 12, 59, 50, 0, time.UTC)
	for _, b := range []byte{0x00, 0x02, 0x04, 0x06} {
		c, r, clock := rtcPC(t, host)
		c.setCMOS(0x0b, b)
		bcd := func(v int) byte {
			if b&0x04 != 0 {
				return byte(v)
			}
			return byte(v/10<<4 | v%10)
		}
		hour := bcd(12)
		if b&0x02 == 0 {
			hour |= 0x80 // 12 pm
		}
		c.setCMOS(0x0b, b|0x80)
		clock.t = clock.t.Add(700 * time.Millisecond) // the registers stand still
		for _, w := range [][2]byte{{9, bcd(31)}, {8, bcd(12)}, {7, bcd(31)}, {4, hour}, {2, bcd(59)}, {0, bcd(50)}, {0x32, bcd(20)}} {
			c.setCMOS(w[0], w[1])
		}
		if got := c.cmos(0); got != bcd(50) {
			t.Errorf("register B %#x: seconds read %#x while SET, want %#x", b, got, bcd(50))
		}
		c.setCMOS(0x0b, b)
		clock.t = clock.t.Add(15 * time.Second)
		if got := r.Save().Offset; got != int64(want.Sub(host.Truncate(time.Second))/time.Second) {
			t.Errorf("register B %#x: offset %d s", b, got)
		}
		end := want.Add(15 * time.Second)
		if s, m, d := c.cmos(0), c.cmos(2), c.cmos(7); s != bcd(end.Second()) || m != bcd(end.Minute()) || d != bcd(end.Day()) {
			t.Errorf("register B %#x: 15 s later sec %#x min %#x day %#x, want %v", b, s, m, d, end)
		}
		c.setCMOS(2, bcd(30)) // without SET
		if m := c.cmos(2); m != bcd(30) {
			t.Errorf("register B %#x: minutes %#x, want %#x", b, m, bcd(30))
		}
	}
}

// TestRTCUpdateInProgress reads the clock as Linux does (mc146818_avoid_UIP) at every
// phase of a second: the loop must end within three polls 100 us apart, and UIP must
// be seen by who waits for it.
func TestRTCUpdateInProgress(t *testing.T) {
	start := time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC)
	seen := false
	for phase := time.Duration(0); phase < time.Second; phase += 50 * time.Microsecond {
		c, _, clock := rtcPC(t, start.Add(phase))
		polls := 0
		for ; c.cmos(0x0a)&0x80 != 0; polls++ {
			clock.t = clock.t.Add(100 * time.Microsecond)
		}
		seen = seen || polls > 0
		if polls > 3 {
			t.Fatalf("phase %v: UIP stays set for %d polls", phase, polls)
		}
		before := clock.t.Unix()
		clock.t = clock.t.Add(240 * time.Microsecond)
		if clock.t.Unix() != before {
			t.Fatalf("phase %v: the second ended within 240 us of a clear UIP", phase)
		}
	}
	if !seen {
		t.Error("UIP is never set")
	}
	c, _, _ := rtcPC(t, start.Add(time.Second-time.Microsecond))
	c.setCMOS(0x0b, 0x82)
	if c.cmos(0x0a) != 0x26 {
		t.Error("UIP while SET holds the clock")
	}
}

func TestCMOSMemory(t *testing.T) {
	for _, tc := range []struct {
		name             string
		low, high        uint64
		base, ext        uint16 // KiB
		above16, above4G uint32 // 64 KiB
	}{
		{"512 KiB", 512 << 10, 0, 512, 0, 0, 0},
		{"32 MiB", 32 << 20, 0, 640, 31 << 10, 256, 0},
		{"3 GiB", 3 * gib, 0, 640, 0xffff, (3*gib - 16<<20) >> 16, 0},
		{"8 GiB", 3 * gib, 5 * gib, 640, 0xffff, (3*gib - 16<<20) >> 16, 5 * gib >> 16},
		{"more than the fields hold", 3 * gib, 1 << 60, 640, 0xffff, (3*gib - 16<<20) >> 16, 0xffffff},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newPC(t, device.NewRTC(nil, tc.low, tc.high).Registrations(-1))
			num := func(addr byte, n int) (v uint32) {
				for i := range n {
					v |= uint32(c.cmos(addr+byte(i))) << (8 * i)
				}
				return v
			}
			if got := num(0x15, 2); got != uint32(tc.base) {
				t.Errorf("base memory %d KiB, want %d", got, tc.base)
			}
			for _, addr := range []byte{0x17, 0x30} {
				if got := num(addr, 2); got != uint32(tc.ext) {
					t.Errorf("extended memory at %#x: %d KiB, want %d", addr, got, tc.ext)
				}
			}
			if got := num(0x34, 2); got != tc.above16 {
				t.Errorf("above 16 MiB: %#x, want %#x", got, tc.above16)
			}
			if got := num(0x5b, 3); got != tc.above4G {
				t.Errorf("above 4 GiB: %#x, want %#x", got, tc.above4G)
			}
			var sum uint16
			for addr := byte(0x10); addr <= 0x2d; addr++ {
				sum += uint16(c.cmos(addr))
			}
			if got := uint16(c.cmos(0x2e))<<8 | uint16(c.cmos(0x2f)); got != sum {
				t.Errorf("checksum %#x, want %#x", got, sum)
			}
		})
	}
}

func TestCMOSRegisters(t *testing.T) {
	c, _, _ := rtcPC(t, time.Unix(1e9, 0))
	c.want(0x70, 0xff, "the index is write-only")
	for _, r := range []struct{ addr, reset, write, read byte }{
		{0x01, 0x00, 0x59, 0x59}, // alarm
		{0x0a, 0x26, 0xff, 0x7f},
		{0x0b, 0x02, 0x06, 0x06},
		{0x0c, 0x00, 0xff, 0x00},
		{0x0d, 0x80, 0x00, 0x80},
		{0x0f, 0x00, 0x0a, 0x0a}, // shutdown status: Linux writes it to start a CPU
		{0x7f, 0x00, 0xc3, 0xc3},
	} {
		if got := c.cmos(r.addr); got != r.reset {
			t.Errorf("CMOS %#x after reset %#x, want %#x", r.addr, got, r.reset)
		}
		c.setCMOS(r.addr, r.write)
		if got := c.cmos(r.addr); got != r.read {
			t.Errorf("CMOS %#x after writing %#x: %#x, want %#x", r.addr, r.write, got, r.read)
		}
	}
	c.bus.Write(0x70, []byte{0x0f, 0x55}) // outw: index and data at once
	if got := c.cmos(0x0f); got != 0x55 {
		t.Errorf("a word write left %#x, want 0x55", got)
	}
}

func TestRTCSaveLoad(t *testing.T) {
	c, r, _ := rtcPC(t, time.Date(2026, 5, 5, 5, 5, 5, 0, time.UTC))
	c.setCMOS(9, 0x30)
	c.setCMOS(0x40, 0x99)
	c.setCMOS(0x0b, 0x82)
	c.out(0x70, 9)
	st := r.Save()
	c2, r2, _ := rtcPC(t, time.Date(2027, 5, 5, 5, 5, 5, 0, time.UTC))
	if err := r2.Load(st); err != nil {
		t.Fatal(err)
	}
	if again := r2.Save(); !reflect.DeepEqual(again, st) {
		t.Errorf("saved again %+v, want %+v", again, st)
	}
	c2.want(0x71, 0x30, "the frozen year, by the saved index")
	if err := r2.Load(device.RTCState{}); !errors.Is(err, device.ErrState) {
		t.Errorf("loading no CMOS: %v, want %v", err, device.ErrState)
	}
	st.Frozen[3] = -1
	if err := r2.Load(st); !errors.Is(err, device.ErrState) {
		t.Errorf("loading weekday -1: %v, want %v", err, device.ErrState)
	}
	if r2.Save().Frozen[3] == -1 {
		t.Error("a failed load changed the state")
	}
}
