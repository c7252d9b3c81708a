package device_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/qenex/qenex-kernel/device"
)

// Ports of COM1, with the names of the Linux driver.
const (
	uartRX  = device.SerialBase + 0
	uartTX  = device.SerialBase + 0
	uartIER = device.SerialBase + 1
	uartIIR = device.SerialBase + 2
	uartFCR = device.SerialBase + 2
	uartLCR = device.SerialBase + 3
	uartMCR = device.SerialBase + 4
	uartLSR = device.SerialBase + 5
	uartMSR = device.SerialBase + 6
	uartSCR = device.SerialBase + 7
)

// serialPC returns a machine with a serial port that writes to w.
func serialPC(t testing.TB, w io.Writer) (*pc, *device.Serial, *line) {
	irq := new(line)
	s := device.NewSerial(w, irq.set)
	return newPC(t, s.Registrations(device.SerialBase, device.SerialIRQ)), s, irq
}

func flush(t *testing.T, s *device.Serial) {
	t.Helper()
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestSerialRegisters(t *testing.T) {
	c, _, irq := serialPC(t, nil)
	for _, r := range []struct {
		port  uint64
		reset byte
		write byte
		read  byte
		name  string
	}{
		{uartIER, 0x00, 0xf0, 0x00, "IER: only four bits exist"},
		{uartLCR, 0x03, 0x1b, 0x1b, "LCR"},
		{uartMCR, 0x00, 0xeb, 0x0b, "MCR: only five bits exist"},
		{uartLSR, 0x60, 0x00, 0x60, "LSR"},
		{uartMSR, 0xb0, 0xff, 0xb0, "MSR: read-only"},
		{uartSCR, 0x00, 0x5a, 0x5a, "SCR"},
		{uartIIR, 0x01, 0x00, 0x01, "IIR without FIFOs"},
		{uartIIR, 0x01, 0x01, 0xc1, "IIR with FIFOs"},
		{uartIIR, 0xc1, 0xc0, 0x01, "FCR without its enable bit"},
	} {
		c.want(r.port, r.reset, r.name+", before")
		c.out(r.port, r.write)
		c.want(r.port, r.read, r.name+", after")
	}
	c.out(uartLCR, 0x80)
	c.want(uartRX, 1, "DLL after reset")
	c.want(uartIER, 0, "DLM after reset")
	c.out(uartRX, 0x34)
	c.out(uartIER, 0x12)
	c.want(uartRX, 0x34, "DLL")
	c.want(uartIER, 0x12, "DLM")
	c.out(uartLCR, 0x03)
	c.want(uartIER, 0, "IER behind DLM")
	if irq.edges != 0 {
		t.Errorf("%d interrupts with IER 0", irq.edges)
	}
}

// TestSerialLinuxAutodetect goes through the probes of the Linux 8250 driver
// (autoconfig, autoconfig_16550a, size_fifo, serial8250_do_startup), which must find a
// 16550A with a working THRE interrupt.
func TestSerialLinuxAutodetect(t *testing.T) {
	c, s, irq := serialPC(t, nil)

	c.out(uartIER, 0)
	c.want(uartIER, 0, "a UART is there")
	c.out(uartIER, 0x0f)
	c.want(uartIER, 0x0f, "... with four interrupt enables")
	c.out(uartIER, 0)

	c.out(uartMCR, 0x1a) // loop, OUT2, RTS
	if got := c.in(uartMSR) & 0xf0; got != 0x90 {
		t.Errorf("loopback gives MSR %#x, want 0x90", got)
	}
	c.out(uartMCR, 0)

	c.out(uartLCR, 0xbf)
	c.out(uartFCR, 0)
	c.out(uartLCR, 0)
	c.out(uartFCR, 0x01)
	if got := c.in(uartIIR) >> 6; got != 3 {
		t.Errorf("FIFO bits %d, want 3: a 16550A", got)
	}
	c.out(uartLCR, 0x80)
	if c.in(uartFCR) == 0 {
		t.Error("register 2 reads 0 under DLAB: taken for a 16650's EFR")
	}
	c.out(uartLCR, 0xbf)
	if c.in(uartFCR) == 0 {
		t.Error("register 2 reads 0 under LCR 0xbf: taken for a 16650V2's EFR")
	}
	for _, lcr := range []byte{0, 0x80} { // a 16750 shows bit 5 under DLAB
		c.out(uartLCR, lcr)
		c.out(uartFCR, 0x21)
		if got := c.in(uartIIR) >> 5; got != 6 {
			t.Errorf("IIR>>5 = %d under LCR %#x, want 6: taken for a 16750", got, lcr)
		}
		c.out(uartFCR, 0x01)
	}
	c.out(uartLCR, 0)
	c.out(uartIER, 0x40)
	c.want(uartIER, 0, "no XScale UUE bit")

	c.out(uartMCR, 0x10)
	for i := range 256 {
		c.out(uartTX, byte(i))
	}
	n := 0
	for ; c.in(uartLSR)&0x01 != 0 && n < 256; n++ {
		c.want(uartRX, byte(n), "FIFO in loopback")
	}
	if n != 16 {
		t.Errorf("the FIFO holds %d bytes, want 16", n)
	}
	c.out(uartMCR, 0x0b)
	c.in(uartMSR)

	*irq = line{}
	c.out(uartIER, 0x02)
	first := c.in(uartIIR)
	c.out(uartIER, 0)
	c.out(uartIER, 0x02)
	again := c.in(uartIIR)
	c.out(uartIER, 0)
	if first != 0xc2 || again != 0xc2 {
		t.Errorf("enabling THRI gives IIR %#x, and %#x the second time, want 0xc2: Linux falls back to a timer", first, again)
	}
	if irq.level || irq.edges != 2 {
		t.Errorf("line %v after %d edges, want low after 2", irq.level, irq.edges)
	}
	if s.Dropped() != 0 {
		t.Errorf("%d bytes dropped", s.Dropped())
	}
}

func TestSerialInterruptPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, irq := serialPC(t, io.Discard)
		c.out(uartFCR, 0x41) // trigger at 4
		c.out(uartMCR, 0x10)
		for range 17 {
			c.out(uartTX, 'x') // overrun
		}
		c.out(uartMCR, 0x14) // RI on ...
		c.out(uartMCR, 0x10) // ... and off: the trailing edge is a modem status change
		c.out(uartIER, 0x0f)
		if !irq.level {
			t.Error("the line is low with everything pending")
		}
		c.want(uartIIR, 0xc6, "line status first")
		c.want(uartIIR, 0xc6, "reading IIR does not clear it")
		c.want(uartLSR, 0x63, "LSR with data and overrun")
		c.want(uartLSR, 0x61, "overrun is cleared by reading")
		c.want(uartIIR, 0xc4, "then received data")
		for range 13 {
			c.in(uartRX)
		}
		c.want(uartIIR, 0xcc, "below the trigger level: character time-out")
		for range 3 {
			c.in(uartRX)
		}
		c.want(uartIIR, 0xc2, "then THR empty")
		c.want(uartIIR, 0xc0, "which reading IIR clears; then modem status")
		if got := c.in(uartMSR); got&0x0f != 0x0f {
			t.Errorf("MSR %#x, want all changes", got)
		}
		c.want(uartIIR, 0xc1, "nothing is left")
		if irq.level {
			t.Error("the line is high with nothing pending")
		}
		flush(t, s)
	})
}

