package vcpu

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
)

var stress = flag.Duration("stress", 2*time.Second, "how long TestStressKicks goes on")

// Small guests in 16-bit real mode, loaded at codeGPA.
const codeGPA = 0x1000

var (
	busy   = []byte{0xEB, 0xFE}                                     // jmp .
	halted = []byte{0xFA, 0xF4, 0xEB, 0xFD}                         // cli; hlt; jmp hlt
	talker = []byte{0xE6, 0x10, 0xEB, 0xFC}                         // out 0x10, al; jmp .
	reader = []byte{0xE4, 0x10, 0xE6, 0x11, 0xEB, 0xFA}             // in al, 0x10; out 0x11, al; jmp .
	mmio   = []byte{0xA1, 0x00, 0x00, 0xA3, 0x08, 0x00, 0xEB, 0xF8} // mov ax, [0]; mov [8], ax; jmp . with DS at 1 MiB
)

// busFunc is a Bus of one function.
type busFunc func(addr uint64, p []byte, write bool)

func (f busFunc) Read(addr uint64, p []byte)  { f(addr, p, false) }
func (f busFunc) Write(addr uint64, p []byte) { f(addr, p, true) }

func silent(uint64, []byte, bool) {}

// testVM is a VM with one vCPU about to run code in real mode.
type testVM struct {
	sys *kvm.System
	vm  *kvm.VM
	mem *memmap.Memory
	cpu *VCPU
}

func newTestVM(t testing.TB, code []byte, cfg Config) *testVM {
	t.Helper()
	kvmtest.NoLeaks(t)
	v := &testVM{sys: kvmtest.Open(t)}
	var err error
	v.vm, err = v.sys.CreateVM()
	must(t, err)
	t.Cleanup(func() { must(t, v.vm.Close()) })
	must(t, v.vm.CreateIRQChip())
	v.mem, err = memmap.New(memmap.MinSize)
	must(t, err)
	t.Cleanup(func() { must(t, v.mem.Close()) })
	must(t, v.mem.Slots(v.vm, 0))
	must(t, v.mem.Write(codeGPA, code))
	k, err := v.vm.CreateVCPU(0)
	must(t, err)
	s, err := k.Sregs()
	must(t, err)
	s.CS.Base, s.CS.Selector = 0, 0
	s.DS.Base, s.DS.Selector = memmap.MinSize, 0xFFFF
	must(t, k.SetSregs(&s))
	must(t, k.SetRegs(&kvm.Regs{RIP: codeGPA, RFLAGS: 2}))
	if cfg.Ports == nil {
		cfg.Ports = busFunc(silent)
	}
	if cfg.MMIO == nil {
		cfg.MMIO = busFunc(silent)
	}
	cfg.Memory = v.mem
	v.cpu = New(k, cfg)
	t.Cleanup(func() { must(t, v.cpu.Close()) })
	return v
}

// soon is how long Pause and Stop may take.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStopInEverySituation(t *testing.T) {
	for name, code := range map[string][]byte{"busy": busy, "halted": halted, "talking": talker} {
		t.Run(name, func(t *testing.T) {
			v := newTestVM(t, code, Config{})
			if err := v.cpu.Start(); err != nil {
				t.Fatal(err)
			}
			waitInGuest(t, v.cpu)
			must(t, v.cpu.Stop(soon(t)))
			if s := v.cpu.State(); s != Stopped {
				t.Errorf("state %v after Stop", s)
			}
			if err := v.cpu.Stop(soon(t)); err != nil {
				t.Errorf("second Stop: %v", err)
			}
			if err := v.cpu.Start(); !errors.Is(err, ErrState) {
				t.Errorf("Start after Stop: %v, want ErrState", err)
			}
		})
	}
	t.Run("not yet started", func(t *testing.T) {
		v := newTestVM(t, busy, Config{})
		must(t, v.cpu.Stop(soon(t)))
	})
	t.Run("not yet entered", func(t *testing.T) {
		for range 50 {
			v := newTestVM(t, busy, Config{})
			if err := v.cpu.Start(); err != nil {
				t.Fatal(err)
			}
			must(t, v.cpu.Stop(soon(t)))
		}
	})
	t.Run("waiting for SIPI", func(t *testing.T) {
		v := newTestVM(t, busy, Config{})
		if err := v.cpu.kvm.SetMPState(kvm.MPStateUninitialized); err != nil {
			t.Fatal(err)
		}
		if err := v.cpu.Start(); err != nil {
			t.Fatal(err)
		}
		must(t, v.cpu.Pause(soon(t)))
		if err := v.cpu.Resume(); err != nil {
			t.Fatal(err)
		}
		must(t, v.cpu.Stop(soon(t)))
	})
}

