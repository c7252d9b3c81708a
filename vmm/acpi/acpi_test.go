package acpi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/ebda"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

func newMemory(t *testing.T) *memmap.Memory {
	t.Helper()
	m, err := memmap.New(32 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func at(t *testing.T, mem *memmap.Memory, gpa, n uint64) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := mem.Read(gpa, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func sum(b []byte) (s byte) {
	for _, x := range b {
		s += x
	}
	return s
}

// findTables follows the RSDP as an operating system does, checking every checksum and length.
func findTables(t *testing.T, mem *memmap.Memory, rsdp uint64) map[string][]byte {
	t.Helper()
	r := at(t, mem, rsdp, rsdpSize)
	if string(r[:8]) != "RSD PTR " || r[15] != 2 || le.Uint32(r[20:]) != rsdpSize || sum(r[:20]) != 0 || sum(r) != 0 {
		t.Fatalf("bad RSDP % x", r)
	}
	tables := map[string][]byte{}
	read := func(gpa uint64) []byte {
		if gpa < boot.ACPIBase || gpa%tableAlign != 0 {
			t.Fatalf("a table at %#x", gpa)
		}
		n := le.Uint32(at(t, mem, gpa+4, 4))
		if n < headerSize || gpa+uint64(n) > tablesEnd {
			t.Fatalf("a table of %d bytes at %#x", n, gpa)
		}
		b := at(t, mem, gpa, uint64(n))
		if sum(b) != 0 {
			t.Errorf("%s: the bytes sum up to %#x", b[:4], sum(b))
		}
		if string(b[10:16]) != "QENEX " {
			t.Errorf("%s: OEM ID %q", b[:4], b[10:16])
		}
		tables[string(b[:4])] = b
		return b
	}
	xsdt := read(le.Uint64(r[24:]))
	for p := xsdt[headerSize:]; len(p) > 0; p = p[8:] {
		read(le.Uint64(p))
	}
	fadt := tables["FACP"]
	if fadt == nil {
		t.Fatal("no FADT")
	}
	if uint64(le.Uint32(fadt[40:])) != le.Uint64(fadt[140:]) {
		t.Error("DSDT and X_DSDT differ")
	}
	read(le.Uint64(fadt[140:]))
	return tables
}

func write(t *testing.T, c Config) (*memmap.Memory, map[string][]byte) {
	t.Helper()
	mem := newMemory(t)
	rsdp, err := Write(mem, c)
	if err != nil {
		t.Fatal(err)
	}
	if rsdp != 0xe0000 {
		t.Fatalf("RSDP at %#x", rsdp)
	}
	return mem, findTables(t, mem, rsdp)
}

var fullConfig = Config{
	CPUs:          3,
	GenerationID:  [16]byte{1, 2, 3, 15: 16},
	GenerationIRQ: 9,

	PowerButtonIRQ: 20,
	TPM:            &TPM{Base: 0xfed40000, Size: 0x1000, ControlArea: 0x40},
	PCI:            &PCI{Base: 0xe0000000, Size: 0x10000000, Lines: []uint32{0, 5, 10}},
	Devices: []Device{
		{HID: "LNRO0005", UID: 0, Base: 0xd0000000, Size: 0x1000, IRQ: 5},
		{HID: "LNRO0005", UID: 1, Base: 0xd0001000, Size: 0x1000, IRQ: 17, Level: true},
	},
}

func TestFADT(t *testing.T) {
	_, tables := write(t, Config{CPUs: 1})
	f := tables["FACP"]
	if len(f) != 276 || f[8] != 6 {
		t.Fatalf("%d bytes, revision %d", len(f), f[8])
	}
	flags := le.Uint32(f[112:])
	if flags&(1<<20) == 0 || flags&(1<<10) == 0 {
		t.Errorf("flags %#x lack HW_REDUCED_ACPI or RESET_REG_SUP", flags)
	}
	if arch := le.Uint16(f[109:]); arch != 0x5 {
		t.Errorf("IAPC_BOOT_ARCH %#x, want ISA devices, no 8042, no VGA, a CMOS RTC", arch)
	}
	for _, r := range []struct {
		name string
		off  int
		port uint64
	}{{"reset", 116, 0x602}, {"sleep control", 244, 0x600}, {"sleep status", 256, 0x601}} {
		g := f[r.off:]
		if g[0] != 1 || g[1] != 8 || g[2] != 0 || g[3] != 1 || le.Uint64(g[4:]) != r.port {
			t.Errorf("%s register % x, want the byte at port %#x", r.name, g[:12], r.port)
		}
	}
	if f[128] != 1 {
		t.Errorf("reset value %d", f[128])
	}
}

// TestTPM2 reads the TPM2 table with the offsets of the TCG ACPI Specification 1.3, table 7.
func TestTPM2(t *testing.T) {
	_, tables := write(t, fullConfig)
	b := tables["TPM2"]
	if len(b) != 76 || b[8] != 4 {
		t.Fatalf("%d bytes, revision %d", len(b), b[8])
	}
	if class, area, start := le.Uint16(b[36:]), le.Uint64(b[40:]), le.Uint32(b[48:]); class != 0 || area != 0xfed40040 || start != 7 {
		t.Errorf("platform class %d, control area %#x, start method %d", class, area, start)
	}
	if _, tables := write(t, Config{CPUs: 1}); tables["TPM2"] != nil {
		t.Error("a TPM2 table without a TPM")
	}
}

func TestMADT(t *testing.T) {
	for _, cpus := range []int{1, 2, 64, 255, 300} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			_, tables := write(t, Config{CPUs: cpus})
			m := tables["APIC"]
			if le.Uint32(m[36:]) != 0xfee00000 || le.Uint32(m[40:]) != 1 {
				t.Errorf("local APICs at %#x, flags %#x", le.Uint32(m[36:]), le.Uint32(m[40:]))
			}
			ids := map[uint32]bool{}
			var ioapics, nmis int
			for p := m[44:]; len(p) > 0; p = p[p[1]:] {
				if p[1] < 2 || int(p[1]) > len(p) {
					t.Fatalf("entry of %d bytes with %d left", p[1], len(p))
				}
				switch p[0] {
				case 0:
					if p[2] != p[3] || le.Uint32(p[4:]) != 1 {
						t.Errorf("local APIC % x", p[:8])
					}
					ids[uint32(p[3])] = true
				case 9:
					if id := le.Uint32(p[4:]); id < 255 || le.Uint32(p[8:]) != 1 || le.Uint32(p[12:]) != id {
						t.Errorf("x2APIC % x", p[:16])
					}
					ids[le.Uint32(p[4:])] = true
				case 1:
					ioapics++
					if le.Uint32(p[4:]) != 0xfec00000 || le.Uint32(p[8:]) != 0 {
						t.Errorf("IOAPIC % x", p[:12])
					}
				case 4, 10:
					nmis++
				default:
					t.Errorf("entry of type %d", p[0])
				}
			}
			for i := range cpus {
				if !ids[uint32(i)] {
					t.Errorf("no CPU %d", i)
				}
			}
			if len(ids) != cpus || ioapics != 1 || nmis != 1+cpus/256 {
				t.Errorf("%d CPUs, %d IOAPICs, %d NMIs", len(ids), ioapics, nmis)
			}
		})
	}
}

