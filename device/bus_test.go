package device_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"testing"

	"github.com/qenex/qenex-kernel/device"
)

// recorder is a device that notes its accesses and reads as off, off+1, ...
type recorder struct {
	mu  sync.Mutex
	log []string
}

func (r *recorder) Read(off uint64, p []byte) {
	r.note("read %#x+%d", off, len(p))
	for i := range p {
		p[i] = byte(off) + byte(i)
	}
}

func (r *recorder) Write(off uint64, p []byte) { r.note("write %#x=%x", off, p) }

func (r *recorder) note(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf(format, a...))
}

func TestRegister(t *testing.T) {
	const maxPhys = 1 << 52
	h := &recorder{}
	port := func() *device.Bus { return device.NewPortBus() }
	mmio := func() *device.Bus { return device.NewMMIOBus() }
	r := func(base, size uint64) device.Registration {
		return device.Registration{Name: "x", Base: base, Size: size, IRQ: -1, Handler: h}
	}
	for _, c := range []struct {
		name string
		bus  func() *device.Bus
		regs []device.Registration
		want error
	}{
		{"one", port, []device.Registration{r(0x3f8, 8)}, nil},
		{"whole port space", port, []device.Registration{r(0, 0x10000)}, nil},
		{"last port", port, []device.Registration{r(0xffff, 1)}, nil},
		{"neighbours", port, []device.Registration{r(0x10, 8), r(0x18, 8), r(0x8, 8)}, nil},
		{"empty", port, []device.Registration{r(0x10, 0)}, device.ErrRange},
		{"beyond the last port", port, []device.Registration{r(0xffff, 2)}, device.ErrRange},
		{"base beyond the last port", port, []device.Registration{r(0x10000, 1)}, device.ErrRange},
		{"port base+size overflows", port, []device.Registration{r(0x10, math.MaxUint64)}, device.ErrRange},
		{"mmio base+size overflows", mmio, []device.Registration{r(maxPhys-1, math.MaxUint64)}, device.ErrRange},
		{"top of mmio", mmio, []device.Registration{r(maxPhys-0x1000, 0x1000)}, nil},
		{"over the top of mmio", mmio, []device.Registration{r(maxPhys-0x1000, 0x1001)}, device.ErrRange},
		{"same base", port, []device.Registration{r(0x10, 8), r(0x10, 8)}, device.ErrOverlap},
		{"overlaps the end", port, []device.Registration{r(0x10, 8), r(0x17, 8)}, device.ErrOverlap},
		{"overlaps the start", port, []device.Registration{r(0x10, 8), r(0x9, 8)}, device.ErrOverlap},
		{"inside", port, []device.Registration{r(0x10, 8), r(0x12, 1)}, device.ErrOverlap},
		{"around", port, []device.Registration{r(0x10, 8), r(0, 0x100)}, device.ErrOverlap},
		{"no handler", port, []device.Registration{{Name: "x", Size: 1}}, device.ErrRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.bus()
			err := b.Register(c.regs...)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			want := len(c.regs)
			if c.want != nil {
				want = 0 // all or none
			}
			if got := len(b.List()); got != want {
				t.Errorf("%d devices registered, want %d", got, want)
			}
		})
	}
}

func TestDispatch(t *testing.T) {
	for _, c := range []struct {
		name    string
		addr    uint64
		n       int
		read    []byte
		log     []string // of a read, then of a write of 01 02 03 ...
		floated uint64   // unclaimed pieces
	}{
		{"inside", 0x12, 2, []byte{2, 3}, []string{"a read 0x2+2", "a write 0x2=0102"}, 0},
		{"whole device", 0x10, 8, []byte{0, 1, 2, 3, 4, 5, 6, 7}, []string{"a read 0x0+8", "a write 0x0=0102030405060708"}, 0},
		{"over the end into a neighbour", 0x16, 4, []byte{6, 7, 0, 1},
			[]string{"a read 0x6+2", "b read 0x0+2", "a write 0x6=0102", "b write 0x0=0304"}, 0},
		{"over the end into nothing", 0x1b, 2, []byte{3, 0xff}, []string{"b read 0x3+1", "b write 0x3=01"}, 1},
		{"from nothing into a device", 0xe, 4, []byte{0xff, 0xff, 0, 1}, []string{"a read 0x0+2", "a write 0x0=0304"}, 1},
		{"nothing below", 0x0, 4, []byte{0xff, 0xff, 0xff, 0xff}, nil, 1},
		{"nothing above", 0x100, 1, []byte{0xff}, nil, 1},
		{"over the last port", 0xffff, 4, []byte{0, 0xff, 0xff, 0xff}, []string{"c read 0x0+1", "c write 0x0=01"}, 1},
		{"beyond the last port", 0x10000, 2, []byte{0xff, 0xff}, nil, 1},
		{"at the end of 64 bits", math.MaxUint64, 2, []byte{0xff, 0xff}, nil, 1},
		{"no bytes", 0x10, 0, nil, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log []string
			b := device.NewPortBus()
			dev := func(name string) device.Handler {
				return &tagged{name: name, log: &log}
			}
			if err := b.Register(
				device.Registration{Name: "b", Base: 0x18, Size: 4, IRQ: -1, Handler: dev("b")},
				device.Registration{Name: "c", Base: 0xffff, Size: 1, IRQ: -1, Handler: dev("c")},
				device.Registration{Name: "a", Base: 0x10, Size: 8, IRQ: -1, Handler: dev("a")},
			); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, c.n)
			b.Read(c.addr, p)
			if !bytes.Equal(p, c.read) {
				t.Errorf("read % x, want % x", p, c.read)
			}
			for i := range p {
				p[i] = byte(i + 1)
			}
			b.Write(c.addr, p)
			if !reflect.DeepEqual(log, c.log) {
				t.Errorf("devices saw %q, want %q", log, c.log)
			}
			if r, w := b.Unclaimed(); r != c.floated || w != c.floated {
				t.Errorf("unclaimed %d reads, %d writes, want %d each", r, w, c.floated)
			}
		})
	}
}