// edgeDriver is a guest's interrupt handler behind an edge-triggered interrupt
// controller: it runs only when the line rises.
type edgeDriver struct {
	c    *pc
	irq  *line
	seen int // edges taken

	send    []byte
	got     []byte
	perEdge int // receive at most this many bytes in one interrupt, as drivers do
	useIIR  bool
}

// run takes interrupts until no edge is left.
func (d *edgeDriver) run() {
	for d.seen != d.irq.edges {
		d.seen = d.irq.edges
		budget := d.perEdge
		for {
			if d.useIIR && d.c.in(uartIIR)&0x01 != 0 {
				break
			}
			lsr := d.c.in(uartLSR)
			worked := false
			for ; lsr&0x01 != 0 && budget > 0; budget-- {
				d.got = append(d.got, d.c.in(uartRX))
				lsr = d.c.in(uartLSR)
				worked = true
			}
			if lsr&0x20 != 0 && d.c.in(uartIER)&0x02 != 0 {
				for range 16 {
					if len(d.send) == 0 {
						d.c.out(uartIER, 0x01)
						break
					}
					d.c.out(uartTX, d.send[0])
					d.send = d.send[1:]
					worked = true
				}
			}
			if !worked || budget == 0 || !d.useIIR {
				break
			}
		}
	}
}

