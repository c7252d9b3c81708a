package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

func TestOutcomes(t *testing.T) {
	for name, tt := range map[string]struct {
		code []byte
		want Cause
	}{
		"power-off":         {bareguest.PowerOff, PowerOff},
		"reset by keyboard": {bareguest.RebootKBD, Reboot},
		"reset by ACPI":     {bareguest.RebootACPI, Reboot},
		"reset by 0xcf9":    {bareguest.RebootCF9, Reboot},
		"panic":             {bareguest.Panic, Panic},
		"triple fault":      {bareguest.TripleFault, TripleFault},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, bareConfig(t, tt.code))
			o := runToEnd(t, m, bootLimit)
			if o.Cause != tt.want {
				t.Fatalf("outcome %v, want %v", o, tt.want)
			}
			if _, isFault := errors.AsType[*vcpu.Fault](o.Err); isFault != (tt.want == TripleFault) {
				t.Errorf("error %v", o.Err)
			}
			r, err := m.Report()
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != tt.want.String() || r.Memory.VMM == 0 || len(r.Milestones) < 3 {
				t.Errorf("report %+v", r)
			}
		})
	}
}

// TestStop stops machines that never end by themselves.
func TestStop(t *testing.T) {
	for name, code := range map[string][]byte{"busy": bareguest.Busy, "halted": bareguest.Halt, "chattering": bareguest.Chatter} {
		t.Run(name, func(t *testing.T) {
			cfg := bareConfig(t, code)
			cfg.CPUs = 2
			m := newMachine(t, cfg)
			if err := m.Start(); err != nil {
				t.Fatal(err)
			}
			if err := m.Stop(context.Background()); err != nil {
				t.Fatal(err)
			}
			if o, err := m.Wait(context.Background()); err != nil || o.Cause != Ended {
				t.Errorf("outcome %v, %v", o, err)
			}
		})
	}
}

// TestStopWithABlockedConsole stops a guest that writes to a console which takes nothing.
func TestStopWithABlockedConsole(t *testing.T) {
	cfg := bareConfig(t, bareguest.Chatter)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Console = w
	m := newMachine(t, cfg)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.Close() // ends a write in progress
	w.Close()
}

// smpGuest sends INIT and SIPI to all other CPUs, waits until n of them have counted themselves, and powers off. The others
// start at apEntry in real mode.
func smpGuest(n int) []byte {
	code := []byte{
		0xBB, 0x00, 0x03, 0xE0, 0xFE, // mov ebx, 0xfee00300
		0xC7, 0x03, 0x00, 0x45, 0x0C, 0x00, // mov dword [rbx], INIT to all but self
		0xC7, 0x03, 0x08, 0x46, 0x0C, 0x00, // mov dword [rbx], SIPI 0x8000 to all but self
		0xC7, 0x03, 0x08, 0x46, 0x0C, 0x00, // again, as real systems do
		0xF3, 0x90, // pause
		0x81, 0x3C, 0x25, 0x00, 0x00, 0x07, 0x00, // cmp dword [0x70000], n
	}
	code = binary.LittleEndian.AppendUint32(code, uint32(n))
	code = append(code, 0x75, 0xF1) // jne pause
	return append(code, bareguest.PowerOff...)
}

const (
	apEntry   = 0x8000
	apCounter = 0x70000
)

var apCode = []byte{0xB8, 0x00, 0x70, 0x8E, 0xD8, 0xF0, 0x66, 0xFF, 0x06, 0x00, 0x00, 0xFA, 0xF4, 0xEB, 0xFC} // mov ds, 0x7000; lock inc dword [0]; cli; hlt

func TestSMPBringUp(t *testing.T) {
	for _, cpus := range []int{2, 4, MaxCPUs} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			cfg := bareConfig(t, smpGuest(cpus-1))
			cfg.CPUs = cpus
			m := newMachine(t, cfg)
			if err := m.Memory().Write(apEntry, apCode); err != nil {
				t.Fatal(err)
			}
			if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
				t.Fatalf("outcome %v", o)
			}
			if n, _ := m.Memory().Uint32(apCounter); n != uint32(cpus-1) {
				t.Errorf("%d other CPUs came up, want %d", n, cpus-1)
			}
		})
	}
}

// TestWildGuest writes to every port but those that end the machine, and to MMIO addresses all over the hole and beyond.
func TestWildGuest(t *testing.T) {
	code := []byte{
		0x31, 0xD2, // xor edx, edx
		0x66, 0x83, 0xFA, 0x64, 0x74, 0x2D, // l: cmp dx, 0x64; je next
		0x66, 0x81, 0xFA, 0x92, 0x00, 0x74, 0x26, // cmp dx, 0x92; je next
		0x66, 0x81, 0xFA, 0xF9, 0x0C, 0x74, 0x1F, // cmp dx, 0xcf9; je next
		0x66, 0x81, 0xFA, 0x05, 0x05, 0x74, 0x18, // cmp dx, 0x505; je next
		0x66, 0x81, 0xFA, 0x00, 0x06, 0x74, 0x11, // cmp dx, 0x600; je next
		0x66, 0x81, 0xFA, 0x02, 0x06, 0x74, 0x0A, // cmp dx, 0x602; je next
		0xEC, 0xB0, 0xFF, 0xEE, // in al, dx; mov al, 0xff; out dx, al
		0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // nop...
		0x66, 0xFF, 0xC2, // next: inc dx
		0x75, 0xC8, // jnz l
	}
	for _, gpa := range []uint32{0xC0000000, 0xD0000000, 0xFEB00000, 0xFEC00000, 0xFED40000, 0xFEE00FF0, 0xFFFFFFF8} {
		code = append(code, 0xBB) // mov ebx, gpa
		code = binary.LittleEndian.AppendUint32(code, gpa)
		code = append(code, 0x48, 0x89, 0x03, 0x48, 0x8B, 0x03) // mov [rbx], rax; mov rax, [rbx]
	}
	cfg := bareConfig(t, append(code, bareguest.PowerOff...))
	m := newMachine(t, cfg)
	if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
		t.Fatalf("outcome %v", o)
	}
	r, err := m.Report()
	if err != nil {
		t.Fatal(err)
	}
	if r.UnclaimedPortIO.Writes < 60000 || r.UnclaimedMMIO.Writes < 4 {
		t.Errorf("unclaimed accesses: ports %+v, MMIO %+v", r.UnclaimedPortIO, r.UnclaimedMMIO)
	}
}

