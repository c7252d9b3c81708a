package device_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/qenex/qenex-kernel/device"
)

func TestI8042Reset(t *testing.T) {
	for _, tc := range []struct {
		name   string
		writes [][2]uint64 // port, value
		want   int
	}{
		{"pulse", [][2]uint64{{0x64, 0xfe}}, 1},
		{"pulse all lines", [][2]uint64{{0x64, 0xf0}}, 1},
		{"pulse no line", [][2]uint64{{0x64, 0xff}}, 0},
		{"output port, line low", [][2]uint64{{0x64, 0xd1}, {0x60, 0xde}}, 1},
		{"output port, A20 on", [][2]uint64{{0x64, 0xd1}, {0x60, 0xdf}}, 0},
		{"data that looks like a command", [][2]uint64{{0x60, 0xfe}}, 0},
		{"parameter of a command that was replaced", [][2]uint64{{0x64, 0xd1}, {0x64, 0xaa}, {0x60, 0xde}}, 0},
	} {
		resets := 0
		c := newPC(t, device.NewI8042(nil, func() { resets++ }).Registrations(-1))
		for _, w := range tc.writes {
			c.out(w[0], byte(w[1]))
		}
		if resets != tc.want {
			t.Errorf("%s: %d resets, want %d", tc.name, resets, tc.want)
		}
	}
}

// TestI8042Probe asks what Linux asks (i8042_controller_check and what follows): all is
// answered at once, and there is neither keyboard nor mouse.
func TestI8042Probe(t *testing.T) {
	irq := new(line)
	c := newPC(t, device.NewI8042(irq.set, nil).Registrations(device.I8042IRQ))
	c.want(0x64, 0x14, "idle: nothing to read, nothing in the way, passed self test, not locked")
	for _, q := range []struct {
		name    string
		command byte
		param   int // -1: none
		status  byte
		data    byte
	}{
		{"self test", 0xaa, -1, 0x1d, 0x55},
		{"read the command byte", 0x20, -1, 0x1d, 0x30},
		{"test the keyboard port", 0xab, -1, 0x1d, 0x00},
		{"test the mouse port", 0xa9, -1, 0x1d, 0x01},
		{"mouse loopback", 0xd3, 0x5a, 0x75, 0xfe},
		{"send to the mouse", 0xd4, 0xf2, 0x75, 0xfe},
		{"keyboard loopback", 0xd2, 0x5a, 0x15, 0x5a},
		{"input port", 0xc0, -1, 0x1d, 0x80},
		{"output port", 0xd0, -1, 0x1d, 0x03},
	} {
		c.out(0x64, q.command)
		if q.param >= 0 {
			c.out(0x60, byte(q.param))
		}
		c.want(0x64, q.status, q.name)
		c.want(0x60, q.data, q.name)
		if c.in(0x64)&0x61 != 0 {
			t.Errorf("%s: the answer is still there after it was read", q.name)
		}
	}
	for _, w := range []struct{ command, want byte }{{0xae, 0x20}, {0xa8, 0x00}, {0xad, 0x10}, {0xa7, 0x30}} {
		c.out(0x64, w.command)
		c.out(0x64, 0x20)
		c.want(0x60, w.want, "command byte after enabling or disabling a port")
	}
	if irq.edges != 0 {
		t.Errorf("%d interrupts before they were enabled", irq.edges)
	}
	c.out(0x64, 0x60)
	c.out(0x60, 0x41) // command byte: keyboard interrupt, translation
	c.out(0x60, 0xf2) // to the keyboard: identify
	if !irq.level {
		t.Error("no interrupt for a keyboard's time-out")
	}
	c.want(0x64, 0x55, "time-out of the keyboard")
	c.want(0x60, 0xfe, "answer for the keyboard")
	if irq.level {
		t.Error("the line stays high after the byte was read")
	}
}