// TestSerialEdges runs drivers that see only edges, and may leave their handler with
// work undone: no byte may get stuck.
func TestSerialEdges(t *testing.T) {
	for _, useIIR := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var w bytes.Buffer
			c, s, irq := serialPC(t, &w)
			text := bytes.Repeat([]byte("quantum "), 500)
			d := &edgeDriver{c: c, irq: irq, send: bytes.Clone(text), perEdge: 24, useIIR: useIIR}
			c.out(uartFCR, 0x81)
			c.out(uartMCR, 0x0b)
			c.out(uartIER, 0x03)
			in := text
			for len(in) > 0 {
				in = in[s.Feed(in[:min(100, len(in))]):]
				d.run()
			}
			d.run()
			flush(t, s)
			if !bytes.Equal(d.got, text) {
				t.Errorf("useIIR %v: received %d bytes of %d", useIIR, len(d.got), len(text))
			}
			if w.String() != string(text) {
				t.Errorf("useIIR %v: sent %d bytes of %d", useIIR, w.Len(), len(text))
			}
		})
	}
}

// TestSerialInputBackPressure sends more than all buffers hold to a guest that reads
// one byte at a time.
func TestSerialInputBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _ := serialPC(t, nil)
		c.out(uartFCR, 0x01)
		want := make([]byte, 20000)
		for i := range want {
			want[i] = byte(i * 7 / 3)
		}
		done := make(chan error, 1)
		go func() { done <- s.Input(t.Context(), iotest.HalfReader(bytes.NewReader(want))) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Input took all without a reader: %v", err)
		default:
		}
		c.out(uartIER, 0x01)
		var got []byte
		for len(got) < len(want) {
			if c.in(uartLSR)&0x01 == 0 {
				synctest.Wait() // let Input refill
				if c.in(uartLSR)&0x01 == 0 {
					t.Fatalf("input stalls after %d bytes", len(got))
				}
			}
			got = append(got, c.in(uartRX))
		}
		if !bytes.Equal(got, want) {
			t.Error("the guest read other bytes than were sent")
		}
		if err := <-done; err != nil {
			t.Errorf("Input: %v", err)
		}
		c.want(uartLSR, 0x60, "at the end")
	})
}

// TestSerialBacklogWraps goes round the backlog in steps that do not divide its size.
func TestSerialBacklogWraps(t *testing.T) {
	c, s, _ := serialPC(t, nil)
	c.out(uartFCR, 0x01)
	c.out(uartIER, 0x01)
	next := byte(0)
	for lap := range 10 {
		in := make([]byte, 3001)
		for i := range in {
			in[i] = next + byte(i%251)
		}
		if n := s.Feed(in); n != len(in) {
			t.Fatalf("lap %d: Feed took %d bytes of %d", lap, n, len(in))
		}
		for i := range in {
			if got := c.in(uartRX); got != in[i] {
				t.Fatalf("lap %d: byte %d is %#x, want %#x", lap, i, got, in[i])
			}
		}
		next += 13
	}
	if n := s.Feed(make([]byte, 10000)); n != 4096 {
		t.Errorf("Feed took %d bytes, want the backlog's 4096", n)
	}
}

func TestSerialInputStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, _ := serialPC(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Input(ctx, bytes.NewReader(make([]byte, 1<<20))) }()
		synctest.Wait() // it waits for the guest
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Input: %v, want %v", err, context.Canceled)
		}
		if err := s.Input(ctx, bytes.NewReader([]byte("x"))); !errors.Is(err, context.Canceled) {
			t.Errorf("Input with a dead context: %v, want %v", err, context.Canceled)
		}
		broken := errors.New("broken")
		_, s, _ = serialPC(t, nil)
		if err := s.Input(t.Context(), iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("Input: %v, want %v", err, broken)
		}
	})
}

