package vmm

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// Where the bare guest's driver has its queue 0, of 4 descriptors, its buffers, and what it read.
const (
	guestDesc   = 0x200000
	guestAvail  = 0x201000
	guestUsed   = 0x202000
	guestData   = 0x203000
	guestAnswer = 0x204000
	guestRead   = 0x205000
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

// mmioDriver starts the device at base with queue 0 of 4 descriptors.
func mmioDriver(s *bareguest.Script, base uint32) {
	s.Copy(guestRead, base)
	s.Copy(guestRead+4, base+4)
	s.Copy(guestRead+8, base+8)
	s.Store(base+0x70, 0)
	s.Store(base+0x70, 3)
	s.Store(base+0x24, 1)
	s.Store(base+0x20, 1) // VERSION_1
	s.Store(base+0x24, 0)
	s.Store(base+0x20, 0)
	s.Store(base+0x70, 11)
	s.Store(base+0x30, 0)
	s.Store(base+0x38, 4)
	s.Store(base+0x80, guestDesc)
	s.Store(base+0x90, guestAvail)
	s.Store(base+0xa0, guestUsed)
	s.Store(base+0x44, 1)
	s.Store(base+0x70, 15)
	s.Copy(guestRead+12, base+0x70)
}

// guestRequest makes one request of 8 readable and 8 writable bytes available.
func guestRequest(s *bareguest.Script, a, b uint32) {
	s.Store(guestData, a)
	s.Store(guestData+4, b)
	for i, w := range []uint32{
		guestData, 0, 8, 1 | 1<<16,
		guestAnswer, 0, 8, 2,
	} {
		s.Store(guestDesc+4*uint32(i), w)
	}
	s.Store(guestAvail, 1<<16) // flags 0, index 1
}

func word(t testing.TB, m *Machine, gpa uint64) uint32 {
	t.Helper()
	v, err := m.mem.Uint32(gpa)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVirtioMMIOByHand drives an echo device from a bare guest, registers, rings and all. The doorbell does not pass the run loop, the
// interrupt reaches the interrupt controller.
func TestVirtioMMIOByHand(t *testing.T) {
	var s bareguest.Script
	base := uint32(deviceBase + memmap.PageSize) // the second of two
	mmioDriver(&s, base)
	guestRequest(&s, 0x11223344, 0x55667788)
	s.Store(base+0x50, 0)
	s.Await(guestUsed, 1<<16)
	s.Await(base+0x60, 1)
	s.Copy(guestRead+16, base+0x60)
	s.Store(base+0x64, 1)
	s.Copy(guestRead+20, base+0x60)
	cfg := bareConfig(t, s.End())
	idle, dev := virtiotest.NewEcho(4), virtiotest.NewEcho(8)
	cfg.Virtio = []virtio.Device{idle, dev}
	m := newMachine(t, cfg)
	if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
		t.Fatalf("outcome %v", o)
	}
	for i, want := range map[uint64]uint32{0: 0x74726976, 4: 2, 8: virtiotest.TypeEcho, 12: 15, 16: 1, 20: 0} {
		if got := word(t, m, guestRead+i); got != want {
			t.Errorf("read %d: %#x, want %#x", i, got, want)
		}
	}
	if a, b := word(t, m, guestAnswer), word(t, m, guestAnswer+4); a != 0x11223344 || b != 0x55667788 {
		t.Errorf("answer %#x %#x", a, b)
	}
	if head, n := word(t, m, guestUsed+4), word(t, m, guestUsed+8); head != 0 || n != 8 {
		t.Errorf("used %d with %d bytes", head, n)
	}
	for _, e := range m.MMIO.List() {
		if e.Base == uint64(base) && e.Writes != 15 {
			t.Errorf("%d writes passed the run loop, want 15: all but the doorbell", e.Writes)
		}
	}
	// KVM delivers the interrupt on a worker of its own.
	for end := time.Now().Add(patience); !pending(t, m, deviceLines[1]); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the interrupt did not reach the PICs")
		}
	}
	if dev.Starts.Load() != 1 || idle.Starts.Load() != 0 || dev.Running.Load() != 0 {
		t.Errorf("%d and %d starts, %d goroutines after the end", dev.Starts.Load(), idle.Starts.Load(), dev.Running.Load())
	}
}