func TestPauseResume(t *testing.T) {
	cfg := bareConfig(t, bareguest.Chatter)
	out := new(linuxtest.Console)
	cfg.Console, cfg.CPUs = out, 2
	m := newMachine(t, cfg)
	events, cancel := m.Subscribe(16)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := m.Pause(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Save(); err != nil {
			t.Fatal(err)
		}
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	before := len(out.String())
	for len(out.String()) <= before {
		time.Sleep(time.Millisecond)
	}
	cancel()
	kinds := map[EventKind]int{}
	for e := range events {
		kinds[e.Kind]++
	}
	if kinds[EventStarted] != 1 || kinds[EventPaused] == 0 || kinds[EventResumed] == 0 {
		t.Errorf("events %v", kinds)
	}
}

// TestBadConfig wants one clear error for each kind of bad input, and nothing left behind.
func TestBadConfig(t *testing.T) {
	good := bareConfig(t, bareguest.PowerOff)
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("not a kernel, just text"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 40*memmap.MiB); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   error
		text   string
	}{
		"no kernel":       {func(c *Config) { c.Kernel = "" }, ErrConfig, "no kernel"},
		"missing kernel":  {func(c *Config) { c.Kernel = "/nonexistent" }, ErrConfig, "/nonexistent"},
		"directory":       {func(c *Config) { c.Kernel = "/" }, ErrConfig, "not a regular file"},
		"junk kernel":     {func(c *Config) { c.Kernel = junk }, boot.ErrNotKernel, "junk"},
		"missing initrd":  {func(c *Config) { c.Initrds = []string{"/nonexistent"} }, ErrConfig, "initrd"},
		"initrd too big":  {func(c *Config) { c.Initrds = []string{big} }, boot.ErrInitrd, ""},
		"no CPUs":         {func(c *Config) { c.CPUs = 0 }, ErrConfig, "0 CPUs"},
		"too many CPUs":   {func(c *Config) { c.CPUs = 65 }, ErrConfig, "65 CPUs"},
		"little memory":   {func(c *Config) { c.Memory = 31 * memmap.MiB }, ErrConfig, "31 MiB"},
		"too much memory": {func(c *Config) { c.Memory = 1 << 50 }, ErrConfig, "this host has"},
		"odd memory":      {func(c *Config) { c.Memory++ }, ErrConfig, "multiple"},
		"long cmdline":    {func(c *Config) { c.Cmdline = strings.Repeat("a", 70000) }, boot.ErrCmdline, ""},
		"NUL in cmdline":  {func(c *Config) { c.Cmdline = "a\x00b" }, ErrConfig, "NUL"},
		"bzImage mode":    {func(c *Config) { c.Boot = boot.Linux64 }, boot.ErrMode, ""},
		"TPM, no ACPI":    {func(c *Config) { c.TPM = fakeTPM{} }, ErrConfig, "ACPI"},
		"no KVM":          {func(c *Config) { c.KVM = "/nonexistent" }, kvm.ErrNoDevice, "/nonexistent"},
		"not KVM":         {func(c *Config) { c.KVM = "/dev/null" }, kvm.ErrNotKVM, "/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			m, err := New(cfg)
			if err == nil {
				m.Close()
				t.Fatal("no error")
			}
			if tt.want == boot.ErrInitrd && errors.Is(err, boot.ErrMemory) {
				return
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q, want %q with %q", err, tt.want, tt.text)
			}
			hostTrouble := tt.want == kvm.ErrNoDevice || tt.want == kvm.ErrNotKVM
			if IsConfigError(err) == hostTrouble {
				t.Errorf("IsConfigError(%v) = %v", err, !hostTrouble)
			}
		})
	}
}

// TestCreationTouchesNoRAM holds the promise that guest memory costs nothing until the guest uses it.
func TestCreationTouchesNoRAM(t *testing.T) {
	cfg := bareConfig(t, bareguest.PowerOff)
	cfg.Memory = 4 * memmap.GiB
	m := newMachine(t, cfg)
	r, err := m.Report()
	if err != nil {
		t.Fatal(err)
	}
	if r.Memory.Guest >= 1024 {
		t.Errorf("%d KiB of guest memory touched at creation, want < 1 MiB", r.Memory.Guest)
	}
}

func TestWatcher(t *testing.T) {
	out := new(linuxtest.Console)
	seen := map[string]int{}
	w := watcher{out: out, marks: []mark{
		{[]byte("needle"), func() { seen["needle"]++ }},
		{[]byte("x"), func() { seen["x"]++ }},
	}}
	for _, p := range []string{"hay ne", "", "ed", "le needle", "xx"} {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if seen["needle"] != 1 || seen["x"] != 1 {
		t.Errorf("seen %v, want each once", seen)
	}
	if out.String() != "hay needle needlexx" {
		t.Errorf("passed on %q", out.String())
	}
}