// TestSerialEarlyInput types before the guest's driver is up: the driver's resets of
// the FIFO and its reading of registers at start-up must not eat the bytes.
func TestSerialEarlyInput(t *testing.T) {
	c, s, irq := serialPC(t, nil)
	if n := s.Feed([]byte("uname\n")); n != 6 {
		t.Fatalf("Feed took %d bytes, want 6", n)
	}
	for range 2 {
		for _, fcr := range []byte{0x01, 0x07, 0x00} {
			c.out(uartFCR, fcr)
		}
		for _, port := range []uint64{uartLSR, uartRX, uartIIR, uartMSR} {
			c.in(port)
		}
		for _, b := range []byte("[    0.000000] console output\r\n") {
			if c.in(uartLSR)&0x20 != 0 {
				c.out(uartTX, b)
			}
		}
	}
	c.out(uartFCR, 0x01)
	c.out(uartIER, 0x05)
	if !irq.level {
		t.Error("no interrupt for waiting input when the driver opens the port")
	}
	var got []byte
	for c.in(uartLSR)&0x01 != 0 {
		got = append(got, c.in(uartRX))
	}
	if string(got) != "uname\n" {
		t.Errorf("the guest read %q, want %q", got, "uname\n")
	}
}

// TestSerialPolledInput has a guest without interrupts wait for a byte.
func TestSerialPolledInput(t *testing.T) {
	c, s, irq := serialPC(t, nil)
	s.Feed([]byte("ab"))
	for _, want := range []byte("ab") {
		for range 10 {
			if c.in(uartLSR)&0x01 != 0 {
				break
			}
		}
		c.want(uartRX, want, "polled")
	}
	if irq.edges != 0 {
		t.Errorf("%d interrupts with IER 0", irq.edges)
	}
}

func TestSerialOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w bytes.Buffer
		c, s, _ := serialPC(t, &w)
		c.out(uartTX, 'h')
		synctest.Wait()
		if w.String() != "h" {
			t.Errorf("a lone byte gives %q at the writer, want %q", w.String(), "h")
		}
		c.out(uartLCR, 0x83)
		c.out(uartTX, 1) // DLL, not output
		c.out(uartLCR, 0x03)
		c.bus.Write(uartTX, []byte{'i'})
		flush(t, s)
		if w.String() != "hi" || s.Dropped() != 0 {
			t.Errorf("output %q, %d dropped, want %q and 0", w.String(), s.Dropped(), "hi")
		}
	})
}

// gate is a writer that blocks until it is opened, and counts.
type gate struct {
	open   chan struct{}
	writes atomic.Int64
	bytes  atomic.Int64
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.writes.Add(1)
	g.bytes.Add(int64(len(p)))
	return len(p), nil
}

// TestSerialBlockedWriter fills the output of a port whose writer hangs: the vCPU goes
// on, THRE tells the guest, the interrupt comes when there is room.
func TestSerialBlockedWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		c, s, irq := serialPC(t, g)
		c.out(uartFCR, 0x01)
		sent := int64(0)
		for ; c.in(uartLSR)&0x20 != 0; sent++ {
			c.out(uartTX, '.')
			if sent == 1 {
				synctest.Wait() // the first bytes are in the writer
			}
			if sent > 1<<20 {
				t.Fatal("THRE stays set over a blocked writer")
			}
		}
		for range 15 { // the rest of a FIFO burst still fits
			c.out(uartTX, '.')
			sent++
		}
		if s.Dropped() != 0 {
			t.Errorf("%d bytes dropped from a burst", s.Dropped())
		}
		c.out(uartIER, 0x02)
		if irq.level {
			t.Error("THRE interrupt without room")
		}
		for range 1000 {
			c.out(uartTX, '!')
		}
		if d := s.Dropped(); d < 900 || d > 1000 {
			t.Errorf("%d of 1000 bytes dropped that were written against THRE", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Flush(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Flush over a blocked writer: %v, want %v", err, context.Canceled)
		}
		st := s.Save()
		if !st.THRPending {
			t.Error("a full queue must save as an interrupt to come")
		}
		close(g.open)
		flush(t, s)
		if !irq.level {
			t.Error("no THRE interrupt when the writer came back")
		}
		c.want(uartIIR, 0xc2, "after the writer came back")
		if got := g.bytes.Load() + int64(s.Dropped()); got != sent+1000 {
			t.Errorf("%d bytes written or dropped, want %d", got, sent+1000)
		}
		if n := g.writes.Load(); n > 10 {
			t.Errorf("%d writes for what gathered behind a blocked one", n)
		}
	})
}

