package vmm

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

const hello = "QENEX: user space"

// TestLeanLinux boots the lean kernel to user space and power-off through each way in.
func TestLeanLinux(t *testing.T) {
	for _, mode := range []boot.Mode{boot.Direct, boot.PVH} {
		t.Run(mode.String(), func(t *testing.T) {
			cfg, out := leanConfig(t)
			cfg.Boot = mode
			m := newMachine(t, cfg)
			o := runToEnd(t, m, bootLimit)
			if o.Cause != PowerOff || !strings.Contains(out.String(), hello) {
				t.Fatalf("outcome %v, console:\n%s", o, out)
			}
			r, err := m.Report()
			if err != nil {
				t.Fatal(err)
			}
			if last := r.Milestones[len(r.Milestones)-2].Name; last != "user space" {
				t.Errorf("milestones %v", r.Milestones)
			}
			checkHealing(t, m, r)
			t.Logf("milestones %v, exits %v, completions %v", r.Milestones, r.Exits, r.Completions)
		})
	}
}

// checkHealing wants healing where the probe found the need, and none elsewhere.
func checkHealing(t *testing.T, m *Machine, r *Report) {
	t.Helper()
	if quirk := m.host.Syscall == probe.ArrivesAtCPL3; quirk != (r.Shim != nil && r.Shim.Installed) {
		t.Errorf("SYSCALL quirk %v, shim %+v", quirk, r.Shim)
	}
	if !m.host.SoftwareKVM && len(r.Completions) > 0 {
		t.Errorf("completions on a hardware KVM: %v", r.Completions)
	}
}

// TestLeanBusybox runs a 64-bit userland of forks, pipes and files, through the shim where that is needed.
func TestLeanBusybox(t *testing.T) {
	cfg, out := leanConfig(t)
	cfg.Initrds = []string{linuxtest.File(t, "initramfs-busybox.cpio")}
	cfg.Cmdline += ` qenex.cmd="echo sum=$(seq 3 | wc -l)"`
	m := newMachine(t, cfg)
	o := runToEnd(t, m, bootLimit)
	if o.Cause != PowerOff || !strings.Contains(out.String(), "sum=3") {
		t.Fatalf("outcome %v, console:\n%s", o, out)
	}
	r, err := m.Report()
	if err != nil {
		t.Fatal(err)
	}
	checkHealing(t, m, r)
}

// TestLeanPanic wants a kernel without an init to be reported as a panic.
func TestLeanPanic(t *testing.T) {
	cfg, out := leanConfig(t)
	cfg.Initrds = nil
	m := newMachine(t, cfg)
	if o := runToEnd(t, m, bootLimit); o.Cause != Panic {
		t.Fatalf("outcome %v, console:\n%s", o, out)
	}
}

// TestLeanWithoutHealing wants a software KVM's shortcomings to end in a diagnosis, not in a hang.
func TestLeanWithoutHealing(t *testing.T) {
	cfg, out := leanConfig(t)
	cfg.Heal = false
	m := newMachine(t, cfg)
	o := runToEnd(t, m, bootLimit)
	if !m.host.SoftwareKVM {
		if o.Cause != PowerOff {
			t.Fatalf("outcome %v on a hardware KVM", o)
		}
		return
	}
	f, ok := errors.AsType[*vcpu.Fault](o.Err)
	if o.Cause != GuestFault || !ok || f.Kind != vcpu.FaultEmulation {
		t.Fatalf("outcome %v, console:\n%s", o, out)
	}
}

