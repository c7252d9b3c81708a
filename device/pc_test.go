package device_test

import (
	"testing"

	"github.com/qenex/qenex-kernel/device"
)

// pc is a port bus as a guest sees it.
type pc struct {
	t   testing.TB
	bus *device.Bus
}

func newPC(t testing.TB, regs ...[]device.Registration) *pc {
	t.Helper()
	c := &pc{t, device.NewPortBus()}
	for _, r := range regs {
		if err := c.bus.Register(r...); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *pc) in(port uint64) byte {
	p := [1]byte{0xa5}
	c.bus.Read(port, p[:])
	return p[0]
}

func (c *pc) out(port uint64, v byte) { c.bus.Write(port, []byte{v}) }

// want reads a port and compares.
func (c *pc) want(port uint64, v byte, what string) {
	c.t.Helper()
	if got := c.in(port); got != v {
		c.t.Errorf("%s: port %#x reads %#02x, want %#02x", what, port, got, v)
	}
}

// line is an interrupt line that remembers its level and counts rising edges.
type line struct {
	level bool
	edges int
}

func (l *line) set(level bool) {
	if level && !l.level {
		l.edges++
	}
	l.level = level
}
