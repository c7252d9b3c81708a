package probe

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
)

// softwareModule says whether the machine's KVM is the known software one.
func softwareModule() bool {
	_, err := os.Stat("/sys/module/kvm_pvm")
	return err == nil
}

func TestQuick(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	begin := time.Now()
	got, err := probeQuick(sys)
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	want := Architectural
	if softwareModule() {
		want = ArrivesAtCPL3
	}
	if got.Syscall != want || got.SoftwareKVM != softwareModule() {
		t.Errorf("got %+v, want SYSCALL %s, software %v", got, want, softwareModule())
	}
	t.Logf("%+v in %v", got, took)
}

// TestLoopTellsEmulation: the second sign of a software KVM must say the same as the first.
func TestLoopTellsEmulation(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	err = onMachine(sys, cpuid, func(m *machine) error {
		emulated, err := m.emulatesCPL0()
		if err == nil && emulated != softwareModule() {
			t.Errorf("CPL 0 emulated: %v, want %v", emulated, softwareModule())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestQuickIsCached(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	first, err := Quick(sys)
	if err != nil {
		t.Fatal(err)
	}
	// A closed System cannot probe: the answer must come from memory.
	if err := sys.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := Quick(sys); err != nil || again != first {
		t.Errorf("second answer %+v, %v; first %+v", again, err, first)
	}
	if _, err := probeQuick(sys); !errors.Is(err, kvm.ErrClosed) {
		t.Errorf("probe on a closed System: %v", err)
	}
}

func TestRunForEnds(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	err := onMachine(sys, nil, func(m *machine) error {
		for _, level := range []ring{ring0, ring3} {
			if err := m.start(level, kvm.Regs{}, 0xEB, 0xFE); err != nil { // jmp $
				return err
			}
			if _, err := m.runFor(5 * time.Millisecond); !errors.Is(err, errTime) {
				t.Errorf("endless loop at CPL %d: %v", level, err)
			}
			// The machine must be usable after it.
			if err := m.start(level, kvm.Regs{RAX: 0x5A}, 0xE6, reportPort); err != nil {
				return err
			}
			if al, err := m.runTo(patience); err != nil || al != 0x5A {
				t.Errorf("after the kick: %#x, %v", al, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestExceptionsReportTheirVector(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	err := onMachine(sys, nil, func(m *machine) error {
		for _, level := range []ring{ring0, ring3} {
			if err := m.start(level, kvm.Regs{}, 0x0F, 0x0B); err != nil { // ud2
				return err
			}
			end, err := m.runFor(patience)
			if err != nil {
				return err
			}
			if end.reason != kvm.ExitIO || end.port != exceptionPort || end.al != 6 || !strings.Contains(end.String(), "exception 6") {
				t.Errorf("ud2 at CPL %d: %v", level, end)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func BenchmarkQuick(b *testing.B) {
	kvmtest.NoLeaks(b)
	sys := kvmtest.Open(b)
	for b.Loop() {
		if _, err := probeQuick(sys); err != nil {
			b.Fatal(err)
		}
	}
}