// term is one object of a DSDT, as the walker below reads it.
type term struct {
	name  string
	value []byte // of a Name: what follows it up to the next term
	kids  []term
}

// walk reads terms made only of Scope, Device, Method and Name, the last with the values that
// dsdtBody uses.
func walk(t *testing.T, b []byte) (terms []term) {
	t.Helper()
	for len(b) > 0 {
		switch {
		case b[0] == 0x08:
			n := valueLen(t, b[5:])
			terms = append(terms, term{name: string(b[1:5]), value: b[5 : 5+n]})
			b = b[5+n:]
		case b[0] == 0x10: // Scope(\_SB_)
			body, rest := unpkg(t, b[1:])
			terms = append(terms, term{name: string(body[:5]), kids: walk(t, body[5:])})
			b = rest
		case b[0] == 0x5b && b[1] == 0x82:
			body, rest := unpkg(t, b[2:])
			terms = append(terms, term{name: string(body[:4]), kids: walk(t, body[4:])})
			b = rest
		case b[0] == 0x14:
			body, rest := unpkg(t, b[1:])
			terms = append(terms, term{name: string(body[:4]), value: body[4:]})
			b = rest
		default:
			t.Fatalf("unexpected AML % x", b[:min(len(b), 16)])
		}
	}
	return terms
}