// TestStopWhileInAnExit stops a vCPU whose handler does not return yet: nothing more of the guest may run.
// TestStopIsFinal: a Resume or a Pause that comes before the thread has noticed does not take a stop back.
func TestStopIsFinal(t *testing.T) {
	for range 10 {
		v := newTestVM(t, busy, Config{})
		must(t, v.cpu.Start())
		v.cpu.RequestStop()
		if err := v.cpu.Pause(soon(t)); !errors.Is(err, ErrState) {
			t.Fatalf("Pause after RequestStop: %v, want ErrState", err)
		}
		must(t, v.cpu.Stop(soon(t)))

		v = newTestVM(t, busy, Config{})
		must(t, v.cpu.Start())
		must(t, v.cpu.Pause(soon(t)))
		v.cpu.RequestStop()
		if err := v.cpu.Resume(); !errors.Is(err, ErrState) {
			t.Fatalf("Resume after RequestStop: %v, want ErrState", err)
		}
		must(t, v.cpu.Stop(soon(t)))
	}
}

func TestStopWhileInAnExit(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var exits atomic.Int32
	v := newTestVM(t, talker, Config{Ports: busFunc(func(uint64, []byte, bool) {
		if exits.Add(1) == 1 {
			close(entered)
			<-release
		}
	})})
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	<-entered
	v.cpu.RequestStop()
	select {
	case <-v.cpu.Done():
		t.Fatal("stopped inside a handler")
	default:
	}
	close(release)
	must(t, v.cpu.Stop(soon(t)))
	if n := exits.Load(); n != 1 {
		t.Errorf("%d exits handled, want 1: the guest ran on after RequestStop", n)
	}
}

func TestPauseStopsTheGuest(t *testing.T) {
	var n atomic.Uint64
	v := newTestVM(t, talker, Config{Ports: busFunc(func(uint64, []byte, bool) { n.Add(1) })})
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		waitFor(t, "exits", func(last uint64) bool { return n.Load() > last }, n.Load())
		must(t, v.cpu.Pause(soon(t)))
		before := n.Load()
		if _, _, err := v.cpu.Registers(); err != nil {
			t.Fatal(err)
		}
		if after := n.Load(); after != before {
			t.Fatalf("%d exits while paused", after-before)
		}
		if err := v.cpu.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPauseSettlesReads pauses between a read's exit and its answer's arrival in the guest: the saved state must
// already hold the answer.
func TestPauseSettlesReads(t *testing.T) {
	for name, tt := range map[string]struct {
		code []byte
		in   uint64
		out  uint64
	}{"port": {reader, 0x10, 0x11}, "mmio": {mmio, memmap.MinSize, memmap.MinSize + 8}} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{})
			var once sync.Once
			proceed := make(chan struct{})
			var wrong atomic.Int32
			bus := busFunc(func(addr uint64, p []byte, write bool) {
				if write {
					if p[0] != 0x5A {
						wrong.Add(1)
					}
					return
				}
				for i := range p {
					p[i] = 0x5A
				}
				once.Do(func() { close(asked); <-proceed })
			})
			v := newTestVM(t, tt.code, Config{Ports: bus, MMIO: bus})
			if err := v.cpu.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			paused := make(chan error, 1)
			go func() { paused <- v.cpu.Pause(context.Background()) }()
			waitFor(t, "pause to be wanted", func(uint64) bool {
				v.cpu.mu.Lock()
				defer v.cpu.mu.Unlock()
				return v.cpu.want == Paused
			}, 0)
			close(proceed)
			if err := <-paused; err != nil {
				t.Fatal(err)
			}
			r, _, err := v.cpu.Registers()
			if err != nil {
				t.Fatal(err)
			}
			if byte(r.RAX) != 0x5A {
				t.Errorf("rax %#x in the paused state, want the answer 0x5a", r.RAX)
			}
			if r.RIP == codeGPA {
				t.Error("rip still at the read")
			}
			if err := v.cpu.Resume(); err != nil {
				t.Fatal(err)
			}
			if wrong.Load() != 0 {
				t.Error("the guest saw another answer than the bus gave")
			}
		})
	}
}