// pciDriver moves the window of the function in a slot and starts the device with queue 0 of 4 descriptors, whose messages are pciVector at CPU 0.
func pciDriver(s *bareguest.Script, slot, window uint32) {
	at := 1<<31 | slot<<11
	in := func(to, reg uint32) { s.Out(0xcf8, at|reg); s.In(guestRead+to, 0xcfc) }
	out := func(reg, v uint32) { s.Out(0xcf8, at|reg); s.Out(0xcfc, v) }
	in(0, 0)
	in(4, 0x34)
	out(4, 0)
	out(0x10, 0xffffffff)
	in(8, 0x10)
	out(0x10, window)
	out(4, 6)
	out(0x40, 0x80000000)      // MSI-X on
	s.Store(0xfee000f0, 0x1ff) // local APIC on
	table := window + 0x8000
	s.Store(table+16, 0xfee00000) // vector 1: message to CPU 0
	s.Store(table+20, 0)
	s.Store(table+24, pciVector)
	s.Store(table+28, 0)
	s.Store8(window+0x14, 0)
	s.Store8(window+0x14, 3)
	s.Store(window+0x08, 1)
	s.Store(window+0x0c, 1)
	s.Store8(window+0x14, 11)
	s.Store16(window+0x16, 0)
	s.Store16(window+0x18, 4)
	s.Store16(window+0x1a, 1)
	s.Store(window+0x20, guestDesc)
	s.Store(window+0x28, guestAvail)
	s.Store(window+0x30, guestUsed)
	s.Store16(window+0x1c, 1)
	s.Store8(window+0x14, 15)
}

const pciVector = 0x41

// TestVirtioPCIByHand drives an echo device from a bare guest: it finds the function, moves its window, sets up a message and the queue
// through registers of all widths, rings, and waits for the message at its local APIC.
func TestVirtioPCIByHand(t *testing.T) {
	const window = deviceBase + 0x100000
	var s bareguest.Script
	pciDriver(&s, 2, window)
	guestRequest(&s, 0x11223344, 0x55667788)
	s.Store16(window+0x3000, 0)
	s.Await(guestUsed, 1<<16)
	s.Await(0xfee00200+pciVector/32*16, 1<<(pciVector%32))
	cfg := bareConfig(t, s.End())
	cfg.Transport = PCI
	dev := virtiotest.NewEcho(8)
	cfg.Virtio = []virtio.Device{virtiotest.NewEcho(4), dev}
	m := newMachine(t, cfg)
	if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
		t.Fatalf("outcome %v", o)
	}
	for i, want := range map[uint64]uint32{0: (0x1040+virtiotest.TypeEcho)<<16 | 0x1af4, 4: 0x40, 8: 0xffff0000} {
		if got := word(t, m, guestRead+i); got != want {
			t.Errorf("read %d: %#x, want %#x", i, got, want)
		}
	}
	if a, b := word(t, m, guestAnswer), word(t, m, guestAnswer+4); a != 0x11223344 || b != 0x55667788 {
		t.Errorf("answer %#x %#x", a, b)
	}
	if dev.Starts.Load() != 1 || dev.Running.Load() != 0 {
		t.Errorf("%d starts, %d goroutines after the end", dev.Starts.Load(), dev.Running.Load())
	}
	for _, e := range m.MMIO.List() {
		if e.Base == window && e.Writes != 17 {
			t.Errorf("%d writes passed the run loop, want 17: all but the doorbell", e.Writes)
		}
	}
}