// TestSaveLoadInTheMiddleOfABoot moves a booting guest from machine to machine, twice, at
// points chosen by the guest's progress. The last one must reach user space and power off.
func TestSaveLoadInTheMiddleOfABoot(t *testing.T) {
	cfg, out := leanConfig(t)
	cfg.Cmdline = strings.ReplaceAll(cfg.Cmdline, " quiet", "")
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"Memory: ", "devtmpfs: initialized"} {
		for end := time.Now().Add(bootLimit); !strings.Contains(out.String(), text); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q not on the console:\n%s", text, out)
			}
		}
		if err := m.Pause(context.Background()); err != nil {
			t.Fatal(err)
		}
		state, err := m.Save()
		if err != nil {
			t.Fatal(err)
		}
		next, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Memory().Regions() {
			from, err := m.Memory().View(r.GPA, r.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := next.Memory().Write(r.GPA, from); err != nil {
				t.Fatal(err)
			}
		}
		refused, err := next.Load(state)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("moved at %q, MSRs refused: %#x", text, refused)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m = next
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	o, err := m.Wait(ctx)
	if err != nil || o.Cause != PowerOff || !strings.Contains(out.String(), hello) {
		t.Fatalf("outcome %v, %v, console:\n%s", o, err, out)
	}
	if n := strings.Count(out.String(), "Linux version"); n != 1 {
		t.Errorf("the kernel began %d times", n)
	}
}

// needsHardware skips what takes a software KVM minutes, and fails if the svm lane has one.
func needsHardware(t *testing.T) {
	t.Helper()
	host, err := probe.Quick(kvmtest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	if host.SoftwareKVM {
		if os.Getenv("QENEX_LANE") == "svm" {
			t.Fatal("the svm lane's KVM is a software one")
		}
		t.Skip("a stock kernel takes minutes on a software KVM: this test belongs to the svm lane (make test-svm)")
	}
}

// TestStockLinux boots Debian's unmodified kernel where guest kernel code is not emulated: as bzImage and as vmlinux,
// with one and with four CPUs. It is the svm lane's test.
func TestStockLinux(t *testing.T) {
	needsHardware(t)
	for _, tt := range []struct {
		kernel string
		cpus   int
		nproc  string
	}{
		{"stock/vmlinuz", 1, "cpus=1"},
		{"stock/vmlinuz", 4, "cpus=4"},
		{"stock/vmlinux", 1, "cpus=1"},
		{"stock/vmlinux", 4, "cpus=4"},
	} {
		t.Run(strings.ReplaceAll(tt.kernel, "/", "-")+"-"+tt.nproc, func(t *testing.T) {
			cfg, out := leanConfig(t)
			cfg.Kernel, cfg.CPUs, cfg.Memory = linuxtest.File(t, tt.kernel), tt.cpus, 512<<20
			cfg.Initrds = []string{linuxtest.File(t, "initramfs-busybox.cpio")}
			cfg.Cmdline += ` qenex.cmd="echo cpus=$(nproc); uname -a"`
			m := newMachine(t, cfg)
			o := runToEnd(t, m, bootLimit)
			if o.Cause != PowerOff || !strings.Contains(out.String(), tt.nproc) {
				t.Fatalf("outcome %v, console:\n%s", o, out)
			}
			r, err := m.Report()
			if err != nil {
				t.Fatal(err)
			}
			checkHealing(t, m, r)
			t.Logf("milestones %v, exits %v", r.Milestones, r.Exits)
		})
	}
}

var stress = flag.Duration("stress", 2*time.Second, "how long TestStress goes on")

// TestStress boots, kicks, pauses, saves, resets and stops machines in random order for as long as -stress says; make
// stress-test says a minute.
func TestStress(t *testing.T) {
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	codes := [][]byte{bareguest.PowerOff, bareguest.RebootKBD, bareguest.Panic, bareguest.TripleFault, bareguest.Busy, bareguest.Halt, bareguest.Chatter, smpGuest(3)}
	var boots, pauses int
	for end := time.Now().Add(*stress); time.Now().Before(end); boots++ {
		cfg := bareConfig(t, codes[rng.IntN(len(codes))])
		cfg.CPUs = 4
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Memory().Write(apEntry, apCode); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		for range rng.IntN(20) {
			err := m.Pause(context.Background())
			if err != nil {
				break // the guest ended by itself
			}
			pauses++
			if rng.IntN(4) == 0 {
				if _, err := m.Save(); err != nil && !errors.Is(err, vcpu.ErrNotPaused) {
					t.Fatal(err)
				}
			}
			if err := m.Resume(); err != nil && !errors.Is(err, vcpu.ErrState) {
				t.Fatal(err)
			}
		}
		if err := m.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d boots, %d pauses", boots, pauses)
}