// tripleFaulter makes the vCPU execute ud2 in protected mode with an empty IDT.
func tripleFaulter(t *testing.T, v *testVM) {
	t.Helper()
	s, err := v.cpu.kvm.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	s.CR0 |= 1
	s.IDT.Limit = 0
	if err := v.cpu.kvm.SetSregs(&s); err != nil {
		t.Fatal(err)
	}
}

var undefined = []byte{0x0F, 0x0B} // ud2

func TestFaultsArePromptAndSayWhere(t *testing.T) {
	v := newTestVM(t, undefined, Config{})
	tripleFaulter(t, v)
	faults := make(chan *Fault, 1)
	v.cpu.cfg.OnFault = func(_ *VCPU, f *Fault) bool { faults <- f; return false }
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	f := <-faults
	if f.Kind != FaultTripleFault {
		t.Fatalf("fault %v, want a triple fault", f)
	}
	waitFor(t, "faulted state", func(uint64) bool { return v.cpu.State() == Faulted }, 0)
	if err := v.cpu.Pause(soon(t)); !errors.Is(err, ErrFault) {
		t.Errorf("Pause of a faulted vCPU: %v, want ErrFault", err)
	}
	if text := v.cpu.Fault().Error(); !strings.Contains(text, "triple fault at rip") {
		t.Errorf("fault text %q", text)
	}
	must(t, v.cpu.Stop(soon(t)))
}

// TestMendedFaultGoesOn restarts a vCPU from OnFault with the registers of a sane guest.
func TestMendedFaultGoesOn(t *testing.T) {
	var writes atomic.Int32
	v := newTestVM(t, undefined, Config{Ports: busFunc(func(uint64, []byte, bool) { writes.Add(1) })})
	if err := v.mem.Write(0x2000, talker); err != nil {
		t.Fatal(err)
	}
	sane, err := v.cpu.kvm.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	tripleFaulter(t, v)
	v.cpu.cfg.OnFault = func(c *VCPU, _ *Fault) bool {
		return c.Restart(&kvm.Regs{RIP: 0x2000, RFLAGS: 2}, &sane) == nil
	}
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the guest to go on", func(uint64) bool { return writes.Load() > 0 }, 0)
}