// TestHostileGuests has bare guests write registers, configuration space, messages and rings by chance, at a device that was started and at one
// that was not. The machine lives on: each guest reaches its end.
func TestHostileGuests(t *testing.T) {
	for name, transport := range map[string]Transport{"mmio": MMIO, "pci": PCI} {
		t.Run(name, func(t *testing.T) {
			failures := uint64(0)
			for seed := range uint64(4) {
				r := rand.New(rand.NewPCG(seed, 0))
				var s bareguest.Script
				start := func() { mmioDriver(&s, deviceBase) }
				if transport == PCI {
					start = func() { pciDriver(&s, 1, deviceBase) }
				}
				start()
				guestRequest(&s, 1, 2)
				for range 800 {
					window := deviceBase + r.Uint32N(2)<<16&-uint32(transport)
					switch v := r.Uint32() >> r.IntN(32); r.IntN(8) {
					case 0:
						s.Store(window+r.Uint32N(0x120)&^3, v)
					case 1:
						s.Store8(window+r.Uint32N(0x40), byte(v))
					case 2:
						s.Store16(window+r.Uint32N(0x40)&^1, uint16(v))
					case 3:
						s.Store(window+0x50, v&3)
						s.Store16(window+0x3000, uint16(v&3))
					case 4:
						s.Store(guestDesc+r.Uint32N(0x40)&^3, v)
						s.Store(guestAvail+r.Uint32N(16)&^3, v)
					case 5:
						// A message's address and mask as it comes, its data a vector: other ways of delivery would
						// stop or reset the guest's own processor, which is its right.
						word := r.Uint32N(12)
						if word%4 == 2 {
							v &= 0xff
						}
						s.Store(window+0x8000+4*word, v)
						s.Copy(guestRead, window+r.Uint32N(0x120)&^3)
					case 6:
						s.Out(0xcf8, 1<<31|r.Uint32N(4)<<11|r.Uint32N(0x100))
						s.Out(0xcfc, v)
					case 7:
						start()
						guestRequest(&s, 1, 2)
					}
				}
				cfg := bareConfig(t, s.End())
				cfg.Transport = transport
				cfg.Virtio = []virtio.Device{virtiotest.NewEcho(4, 2), virtiotest.NewEcho(8)}
				m := newMachine(t, cfg)
				events, cancel := m.Subscribe(10)
				if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
					t.Fatalf("seed %d: outcome %v", seed, o)
				}
				cancel()
				report, err := m.Report()
				if err != nil {
					t.Fatal(err)
				}
				told := false
				for e := range events {
					told = told || e.Kind == EventDevice
				}
				for _, v := range report.Virtio {
					failures += v.Failures
					if v.Failures > 0 && (!told || v.Reason == "") {
						t.Errorf("%+v, told of it: %v", v, told)
					}
				}
			}
			t.Logf("%d times a device needed a reset", failures)
			if failures == 0 {
				t.Error("no device ever failed: too little of it")
			}
		})
	}
}

// entropy is a device that Linux has a driver for: it fills what it is given with one byte.
type entropy struct {
	fill byte
	done sync.WaitGroup
}

func (e *entropy) Type() uint32                  { return virtio.TypeEntropy }
func (e *entropy) Features() uint64              { return 0 }
func (e *entropy) Queues() []uint16              { return []uint16{8} }
func (e *entropy) ReadConfig(_ uint64, p []byte) { clear(p) }
func (e *entropy) WriteConfig(uint64, []byte)    {}
func (e *entropy) Stop()                         { e.done.Wait() }

func (e *entropy) Start(_ uint64, queues []*virtio.Queue, _ virtio.Env) error {
	q := queues[0]
	e.done.Go(func() {
		q.Serve(func(c *virtio.Chain) error {
			for _, p := range c.Writable() {
				for i := range p {
					p[i] = e.fill
				}
			}
			q.Done(c, uint32(c.WriteLen()))
			return nil
		})
	})
	return nil
}