func TestI8042SaveLoad(t *testing.T) {
	irq := new(line)
	k := device.NewI8042(nil, nil)
	c := newPC(t, k.Registrations(-1))
	c.out(0x64, 0x65)
	c.out(0x60, 0x99)
	c.out(0x64, 0x60)
	c.out(0x60, 0x01)
	c.out(0x60, 0xf2)
	c.out(0x64, 0x66) // awaits a parameter
	k2 := device.NewI8042(irq.set, nil)
	k2.Load(k.Save())
	if k2.Save() != k.Save() {
		t.Errorf("saved again %+v, want %+v", k2.Save(), k.Save())
	}
	if !irq.level {
		t.Error("the line is low after loading a full output buffer")
	}
	c2 := newPC(t, k2.Registrations(-1))
	c2.want(0x60, 0xfe, "loaded output buffer")
	c2.out(0x60, 0x77)
	c2.out(0x64, 0x26)
	c2.want(0x60, 0x77, "the parameter that was awaited")
	c2.out(0x64, 0x25)
	c2.want(0x60, 0x99, "loaded RAM")
}

func TestPortA(t *testing.T) {
	resets := 0
	a := device.NewPortA(func() { resets++ })
	c := newPC(t, a.Registrations())
	c.want(0x92, 0x02, "A20 is on")
	for _, w := range []struct {
		v    byte
		want int
	}{{0x00, 0}, {0x02, 0}, {0x03, 1}, {0x03, 1}, {0x02, 1}, {0x01, 2}} {
		c.out(0x92, w.v)
		c.want(0x92, w.v, "as written")
		if resets != w.want {
			t.Errorf("after %#x: %d resets, want %d", w.v, resets, w.want)
		}
	}
	a.Load(0x00)
	a.Load(0x01)
	if resets != 2 || a.Save() != 0x01 {
		t.Errorf("loading: %d resets, value %#x, want 2 and 0x01", resets, a.Save())
	}
}

func TestPortB(t *testing.T) {
	c := newPC(t, device.NewPortB().Registrations())
	c.out(0x61, 0xff)
	a, b := c.in(0x61), c.in(0x61)
	if a^b != 0x10 {
		t.Errorf("reads %#x, then %#x: want the refresh bit, and only it, to toggle", a, b)
	}
	if a&^0x10 != 0x2f {
		t.Errorf("reads %#x, want channel 2's output and the low four bits", a)
	}
}

func TestResetControl(t *testing.T) {
	for _, tc := range []struct {
		name   string
		addr   uint64
		writes [][]byte
		want   int
	}{
		{"Linux's warm reset", 0xcf9, [][]byte{{0x02}, {0x06}}, 1},
		{"Linux's cold reset", 0xcf9, [][]byte{{0x0a}, {0x0e}}, 1},
		{"no edge", 0xcf9, [][]byte{{0x06}, {0x06}}, 1},
		{"two edges", 0xcf9, [][]byte{{0x06}, {0x02}, {0x06}}, 2},
		{"kind only", 0xcf9, [][]byte{{0x02}, {0x0a}}, 0},
		{"PCI address of function 6", 0xcf8, [][]byte{{0x00, 0x06, 0x00, 0x80}}, 0},
		{"word", 0xcf9, [][]byte{{0x06, 0x00}}, 0},
		{"neighbour", 0xcfa, [][]byte{{0x06}}, 0},
	} {
		resets := 0
		c := newPC(t, device.NewResetControl(func() { resets++ }).Registrations())
		for _, w := range tc.writes {
			c.bus.Write(tc.addr, w)
		}
		if resets != tc.want {
			t.Errorf("%s: %d resets, want %d", tc.name, resets, tc.want)
		}
		var p [4]byte
		if c.bus.Read(0xcf8, p[:]); p != [4]byte{0xff, 0xff, 0xff, 0xff} {
			t.Errorf("%s: a PCI address register answers % x", tc.name, p)
		}
		if got := c.in(0xcf9); got&^0x0e != 0 {
			t.Errorf("%s: 0xcf9 reads %#x", tc.name, got)
		}
	}
}