func unpkg(t *testing.T, b []byte) (body, rest []byte) {
	t.Helper()
	head, n := 1+int(b[0]>>6), int(b[0]&0x3f)
	if head > 1 {
		n = int(b[0] & 0xf)
		for i := 1; i < head; i++ {
			n |= int(b[i]) << (8*i - 4)
		}
	}
	if n < head || n > len(b) {
		t.Fatalf("package of %d bytes with %d left", n, len(b))
	}
	return b[head:n], b[n:]
}

func valueLen(t *testing.T, b []byte) int {
	t.Helper()
	switch b[0] {
	case 0, 1:
		return 1
	case 0x0a:
		return 2
	case 0x0b:
		return 3
	case 0x0c:
		return 5
	case 0x0e:
		return 9
	case 0x0d:
		return bytes.IndexByte(b, 0) + 1
	case 0x11, 0x12:
		body, rest := unpkg(t, b[1:])
		if b[0] == 0x11 && int(body[1]) != len(body)-2 {
			t.Errorf("buffer of %d bytes holds %d", body[1], len(body)-2)
		}
		return len(b) - len(rest)
	}
	t.Fatalf("unexpected AML value % x", b[:min(len(b), 16)])
	return 0
}

func TestDSDT(t *testing.T) {
	_, tables := write(t, fullConfig)
	terms := walk(t, tables["DSDT"][headerSize:])
	if len(terms) != 2 || terms[0].name != "_S5_" || terms[1].name != "\\_SB_" {
		t.Fatalf("root holds %+v", terms)
	}
	if !bytes.Equal(terms[0].value, []byte{0x12, 7, 4, 0x0a, 5, 0, 0, 0}) {
		t.Errorf("_S5_ is % x", terms[0].value)
	}
	got := map[string]map[string][]byte{}
	for _, d := range terms[1].kids {
		got[d.name] = map[string][]byte{}
		for _, k := range d.kids {
			got[d.name][k.name] = k.value
		}
	}
	if len(got) != 11 {
		t.Errorf("%d devices, want 11", len(got))
	}
	irq := func(flags byte, n byte) []byte { return []byte{0x89, 6, 0, flags, 1, n, 0, 0, 0} }
	for _, w := range []struct {
		device, object string
		holds          []byte
	}{
		{"COM1", "_HID", []byte{0x0c, 0x41, 0xd0, 0x05, 0x01}}, // EisaId("PNP0501"), ACPI 19.6.37
		{"COM1", "_CRS", []byte{0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8}},
		{"COM1", "_CRS", irq(3, 4)},
		{"RTC_", "_HID", []byte{0x0c, 0x41, 0xd0, 0x0b, 0x00}},
		{"RTC_", "_CRS", []byte{0x47, 1, 0x70, 0, 0x70, 0, 1, 2}},
		{"RTC_", "_CRS", irq(3, 8)},
		{"PEVT", "_HID", []byte("\x0dQEMU0001\x00")},
		{"PEVT", "_CRS", []byte{0x47, 1, 5, 5, 5, 5, 1, 1}},
		{"VGEN", "_CID", []byte("\x0dVM_Gen_Counter\x00")},
		{"VGEN", "ADDR", []byte{2, 0x0c, 0x00, 0xf0, 0x0e, 0x00, 0}},
		{"GED_", "_HID", []byte("\x0dACPI0013\x00")},
		{"GED_", "_CRS", irq(3, 9)},
		{"GED_", "_EVT", []byte("\x01\x86VGEN\x0a\x80")},
		{"PWRB", "_HID", []byte{0x0c, 0x41, 0xd0, 0x0c, 0x0c}}, // EisaId("PNP0C0C")
		{"GEDP", "_HID", []byte("\x0dACPI0013\x00")},
		{"GEDP", "_UID", []byte{1}},
		{"GEDP", "_CRS", irq(3, 20)},
		{"GEDP", "_EVT", []byte("\x01\x86PWRB\x0a\x80")},
		{"PCI0", "_HID", []byte{0x0c, 0x41, 0xd0, 0x0a, 0x03}}, // EisaId("PNP0A03")
		{"PCI0", "_CRS", []byte{0x88, 13, 0, 2, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}},
		{"PCI0", "_CRS", []byte{0x47, 1, 0xf8, 0xc, 0xf8, 0xc, 1, 8}},
		{"PCI0", "_CRS", []byte{0x87, 23, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0xff, 0xff, 0xff, 0xef, 0, 0, 0, 0, 0, 0, 0, 0x10}},
		{"PCI0", "_PRT", []byte{0x12, 0x1a, 2, 0x12, 0xb, 4, 0x0c, 0xff, 0xff, 1, 0, 0, 0, 0x0a, 5, 0x12, 0xb, 4, 0x0c, 0xff, 0xff, 2, 0, 0, 0, 0x0a, 10}},
		{"TPM_", "_HID", []byte("\x0dMSFT0101\x00")},
		{"TPM_", "_CRS", []byte{0x86, 9, 0, 1, 0, 0, 0xd4, 0xfe, 0, 0x10, 0, 0}},
		{"D000", "_HID", []byte("\x0dLNRO0005\x00")},
		{"D000", "_UID", []byte{0}},
		{"D000", "_CRS", []byte{0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 0x10, 0, 0}},
		{"D000", "_CRS", irq(3, 5)},
		{"D001", "_UID", []byte{1}},
		{"D001", "_CRS", irq(1, 17)},
	} {
		if !bytes.Contains(got[w.device][w.object], w.holds) {
			t.Errorf("%s.%s is % x, want % x in it", w.device, w.object, got[w.device][w.object], w.holds)
		}
	}
	if n := len(tables["DSDT"]); n > 1000 {
		t.Errorf("the DSDT has %d bytes; each costs boot time on a slow KVM", n)
	}
}