// tagged is a recorder that shares its log with others.
type tagged struct {
	recorder
	name string
	log  *[]string
}

func (d *tagged) Read(off uint64, p []byte) {
	d.recorder.Read(off, p)
	*d.log = append(*d.log, d.name+" "+d.recorder.log[len(d.recorder.log)-1])
}

func (d *tagged) Write(off uint64, p []byte) {
	d.recorder.Write(off, p)
	*d.log = append(*d.log, d.name+" "+d.recorder.log[len(d.recorder.log)-1])
}

func TestUnregisterAndList(t *testing.T) {
	b := device.NewMMIOBus()
	for i := range uint64(8) {
		if err := b.Register(device.Registration{
			Name: fmt.Sprint("virtio", i), Base: 0xd0000000 + (7-i)*0x1000, Size: 0x1000, IRQ: int(5 + i),
			Handler: &recorder{},
		}); err != nil {
			t.Fatal(err)
		}
	}
	var p [4]byte
	b.Read(0xd0002000, p[:])
	b.Write(0xd0002000, p[:])
	b.Write(0xd0002ffe, p[:])
	l := b.List()
	if len(l) != 8 || l[2].Name != "virtio5" || l[2].IRQ != 10 {
		t.Fatalf("list %+v", l)
	}
	if l[2].Reads != 1 || l[2].Writes != 2 || l[3].Writes != 1 {
		t.Errorf("counts %d/%d and %d, want 1/2 and 1", l[2].Reads, l[2].Writes, l[3].Writes)
	}
	if err := b.Unregister(0xd0002004); !errors.Is(err, device.ErrAbsent) {
		t.Errorf("unregistering the middle of a device: %v, want %v", err, device.ErrAbsent)
	}
	if err := b.Unregister(0xd0002000); err != nil {
		t.Fatal(err)
	}
	if err := b.Unregister(0xd0002000); !errors.Is(err, device.ErrAbsent) {
		t.Errorf("unregistering twice: %v, want %v", err, device.ErrAbsent)
	}
	if b.Read(0xd0002000, p[:]); p != [4]byte{0xff, 0xff, 0xff, 0xff} {
		t.Errorf("an unplugged device reads % x", p)
	}
	if err := b.Register(l[2].Registration); err != nil {
		t.Errorf("plugging it in again: %v", err)
	}
}

// TestBusHotplugRace plugs and unplugs while vCPUs access the bus; run with -race.
func TestBusHotplugRace(t *testing.T) {
	b := device.NewPortBus()
	if err := b.Register(device.Registration{Name: "fixed", Base: 0x20, Size: 4, IRQ: -1, Handler: device.Bytes{}}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var vcpus sync.WaitGroup
	for range 4 {
		vcpus.Go(func() {
			var p [4]byte
			for {
				for addr := uint64(0); addr < 0x40; addr++ {
					b.Read(addr, p[:])
					b.Write(addr, p[:])
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 500 {
		if err := b.Register(device.Registration{Name: "hot", Base: 0x10, Size: 8, IRQ: -1, Handler: device.Bytes{}}); err != nil {
			t.Error(i, err)
		}
		b.List()
		if err := b.Unregister(0x10); err != nil {
			t.Error(i, err)
		}
	}
	close(stop)
	vcpus.Wait()
	if r, w := b.Unclaimed(); r == 0 || w == 0 {
		t.Errorf("unclaimed %d reads, %d writes", r, w)
	}
}

func TestBusDoesNotAllocate(t *testing.T) {
	b := device.NewPortBus()
	if err := b.Register(device.NewPortA(nil).Registrations()...); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if n := testing.AllocsPerRun(100, func() { b.Read(0x90, p); b.Write(0x90, p) }); n != 0 {
		t.Errorf("%v allocations per access, want 0", n)
	}
}

func BenchmarkBus(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		bus := device.NewMMIOBus()
		for i := range n {
			if err := bus.Register(device.Registration{
				Name: "dev", Base: uint64(i) * 0x1000, Size: 0x1000, IRQ: -1, Handler: nothing{},
			}); err != nil {
				b.Fatal(err)
			}
		}
		at := uint64(n/2) * 0x1000
		b.Run(fmt.Sprintf("read/devices=%d", n), func(b *testing.B) {
			p := make([]byte, 4)
			for b.Loop() {
				bus.Read(at, p)
			}
		})
		b.Run(fmt.Sprintf("unclaimed/devices=%d", n), func(b *testing.B) {
			p := make([]byte, 4)
			for b.Loop() {
				bus.Write(1<<40, p)
			}
		})
		b.Run(fmt.Sprintf("parallel/devices=%d", n), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				p := make([]byte, 4)
				for pb.Next() {
					bus.Read(at, p)
				}
			})
		})
	}
}

type nothing struct{}

func (nothing) Read(uint64, []byte)  {}
func (nothing) Write(uint64, []byte) {}
