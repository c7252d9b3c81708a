package device_test

import (
	"context"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/device"
)

// machine is one of every device on a bus.
type machine struct {
	*pc
	serial *device.Serial
	rtc    *device.RTC
	kbd    *device.I8042
	con    *device.Debugcon

	callbacks atomic.Int64
	clock     atomic.Int64 // nanoseconds; the host's clock
}

func newMachine(t testing.TB) *machine {
	m := new(machine)
	called := func() { m.callbacks.Add(1) }
	code := func(byte) { called() }
	level := func(bool) { called() }
	m.serial = device.NewSerial(io.Discard, level)
	m.rtc = device.NewRTC(func() time.Time { return time.Unix(0, m.clock.Add(12345678)) }, 3*gib, gib)
	m.kbd = device.NewI8042(level, called)
	m.con = device.NewDebugcon(io.Discard)
	m.pc = newPC(t,
		m.serial.Registrations(device.SerialBase, device.SerialIRQ), m.rtc.Registrations(device.RTCIRQ),
		m.kbd.Registrations(device.I8042IRQ), m.con.Registrations(),
		device.NewPortA(called).Registrations(), device.NewPortB().Registrations(), device.NewResetControl(called).Registrations(),
		device.NewPVPanic(code).Registrations(), device.NewACPIPM(called, called).Registrations(),
		device.NewPOST().Registrations(), device.NewMilestones(code).Registrations())
	return m
}

// fuzzBases are where accesses of the fuzz target begin; the offset is 0 to 15.
var fuzzBases = [16]uint64{0x3f8, 0x3f0, 0x70, 0x60, 0x80, 0x92, 0xe9, 0x505, 0x5f0, 0x600, 0xcf8, 0xfff8, 0, 0x3f8, 0x3f8, 0x70}

// FuzzDevices lets a guest make any sequence of accesses, with input and snapshots in
// between. Four bytes are one operation: what and how wide, where, two of value.
// Nothing may panic, buffers stay bounded, and a state that was saved loads unchanged.
func FuzzDevices(f *testing.F) {
	f.Add([]byte("\x10\x01\x07\x00\x10\x02\x81\x00\x03\x00\xff\x00\x00\x00\x00\x00"))         // serial: IER, FCR, input, RBR
	f.Add([]byte("\x10\x04\x10\x00\x18\x00ab\x18\x00cd\x10\x01\x0f\x00\x00\x02\x00\x00"))     // serial: loopback
	f.Add([]byte("\x10\x20\x0b\x00\x10\x21\x82\x00\x10\x20\x08\x00\x10\x21\xff\x00\x02\x00")) // RTC: month 0xff
	f.Add([]byte("\x10\x34\xd1\x00\x10\x30\x00\x00\x10\x34\xfe\x00\x00\x30\x00\x00"))         // i8042: reset twice
	f.Add([]byte("\x1c\xa0\x00\x06\x10\xa1\x06\x00\x14\x90\x34\x01\x1c\xb7\xff\xff"))         // 0xcf8, ACPI, last port
	f.Fuzz(func(t *testing.T, ops []byte) {
		m := newMachine(t)
		for ; len(ops) >= 4; ops = ops[4:] {
			width := 1 << (ops[0] >> 2 & 3)
			addr := fuzzBases[ops[1]>>4] + uint64(ops[1]&0x0f)
			p := make([]byte, width)
			for i := range p {
				p[i] = ops[2+i%2]
			}
			switch {
			case ops[0]&3 == 3:
				m.serial.Feed(make([]byte, int(ops[2])<<8|int(ops[3])))
			case ops[0]&3 == 2:
				st, rt, kb := m.serial.Save(), m.rtc.Save(), m.kbd.Save()
				if len(st.FIFO) > 16 || len(st.Backlog) > 4096 {
					t.Fatalf("serial holds %d+%d bytes", len(st.FIFO), len(st.Backlog))
				}
				if err := m.serial.Load(st); err != nil {
					t.Fatal(err)
				}
				if err := m.rtc.Load(rt); err != nil {
					t.Fatal(err)
				}
				m.kbd.Load(kb)
				// Loading may receive waiting input, nothing else.
				st2 := m.serial.Save()
				if got, want := string(st2.FIFO)+string(st2.Backlog), string(st.FIFO)+string(st.Backlog); got != want {
					t.Fatalf("serial input %x after loading, want %x", got, want)
				}
				st2.FIFO, st2.Backlog, st.FIFO, st.Backlog = nil, nil, nil, nil
				if !reflect.DeepEqual(st2, st) || !reflect.DeepEqual(m.rtc.Save(), rt) || m.kbd.Save() != kb {
					t.Fatalf("states changed by loading: %+v %+v %+v", st, rt, kb)
				}
			case ops[0]&0x10 != 0:
				m.bus.Write(addr, p)
			default:
				m.bus.Read(addr, p)
			}
		}
		flush(t, m.serial)
		if err := m.con.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSMP lets four vCPUs loose on every port of the machine; run with -race.
func TestSMP(t *testing.T) {
	m := newMachine(t)
	var vcpus sync.WaitGroup
	for cpu := range 4 {
		vcpus.Go(func() {
			p := make([]byte, 4)
			for i := range 200 {
				for _, e := range m.bus.List() {
					for off := range e.Size {
						for k := range p {
							p[k] = byte(i*7 + cpu + k)
						}
						m.bus.Write(e.Base+off, p[:1+i%4])
						m.bus.Read(e.Base+off, p[:1+i%4])
					}
				}
				m.serial.Feed(p)
				m.serial.Save()
				m.rtc.Save()
				m.kbd.Save()
			}
		})
	}
	vcpus.Wait()
	flush(t, m.serial)
	if err := m.con.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if m.callbacks.Load() == 0 {
		t.Error("no callback was called")
	}
}