// findsDevices has Linux say what it found and use it, and presses the power button, if there is one.
func findsDevices(t *testing.T, cfg Config, out *linuxtest.Console, before string, want ...string) {
	t.Helper()
	cmd := before + "cat /sys/bus/virtio/devices/*/device; grep virtio /proc/interrupts; head -c 40 /dev/hwrng; echo"
	want = append(want, "0x003f", "0x0004", strings.Repeat("e", 40))
	if cfg.Tables == ACPI {
		// KEY_POWER, pressed: an event of type 1, code 116, value 1.
		cmd += "; exec 3< /dev/input/event0; echo press=now; head -c 24 <&3 | od -An -tx2 -j16"
		want = append(want, "0001 0074 0001 0000")
		cfg.Marks = map[string]string{"press": "press=now"}
	}
	cfg.Cmdline += ` qenex.cmd="` + cmd + `"`
	cfg.Virtio = []virtio.Device{virtiotest.NewEcho(4), &entropy{fill: 'e'}}
	m := newMachine(t, cfg)
	events, cancel := m.Subscribe(100)
	var pressing sync.WaitGroup
	pressing.Go(func() {
		for e := range events {
			if e.Text == "press" {
				if err := m.PowerButton(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	o := runToEnd(t, m, bootLimit)
	cancel()
	pressing.Wait()
	if o.Cause != PowerOff {
		t.Fatalf("outcome %v, console:\n%s", o, out)
	}
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("no %q in the console's output:\n%s", w, out)
		}
	}
}

// TestLeanVirtioMMIO lets Linux find two devices by ACPI, and on its command line.
func TestLeanVirtioMMIO(t *testing.T) {
	for _, tables := range []Tables{ACPI, NoTable} {
		t.Run(tables.String(), func(t *testing.T) {
			cfg, out := leanConfig(t)
			cfg.Tables = tables
			cfg.Initrds = []string{linuxtest.File(t, "initramfs-busybox.cpio")}
			findsDevices(t, cfg, out, "")
		})
	}
}

// TestStockVirtio lets Debian's unmodified kernel find two devices and the power button, through each transport.
func TestStockVirtio(t *testing.T) {
	needsHardware(t)
	for _, tt := range []struct {
		name      string
		transport Transport
		words     string
		want      []string
	}{
		{"mmio", MMIO, "", nil},
		{"pci", PCI, "", []string{"PCI-MSI", "virtio1-input"}},
		{"pci-pin", PCI, " pci=nomsi", []string{"IO-APIC", "fasteoi", "virtio1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, out := leanConfig(t)
			cfg.Transport = tt.transport
			cfg.Kernel, cfg.Memory = linuxtest.File(t, "stock/vmlinux"), 256*memmap.MiB
			// The second one's init, with the first one's modules.
			cfg.Initrds = []string{linuxtest.File(t, "initramfs-agent-stock.cpio"), linuxtest.File(t, "initramfs-busybox.cpio")}
			if tt.transport == PCI {
				cfg.Cmdline = strings.ReplaceAll(cfg.Cmdline, " pci=off", "") + tt.words
			}
			findsDevices(t, cfg, out, "for m in $(cat /modules/order); do insmod /modules/$m.ko; done; ", tt.want...)
		})
	}
}

// pending says whether an interrupt line had an edge that no processor took.
func pending(t testing.TB, m *Machine, line uint32) bool {
	t.Helper()
	chip, err := m.vm.IRQChip(line / 8)
	if err != nil {
		t.Fatal(err)
	}
	return chip.Chip[1]&(1<<(line%8)) != 0 // struct kvm_pic_state: last_irr, irr, ...
}

// BenchmarkBuild shows what virtio devices, of three queues each, add to the making of a machine.
func BenchmarkBuild(b *testing.B) {
	for name, n := range map[string]int{"none": 0, "mmio-4": 4, "pci-4": 4} {
		b.Run(name, func(b *testing.B) {
			cfg := bareConfig(b, bareguest.Halt)
			cfg.Tables = ACPI
			if name == "pci-4" {
				cfg.Transport = PCI
			}
			for b.Loop() {
				cfg.Virtio = nil
				for range n {
					cfg.Virtio = append(cfg.Virtio, virtiotest.NewEcho(64, 64, 64))
				}
				m, err := New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