func TestPVPanic(t *testing.T) {
	var got []byte
	c := newPC(t, device.NewPVPanic(func(e byte) { got = append(got, e) }).Registrations())
	c.want(0x505, 0x03, "supported events")
	for _, v := range []byte{0x00, 0x04, 0x01, 0x02, 0xff} {
		c.out(0x505, v)
	}
	if !bytes.Equal(got, []byte{1, 2, 3}) {
		t.Errorf("events % x, want 01 02 03", got)
	}
}

func TestACPIPM(t *testing.T) {
	for _, tc := range []struct {
		name       string
		addr       uint64
		write      []byte
		off, reset int
	}{
		{"S5", 0x600, []byte{0x34}, 1, 0},
		{"S5 without SLP_EN", 0x600, []byte{0x14}, 0, 0},
		{"S3", 0x600, []byte{0x2c}, 0, 0},
		{"S5 with reserved bits", 0x600, []byte{0xf7}, 1, 0},
		{"wake status", 0x601, []byte{0xff}, 0, 0},
		{"reset", 0x602, []byte{0x01}, 0, 1},
		{"reset with 0", 0x602, []byte{0x00}, 0, 0},
		{"dword with neither", 0x600, []byte{0, 0, 0, 1}, 0, 0},
	} {
		off, reset := 0, 0
		c := newPC(t, device.NewACPIPM(func() { off++ }, func() { reset++ }).Registrations())
		c.bus.Write(tc.addr, tc.write)
		if off != tc.off || reset != tc.reset {
			t.Errorf("%s: %d power-offs, %d resets, want %d, %d", tc.name, off, reset, tc.off, tc.reset)
		}
		for port := uint64(0x600); port <= 0x602; port++ {
			c.want(port, 0, tc.name)
		}
	}
}

func TestDebugPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w bytes.Buffer
		var marks []byte
		post, con := device.NewPOST(), device.NewDebugcon(&w)
		c := newPC(t, post.Registrations(), con.Registrations(),
			device.NewMilestones(func(code byte) { marks = append(marks, code) }).Registrations())
		c.out(0x80, 0xaa)
		if post.Last() != 0xaa {
			t.Errorf("POST code %#x, want 0xaa", post.Last())
		}
		c.want(0x80, 0xaa, "POST")
		c.want(0xe9, 0xe9, "debugcon is there")
		for _, b := range []byte("debug") {
			c.out(0xe9, b)
		}
		if err := con.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		if w.String() != "debug" || con.Dropped() != 0 {
			t.Errorf("debugcon wrote %q and dropped %d, want %q and 0", w.String(), con.Dropped(), "debug")
		}
		c.out(device.MilestoneBase, 1)
		c.out(device.MilestoneBase, 2)
		c.want(device.MilestoneBase, 0xff, "the milestone port is write-only")
		if !bytes.Equal(marks, []byte{1, 2}) {
			t.Errorf("milestones % x, want 01 02", marks)
		}
	})
}

// TestNilCallbacks writes every value to every port of a machine whose callbacks and
// writers are all nil.
func TestNilCallbacks(t *testing.T) {
	c := newPC(t,
		device.NewSerial(nil, nil).Registrations(device.SerialBase, device.SerialIRQ),
		device.NewRTC(nil, 0, 0).Registrations(-1), device.NewI8042(nil, nil).Registrations(-1),
		device.NewPortA(nil).Registrations(), device.NewPortB().Registrations(), device.NewResetControl(nil).Registrations(),
		device.NewPVPanic(nil).Registrations(), device.NewACPIPM(nil, nil).Registrations(),
		device.NewPOST().Registrations(), device.NewDebugcon(nil).Registrations(), device.NewMilestones(nil).Registrations())
	ports := 0
	for _, e := range c.bus.List() {
		for port := e.Base; port < e.Base+e.Size; port++ {
			for v := range 256 {
				c.out(port, byte(v))
				c.in(port)
			}
			ports++
		}
	}
	if r, w := c.bus.Unclaimed(); ports != 25 || r+w != 0 {
		t.Errorf("%d ports claimed, %d accesses unclaimed, want 25 and 0", ports, r+w)
	}
}