type failing struct{}

func (failing) Write(p []byte) (int, error) { return len(p) / 2, errors.New("disk full") }

func TestSerialFailingWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _ := serialPC(t, failing{})
		for range 10 {
			c.out(uartTX, 'x')
			flush(t, s)
		}
		if s.Dropped() != 10 {
			t.Errorf("%d bytes dropped, want 10", s.Dropped())
		}
		c.want(uartLSR, 0x60, "after errors")
	})
}

func TestSerialSaveLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, irq := serialPC(t, nil)
		c.out(uartLCR, 0x83)
		c.out(uartTX, 0x0c)
		c.out(uartLCR, 0x03)
		c.out(uartFCR, 0xc1)
		c.out(uartMCR, 0x0b)
		c.out(uartSCR, 0x77)
		c.out(uartIER, 0x03)
		s.Feed([]byte("0123456789abcdefghij"))
		c.want(uartRX, '0', "before")
		st := s.Save()

		c2, s2, irq2 := serialPC(t, nil)
		s2.Feed([]byte("stale"))
		if err := s2.Load(st); err != nil {
			t.Fatal(err)
		}
		if again := s2.Save(); !reflect.DeepEqual(again, st) {
			t.Errorf("saved again %+v, want %+v", again, st)
		}
		if !irq.level || !irq2.level {
			t.Errorf("lines %v, %v, want both high", irq.level, irq2.level)
		}
		for _, want := range []byte("123456789abcdefghij") {
			c.want(uartRX, want, "original")
			c2.want(uartRX, want, "copy")
		}
		for port := uint64(uartTX); port <= uartSCR; port++ {
			c2.want(port, c.in(port), "copy and original")
		}
		if irq.level != irq2.level {
			t.Errorf("lines differ: %v, %v", irq.level, irq2.level)
		}

		irq2.level = true // as after restoring the interrupt controller
		if err := s2.Load(device.SerialState{}); err != nil || irq2.level {
			t.Errorf("loading an idle state: %v, line %v, want it driven low", err, irq2.level)
		}
		for _, bad := range []device.SerialState{{FIFO: make([]byte, 17)}, {Backlog: make([]byte, 4097)}} {
			before := s2.Save()
			if err := s2.Load(bad); !errors.Is(err, device.ErrState) {
				t.Errorf("loading %d+%d bytes: %v, want %v", len(bad.FIFO), len(bad.Backlog), err, device.ErrState)
			}
			if !reflect.DeepEqual(s2.Save(), before) {
				t.Error("a failed load changed the state")
			}
		}
	})
}

// TestSerialSMP lets several vCPUs, a host that types and one that takes snapshots use
// one port; run with -race.
func TestSerialSMP(t *testing.T) {
	var level atomic.Bool
	var w bytes.Buffer // one goroutine at a time writes
	s := device.NewSerial(&w, func(l bool) {
		if level.Swap(l) == l {
			t.Error("the line was driven to the level it had")
		}
	})
	c := newPC(t, s.Registrations(device.SerialBase, device.SerialIRQ))
	const vcpus, each = 4, 2000
	var wg sync.WaitGroup
	for range vcpus {
		wg.Go(func() {
			for i := range each {
				c.out(uartTX, 'x')
				c.out(uartIER, byte(i)&0x0f)
				c.in(uartIIR)
				c.in(uartLSR)
				c.in(uartRX)
				c.in(uartMSR)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	typed := make(chan error, 1)
	go func() { typed <- s.Input(ctx, zeros{}) }()
	for range 100 {
		s.Save()
		s.Dropped()
	}
	wg.Wait()
	cancel()
	if err := <-typed; !errors.Is(err, context.Canceled) {
		t.Errorf("Input: %v", err)
	}
	flush(t, s)
	if got := w.Len() + int(s.Dropped()); got != vcpus*each {
		t.Errorf("%d bytes out, want %d", got, vcpus*each)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func BenchmarkSerialOutput(b *testing.B) {
	c, s, _ := serialPC(b, io.Discard)
	for b.Loop() {
		c.in(uartLSR)
		c.out(uartTX, 'x')
	}
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(s.Dropped())/float64(b.N), "dropped/op")
}