// TestStressKicks pauses, resumes and looks at a vCPU from many goroutines at once.
func TestStressKicks(t *testing.T) {
	var n atomic.Uint64
	v := newTestVM(t, talker, Config{Ports: busFunc(func(uint64, []byte, bool) { n.Add(1) })})
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(*stress)
	var wg sync.WaitGroup
	var pauses atomic.Uint64
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := v.cpu.Pause(soon(t)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("pause: %v", err)
					return
				}
				pauses.Add(1)
				if err := v.cpu.Resume(); err != nil {
					t.Errorf("resume: %v", err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for time.Now().Before(end) {
			v.cpu.kick() // spurious: nothing is wanted
			_ = v.cpu.Stats()
			_ = v.cpu.State()
		}
	})
	wg.Wait()
	if err := v.cpu.Resume(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the guest to go on after the storm", func(last uint64) bool { return n.Load() > last+10 }, n.Load())
	must(t, v.cpu.Stop(soon(t)))
	t.Logf("%d pauses, %d exits", pauses.Load(), n.Load())
}

// waitInGuest waits until the vCPU's thread runs and has had time to enter: the guest's own exits are the sign where it
// makes any; else the thread is.
func waitInGuest(t testing.TB, v *VCPU) {
	t.Helper()
	waitFor(t, "the thread", func(uint64) bool { return v.ThreadID() != 0 }, 0)
}

func waitFor(t testing.TB, what string, cond func(uint64) bool, last uint64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(last); {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestPauseRightAfterResume pauses before the thread has noticed a Resume: the pause must hold all the same.
func TestPauseRightAfterResume(t *testing.T) {
	v := newTestVM(t, busy, Config{})
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err := v.cpu.Pause(soon(t)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.cpu.Registers(); err != nil {
			t.Fatal(err)
		}
		if err := v.cpu.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestThreadName: a vCPU's thread is named after it while it lives, and no other thread ever is, the process's first least of all.
func TestThreadName(t *testing.T) {
	comm := func(of string) string {
		b, err := os.ReadFile("/proc/self/" + of + "/comm")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	process := comm("task/" + strconv.Itoa(os.Getpid()))
	for range 20 {
		v := newTestVM(t, busy, Config{})
		must(t, v.cpu.Start())
		waitInGuest(t, v.cpu)
		if name := comm("task/" + strconv.Itoa(v.cpu.ThreadID())); name != "vcpu0\n" {
			t.Fatalf("the thread of vCPU 0 is named %q", name)
		}
		must(t, v.cpu.Stop(soon(t)))
		if name := comm("task/" + strconv.Itoa(os.Getpid())); name != process {
			t.Fatalf("the process is named %q, was %q", name, process)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/comm")
	must(t, err)
	waitFor(t, "the vCPUs' threads to end", func(uint64) bool {
		for _, thread := range threads {
			if b, err := os.ReadFile(thread); err == nil && string(b) == "vcpu0\n" {
				return false
			}
		}
		return true
	}, 0)
}

// BenchmarkStop is the promise that a vCPU stops within 100 ms, whatever its guest does. ns/op is a mean; the worst case
// is reported beside it.
func BenchmarkStop(b *testing.B) {
	for name, code := range map[string][]byte{"busy": busy, "halted": halted, "talking": talker} {
		b.Run(name, func(b *testing.B) {
			var worst, total time.Duration
			for range b.N {
				v := newTestVM(b, code, Config{})
				must(b, v.cpu.Start())
				waitInGuest(b, v.cpu)
				began := time.Now()
				must(b, v.cpu.Stop(context.Background()))
				d := time.Since(began)
				total += d
				worst = max(worst, d)
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "stop-ns")
			b.ReportMetric(float64(worst.Nanoseconds()), "worst-stop-ns")
		})
	}
}

// BenchmarkPauseResume is one pause of a busy guest and its end.
func BenchmarkPauseResume(b *testing.B) {
	v := newTestVM(b, busy, Config{})
	must(b, v.cpu.Start())
	for b.Loop() {
		must(b, v.cpu.Pause(context.Background()))
		must(b, v.cpu.Resume())
	}
}

// BenchmarkPortExit is one port write: out of the guest, through the run loop to an empty handler, and back.
func BenchmarkPortExit(b *testing.B) {
	var n atomic.Uint64
	v := newTestVM(b, talker, Config{Ports: busFunc(func(uint64, []byte, bool) { n.Add(1) })})
	must(b, v.cpu.Start())
	b.ResetTimer()
	for n.Load() < uint64(b.N) {
		runtime.Gosched()
	}
	must(b, v.cpu.Stop(context.Background()))
}