func TestPackageLengths(t *testing.T) {
	for _, n := range []int{0, 62, 63, 4093, 4094, 60000} {
		body, rest := unpkg(t, append(pkg(make([]byte, n)), 0xcc))
		if len(body) != n || len(rest) != 1 {
			t.Errorf("a body of %d bytes is read as %d with %d left", n, len(body), len(rest))
		}
	}
}

func TestGenerationID(t *testing.T) {
	mem, _ := write(t, fullConfig)
	if got := at(t, mem, GenerationGPA, 16); !bytes.Equal(got, fullConfig.GenerationID[:]) {
		t.Errorf("generation ID % x", got)
	}
	next := [16]byte{9}
	if err := WriteGenerationID(mem, next); err != nil {
		t.Fatal(err)
	}
	if got := at(t, mem, GenerationGPA, 16); !bytes.Equal(got, next[:]) {
		t.Errorf("generation ID % x after the change", got)
	}
	a, _ := write(t, Config{CPUs: 1})
	b, _ := write(t, Config{CPUs: 1})
	if x, y := at(t, a, GenerationGPA, 16), at(t, b, GenerationGPA, 16); bytes.Equal(x, y) {
		t.Errorf("two machines have the generation ID % x", x)
	}
}

func TestBadConfig(t *testing.T) {
	d := fullConfig.Devices[0]
	change := func(f func(*Device)) []Device {
		bad := d
		bad.UID = 7
		f(&bad)
		return []Device{d, bad}
	}
	for _, tt := range []struct {
		name string
		c    Config
	}{
		{"no CPU", Config{}},
		{"negative CPUs", Config{CPUs: -1}},
		{"more CPUs than room", Config{CPUs: 5000}},
		{"same device twice", Config{CPUs: 1, Devices: []Device{d, d}}},
		{"no HID", Config{CPUs: 1, Devices: change(func(d *Device) { d.HID = "" })}},
		{"odd HID", Config{CPUs: 1, Devices: change(func(d *Device) { d.HID = "virtio-0" })}},
		{"window in RAM", Config{CPUs: 1, Devices: change(func(d *Device) { d.Base = 0x1000 })}},
		{"window too long", Config{CPUs: 1, Devices: change(func(d *Device) { d.Size = 1 << 32 })}},
		{"window empty", Config{CPUs: 1, Devices: change(func(d *Device) { d.Size = 0 })}},
		{"interrupt 0", Config{CPUs: 1, Devices: change(func(d *Device) { d.IRQ = 0 })}},
		{"interrupt 24", Config{CPUs: 1, Devices: change(func(d *Device) { d.IRQ = 24 })}},
		{"generation interrupt 24", Config{CPUs: 1, GenerationIRQ: 24}},
		{"power button interrupt 24", Config{CPUs: 1, PowerButtonIRQ: 24}},
		{"PCI in RAM", Config{CPUs: 1, PCI: &PCI{Base: 0x1000, Size: 0x1000}}},
		{"PCI window empty", Config{CPUs: 1, PCI: &PCI{Base: 0xd0000000}}},
		{"PCI window too long", Config{CPUs: 1, PCI: &PCI{Base: 0xd0000000, Size: 0x30000001}}},
		{"PCI interrupt 24", Config{CPUs: 1, PCI: &PCI{Base: 0xd0000000, Size: 0x1000, Lines: []uint32{24}}}},
		{"TPM in RAM", Config{CPUs: 1, TPM: &TPM{Base: 0x1000, Size: 0x1000}}},
		{"TPM window empty", Config{CPUs: 1, TPM: &TPM{Base: 0xfed40000}}},
		{"TPM window too long", Config{CPUs: 1, TPM: &TPM{Base: 0xfffff000, Size: 0x1001}}},
		{"TPM control area outside", Config{CPUs: 1, TPM: &TPM{Base: 0xfed40000, Size: 0x1000, ControlArea: 0x1000}}},
		{"33 PCI slots", Config{CPUs: 1, PCI: &PCI{Base: 0xd0000000, Size: 0x1000, Lines: make([]uint32, 33)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Write(newMemory(t), tt.c); !errors.Is(err, ErrConfig) {
				t.Errorf("error %v", err)
			}
		})
	}
	if err := WriteMPTable(newMemory(t), Config{CPUs: 255}); !errors.Is(err, ErrConfig) {
		t.Errorf("255 CPUs in an MP table: error %v", err)
	}
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 4, 31, 64, 254} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			mem := newMemory(t)
			if err := WriteMPTable(mem, Config{CPUs: cpus}); err != nil {
				t.Fatal(err)
			}
			p := at(t, mem, boot.EBDABase, 16)
			if string(p[:4]) != "_MP_" || p[8] != 1 || p[9] != 4 || sum(p) != 0 {
				t.Fatalf("floating pointer % x", p)
			}
			if low := at(t, mem, mpLowPointer, 16); !bytes.Equal(low, p) {
				t.Errorf("the pointer at %#x is % x", mpLowPointer, low)
			}
			if seg := le.Uint16(at(t, mem, 0x40e, 2)); uint64(seg)<<4 != boot.EBDABase {
				t.Errorf("EBDA segment %#x", seg)
			}
			where := uint64(le.Uint32(p[4:]))
			n := uint64(le.Uint16(at(t, mem, where+4, 2)))
			inEBDA := where >= boot.EBDABase+16 && where+n <= boot.EBDABase+boot.EBDASize
			inROM := where >= boot.MPConfBase && where+n <= boot.MPConfEnd
			if !inEBDA && !inROM {
				t.Errorf("%d bytes at %#x", n, where)
			}
			c := at(t, mem, where, n)
			if string(c[:4]) != "PCMP" || sum(c) != 0 || le.Uint32(c[36:]) != 0xfee00000 {
				t.Errorf("header % x", c[:44])
			}
			var count [5]int
			var ioapicID, pins = -1, map[byte]bool{}
			cpuIDs := map[byte]bool{}
			entries := 0
			for b := c[44:]; len(b) > 0; entries++ {
				if b[0] > 4 {
					t.Fatalf("entry of type %d", b[0])
				}
				count[b[0]]++
				switch b[0] {
				case 0:
					if cpuIDs[b[1]] || b[3]&1 == 0 || b[3]&2 != 0 != (b[1] == 0) {
						t.Errorf("processor % x", b[:20])
					}
					cpuIDs[b[1]] = true
					b = b[20:]
					continue
				case 1:
					if string(b[2:8]) != "ISA   " {
						t.Errorf("bus % x", b[:8])
					}
				case 2:
					ioapicID = int(b[1])
					if le.Uint32(b[4:]) != 0xfec00000 || b[3] != 1 || cpuIDs[b[1]] {
						t.Errorf("IOAPIC % x", b[:8])
					}
				case 3:
					if b[1] != 0 || b[5] != b[7] || int(b[6]) != ioapicID {
						t.Errorf("interrupt % x", b[:8])
					}
					pins[b[7]] = true
				}
				b = b[8:]
			}
			if count != [5]int{cpus, 1, 1, 24, 2} || len(pins) != 24 || entries != int(le.Uint16(c[34:])) {
				t.Errorf("%v entries, %d pins, %d said", count, len(pins), le.Uint16(c[34:]))
			}
		})
	}
}

// TestMPTableMatchesGokvm compares the structures both write.
func TestMPTableMatchesGokvm(t *testing.T) {
	const cpus = 4
	g, err := ebda.New(cpus)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := g.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	theirs = theirs[48:]
	ours := mpPointer(boot.EBDABase + 0x40)
	if !bytes.Equal(ours, theirs[:16]) {
		t.Errorf("floating pointer\n% x, gokvm's is\n% x", ours, theirs[:16])
	}
	ours, theirs = mpConfig(cpus), theirs[16:]
	if ours[6] != theirs[6] || !bytes.Equal(ours[36:40], theirs[36:40]) {
		t.Errorf("header\n% x, gokvm's is\n% x", ours[:44], theirs[:44])
	}
	for i := range cpus {
		o, g := ours[44+20*i:][:20], theirs[44+20*i:][:20]
		// Byte 4: gokvm puts the family where the stepping's neighbour is; Linux reads neither.
		if !bytes.Equal(o[:4], g[:4]) || !bytes.Equal(o[8:], g[8:]) {
			t.Errorf("processor %d\n% x, gokvm's is\n% x", i, o, g)
		}
	}
}

// TestIASL lets Intel's compiler read the tables, where it is installed.
func TestIASL(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("iasl is not installed (Debian: acpica-tools): ONLY OUR OWN CHECKS OF THE TABLES RAN")
	}
	_, tables := write(t, fullConfig)
	dir := t.TempDir()
	for name, b := range tables {
		file := filepath.Join(dir, name+".dat")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(iasl, "-d", file).CombinedOutput()
		text, readErr := os.ReadFile(filepath.Join(dir, name+".dsl"))
		if err != nil || readErr != nil || strings.Contains(string(out), "Error") || strings.Contains(string(text), "Invalid") {
			t.Errorf("%s: %v %v\n%s", name, err, readErr, out)
		}
		if out, err := exec.Command(iasl, filepath.Join(dir, name+".dsl")).CombinedOutput(); err != nil {
			t.Errorf("compile %s again: %v\n%s", name, err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "DSDT.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`EisaId ("PNP0501")`, "Device (VGEN)", "Notify (VGEN, 0x80)", "Memory32Fixed (ReadWrite"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("iasl reads no %q in\n%s", want, text)
		}
	}
}
