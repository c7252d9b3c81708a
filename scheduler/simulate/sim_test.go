package simulate

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// plain charges nothing, so that results can be computed by hand.
func plain() *Calibration {
	return &Calibration{SMT: 0.5, Tick: 4 * ms, Slice: 4 * ms}
}

func traceOf(vcpus ...VCPU) *Trace {
	return &Trace{Header: Header{Version: 1, Kind: "test", Seed: 1, Length: time.Minute}, VCPUs: vcpus}
}

func mustRun(t *testing.T, top *host.Topology, tr *Trace, p Policy, cal *Calibration) *Result {
	t.Helper()
	r, err := Run(top, tr, p, cal, Options{Timeline: true, Detail: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func run(d time.Duration) []Op { return []Op{{Op: Compute, Time: d}} }

func cpus(n int) *host.Topology { return host.Synthetic(1, 1, 1, n, 1) }

func TestTwoHogsOneCPU(t *testing.T) {
	cal := plain()
	cal.Switch = 1 * us
	r := mustRun(t, cpus(1), traceOf(VCPU{Program: run(8 * ms)}, VCPU{Program: run(8 * ms)}), Kernel(), cal)
	// A runs 0-4 ms (1 us of it the switch), B 4-8, A 8-12, then B until the tick at 16 ms, A what is left, and B after it.
	if r.Makespan != 16*ms+time.Duration(r.Switches)*us || r.Switches < 4 || r.Overhead != time.Duration(r.Switches)*us {
		t.Errorf("makespan %v with %d switches that cost %v", r.Makespan, r.Switches, r.Overhead)
	}
	want := []Segment{{0, 0, 0, 4 * ms}, {0, 1, 4 * ms, 8 * ms}, {0, 0, 8 * ms, 12 * ms}}
	if len(r.Timeline) < 4 || !reflect.DeepEqual(r.Timeline[:3], want) {
		t.Errorf("timeline %v, want it to begin with %v", r.Timeline, want)
	}
	if r.Work != 16*ms || r.Utilization != 1 || r.Fairness < 0.99 {
		t.Errorf("work %v, utilization %v, fairness %v", r.Work, r.Utilization, r.Fairness)
	}
}

func TestWeights(t *testing.T) {
	r := mustRun(t, cpus(1), traceOf(VCPU{Program: run(300 * ms)}, VCPU{Program: run(100 * ms)}), weigh{300, 100}, plain())
	if a, b := r.VCPUs[0].End, r.VCPUs[1].End; a < 380*ms || b < 380*ms {
		t.Errorf("three times the weight did not give three times the CPU: ends %v and %v", a, b)
	}
}

// weigh gives vCPUs weights.
type weigh []int

func (weigh) Name() string         { return "weigh" }
func (weigh) Epoch() time.Duration { return 0 }
func (weigh) Plan(*Machine) error  { return nil }
func (w weigh) Start(m *Machine) error {
	for i, x := range w {
		if err := m.Weigh(i, x); err != nil {
			return err
		}
	}
	return nil
}

func pingPong(rounds int) (a, b VCPU) {
	return VCPU{Name: "ping", Passes: rounds, Program: []Op{{Op: Compute, Time: 100 * us}, {Op: Send, ID: 0}, {Op: Recv, ID: 1}}},
		VCPU{Name: "pong", Passes: rounds, Program: []Op{{Op: Recv, ID: 0}, {Op: Compute, Time: 100 * us}, {Op: Send, ID: 1}}}
}

func TestPingPong(t *testing.T) {
	cal := plain()
	cal.Switch, cal.Wake[2], cal.Line[2] = 2*us, 5*us, 1*us
	a, b := pingPong(10)
	r := mustRun(t, cpus(2), traceOf(a, b), Kernel(), cal)
	// Pong first runs to find its channel empty. A message takes 1 us, the wake-up of the other CPU 5; the CPU still knows the vCPU, so
	// there is no switch but the first two, ping's at the start and pong's beside it.
	want := 2*us + 10*200*us + 20*6*us
	if r.Makespan != want || r.Wakes != 20 || r.WakeMax != 6*us || r.WakeP50 != 6*us || r.Migrations != 0 {
		t.Errorf("makespan %v want %v, %d wake-ups up to %v, median %v, %d migrations", r.Makespan, want, r.Wakes, r.WakeMax, r.WakeP50, r.Migrations)
	}
	// Both on one CPU: a switch each time, no way to go.
	r = mustRun(t, cpus(1), traceOf(a, b), Kernel(), cal)
	if want := 10*200*us + time.Duration(r.Switches)*2*us; r.Makespan != want || r.WakeMax != 2*us {
		t.Errorf("on one CPU: makespan %v want %v, wake-ups up to %v", r.Makespan, want, r.WakeMax)
	}
}

func TestLockHolderPreempted(t *testing.T) {
	// The holder shares CPU 0 with a hog; the waiter has CPU 1. The holder takes the lock at 3 ms, is preempted at 4, runs again at 8,
	// and releases at 9. The waiter asks at 3.5 ms.
	tr := traceOf(
		VCPU{Name: "holder", Gang: 1, Pin: []int{0}, Program: []Op{{Op: Compute, Time: 3 * ms}, {Op: Lock, Time: 2 * ms}}},
		VCPU{Name: "hog", Pin: []int{0}, Program: run(20 * ms)},
		VCPU{Name: "waiter", Gang: 1, Pin: []int{1}, Program: []Op{{Op: Compute, Time: 3500 * us}, {Op: Lock, Time: 1 * ms}}},
	)
	r := mustRun(t, cpus(2), tr, Kernel(), plain())
	if r.SpinLost != 5500*us || r.LockMax != 5500*us || r.Locks != 2 || r.VCPUs[0].End != 9*ms || r.VCPUs[2].End != 10*ms {
		t.Errorf("spun %v, longest acquisition %v of %d, ends %v and %v", r.SpinLost, r.LockMax, r.Locks, r.VCPUs[0].End, r.VCPUs[2].End)
	}
	// With the waiter on the holder's CPU, what it spins is lost to the holder; pause-loop exiting ends that.
	tr.VCPUs[2].Pin = []int{0}
	spun := mustRun(t, cpus(1), tr, Kernel(), plain()).SpinLost
	cal := plain()
	cal.PLE = 20 * us
	if with := mustRun(t, cpus(1), tr, Kernel(), cal).SpinLost; spun != 500*us || with != 20*us {
		t.Errorf("one CPU: spun %v, with pause-loop exiting %v", spun, with)
	}
}

func TestGangIsCoScheduled(t *testing.T) {
	member := VCPU{VM: "g", Gang: 1, Passes: 200, Program: []Op{{Op: Compute, Time: 110 * us}, {Op: Lock, Time: 130 * us}}}
	hog := VCPU{Program: run(40 * ms)}
	tr := traceOf(member, hog, member, hog)
	r := mustRun(t, cpus(2), tr, Gangs(), plain())
	// Whenever one member has a CPU, the other has the other one: in all overlaps of segments nobody of the gang runs beside a hog.
	gang := func(v int) bool { return v == 0 || v == 2 }
	for _, a := range r.Timeline {
		for _, b := range r.Timeline {
			end := min(r.VCPUs[0].End, r.VCPUs[2].End, r.VCPUs[1].End, r.VCPUs[3].End)
			if a.CPU != b.CPU && gang(a.VCPU) && !gang(b.VCPU) && a.From < b.To && b.From < a.To && max(a.From, b.From) < end {
				t.Fatalf("member beside hog: %v and %v", a, b)
			}
		}
	}
	if r.LockMax > 5400*us { // the other's slot may come between
		t.Errorf("a member waited %v for a lock whose holder runs whenever it does", r.LockMax)
	}
	if r := mustRun(t, cpus(2), tr, Kernel(), plain()); r.LockMax < 1*ms {
		t.Errorf("the kernel's default never preempted a holder (longest wait %v): the test shows nothing", r.LockMax)
	}
}

func TestBalanceKeepsSiblingsApart(t *testing.T) {
	var all []VCPU
	for i := range 8 {
		all = append(all, VCPU{VM: string(rune('a' + i/2)), Program: []Op{{Op: Burst, Time: 700 * us, Rest: 300 * us, Times: 50}}})
	}
	tr := traceOf(all...)
	p := &spy{Policy: Balance()}
	mustRun(t, cpus(4), tr, p, plain())
	if p.together != 0 || p.looked == 0 {
		t.Errorf("siblings shared a queue %d of %d times", p.together, p.looked)
	}
}

// spy counts siblings that share a queue.
type spy struct {
	Policy
	looked, together int
}

func (s *spy) Epoch() time.Duration { return 300 * us }
func (s *spy) Plan(m *Machine) error {
	for i := 0; i+1 < len(m.vcpus); i += 2 {
		a, b := &m.vcpus[i], &m.vcpus[i+1]
		s.looked++
		if on := func(v *vcpu) bool { return v.state == queued || v.state == running }; on(a) && on(b) && a.cpu == b.cpu {
			s.together++
		}
	}
	return nil
}

func TestSMTSlowsBoth(t *testing.T) {
	top := host.Synthetic(1, 1, 1, 1, 2)
	if r := mustRun(t, top, traceOf(VCPU{Program: run(10 * ms)}, VCPU{Program: run(10 * ms)}), Kernel(), plain()); r.Makespan != 20*ms {
		t.Errorf("two vCPUs on two threads that run at half speed took %v, want 20ms", r.Makespan)
	}
	// The second vCPU needs 5 ms alone: both run at half speed until it is done at 10 ms, then the first is alone.
	if r := mustRun(t, top, traceOf(VCPU{Program: run(10 * ms)}, VCPU{Program: run(5 * ms)}), Kernel(), plain()); r.Makespan != 15*ms {
		t.Errorf("makespan %v, want 15ms", r.Makespan)
	}
	// With two cores the kernel uses both.
	if r := mustRun(t, host.Synthetic(1, 1, 1, 2, 2), traceOf(VCPU{Program: run(10 * ms)}, VCPU{Program: run(10 * ms)}), Kernel(), plain()); r.Makespan != 10*ms {
		t.Errorf("on two cores: makespan %v, want 10ms", r.Makespan)
	}
}

func TestKernelSharesThreeHogsOverTwoCPUs(t *testing.T) {
	hog := VCPU{Program: run(2 * time.Second)}
	r := mustRun(t, cpus(2), traceOf(hog, hog, hog), Kernel(), plain())
	if r.Makespan > 3300*ms || r.Fairness < 0.98 || r.Migrations == 0 {
		t.Errorf("makespan %v (3s at best), fairness %v, %d migrations", r.Makespan, r.Fairness, r.Migrations)
	}
}

func TestIdleCPUsSteal(t *testing.T) {
	// Four hogs, of which two end early: a CPU that runs dry takes from the other.
	long, short := VCPU{Program: run(100 * ms)}, VCPU{Program: run(10 * ms)}
	r := mustRun(t, cpus(2), traceOf(long, short, long, short), Kernel(), plain())
	if r.Makespan > 125*ms {
		t.Errorf("makespan %v, 110ms at best", r.Makespan)
	}
}

// randomTrace makes programs by chance, of which all channels get as many messages as they give.
func randomTrace(r *rand.Rand) *Trace {
	var all []VCPU
	n := 1 + r.IntN(12)
	d := func(most time.Duration) time.Duration { return 1 + time.Duration(r.Int64N(int64(most))) }
	for i := range n {
		v := VCPU{Name: string(rune('a' + i)), VM: string(rune('A' + r.IntN(4))), Gang: r.IntN(3), Cache: r.Float64(), Start: d(10 * ms), Passes: 1 + r.IntN(5)}
		for range 1 + r.IntN(8) {
			switch r.IntN(5) {
			case 0:
				v.Program = append(v.Program, Op{Op: Sleep, Time: d(3 * ms), Exp: r.IntN(2) == 0})
			case 1:
				v.Program = append(v.Program, Op{Op: Lock, ID: r.IntN(2), Time: d(2 * ms)})
			case 2:
				v.Program = append(v.Program, Op{Op: Every, Time: d(3 * ms)})
			case 3:
				v.Program = append(v.Program, Op{Op: Burst, Time: d(ms), Rest: d(ms), Times: r.IntN(5), Jitter: r.Float64()})
			}
			v.Program = append(v.Program, Op{Op: Compute, Time: d(6*ms) + 1000, Jitter: r.Float64()})
		}
		all = append(all, v)
	}
	a, b := pingPong(1 + r.IntN(20))
	return traceOf(append(all, a, b)...)
}

func TestConservation(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 7))
		tr := randomTrace(r)
		top := host.Synthetic(1+r.IntN(2), 1, 1+r.IntN(2), 1+r.IntN(2), 1+r.IntN(2))
		cal := DefaultCalibration()
		if seed%3 == 0 {
			cal.PLE = 30 * us
		}
		for _, p := range Policies(seed) {
			conserve(t, seed, top, tr, p, cal)
		}
	}
}

func conserve(t *testing.T, seed uint64, top *host.Topology, tr *Trace, p Policy, cal *Calibration) {
	t.Helper()
	res := mustRun(t, top, tr, p, cal)
	if !res.Complete {
		t.Fatalf("seed %d, %s: not complete after %v", seed, p.Name(), res.Makespan)
	}
	var run, spin, work, drawn time.Duration
	for _, v := range res.VCPUs {
		run, spin, work = run+v.Run, spin+v.Spin, work+v.Work
	}
	for _, s := range res.Timeline {
		drawn += s.To - s.From
	}
	busy := time.Duration(res.Utilization*float64(res.Makespan)*float64(len(top.CPUs)) + 0.5)
	if run != drawn || (run-busy).Abs() > us {
		t.Fatalf("seed %d, %s: vCPUs ran %v, CPUs were busy %v, the timeline shows %v", seed, p.Name(), run, busy, drawn)
	}
	if len(top.CPUs) > 1 && top.CPUs[0].Core == top.CPUs[len(top.CPUs)/2].Core {
		if rest := run - spin - res.Overhead; work > rest+us {
			t.Fatalf("seed %d, %s: %v of work in %v", seed, p.Name(), work, rest)
		}
	} else if rest := run - spin - res.Overhead; (work - rest).Abs() > time.Duration(res.Events)*2 {
		t.Fatalf("seed %d, %s: %v of work, %v of CPU time that is neither spinning nor overhead", seed, p.Name(), work, rest)
	}
	// The work of a trace is the same under every policy.
	if want := demand(tr); (work - want).Abs() > time.Duration(res.Events)*2 {
		t.Fatalf("seed %d, %s: %v of work done, the trace has %v", seed, p.Name(), work, want)
	}
	// Nobody is on two CPUs at once, and no CPU runs two.
	for _, by := range []func(Segment) int{func(s Segment) int { return s.CPU }, func(s Segment) int { return s.VCPU }} {
		last := map[int]time.Duration{}
		segments := slices.Clone(res.Timeline)
		slices.SortStableFunc(segments, func(a, b Segment) int { return int(a.From - b.From) })
		for _, s := range segments {
			if s.From < last[by(s)] {
				t.Fatalf("seed %d, %s: segment %v overlaps one that ends at %v", seed, p.Name(), s, last[by(s)])
			}
			last[by(s)] = s.To
		}
	}
}

// demand is the work in a trace, drawn as a run draws it.
func demand(t *Trace) (sum time.Duration) {
	for i := range t.VCPUs {
		p := &t.VCPUs[i]
		v := vcpu{rand: rand.New(rand.NewPCG(t.Seed, uint64(i)))}
		for range max(1, p.Passes) {
			for k := range p.Program {
				op := &p.Program[k]
				switch op.Op {
				case Compute, Lock:
					sum += time.Duration(v.duration(op, int64(op.Time)))
				case Sleep, Every:
					v.duration(op, int64(op.Time))
				case Burst:
					for range max(1, op.Times) {
						sum += time.Duration(v.duration(op, int64(op.Time)))
						if op.Rest > 0 {
							v.duration(op, int64(op.Rest))
						}
					}
				}
			}
		}
	}
	return sum
}

func TestSameSeedSameResult(t *testing.T) {
	for _, mix := range Mixes {
		tr, err := Generate(mix, "small", Training(3))
		if err != nil {
			t.Fatal(err)
		}
		top, _ := HostOf("small")
		tr.Length = 500 * ms
		for i := range Policies(1) {
			a, b := mustRun(t, top, tr, Policies(1)[i], DefaultCalibration()), mustRun(t, top, tr, Policies(1)[i], DefaultCalibration())
			a.PlannerCPU, b.PlannerCPU = 0, 0
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s under %s: two runs differ", mix, a.Policy)
			}
		}
	}
}

func TestSeedsAreKeptApart(t *testing.T) {
	if Training(0) != firstTraining || HeldOut(0) != firstHeldOut {
		t.Fatal("ranges do not begin where they should")
	}
	for _, n := range []int{0, 1, 999_999, 1_000_000, 1 << 40} {
		if s := Training(n); s < firstTraining || s >= firstTraining+seedsInRange {
			t.Errorf("training seed %d is %d", n, s)
		}
		if s := HeldOut(n); s < firstHeldOut || s >= firstHeldOut+seedsInRange {
			t.Errorf("held-out seed %d is %d", n, s)
		}
	}
	if firstTraining+seedsInRange > firstHeldOut {
		t.Error("the ranges overlap")
	}
}

func TestBadHosts(t *testing.T) {
	tr := traceOf(VCPU{Program: run(ms)})
	if _, err := Run(&host.Topology{}, tr, Kernel(), nil, Options{}); err == nil {
		t.Error("a host without CPUs was taken")
	}
	if _, err := Run(host.Synthetic(1, 1, 1, MaxCPUs+1, 1), tr, Kernel(), nil, Options{}); err == nil {
		t.Error("a host of too many CPUs was taken")
	}
	if _, err := Run(cpus(1), traceOf(VCPU{Program: run(ms), Pin: []int{7}}), Kernel(), nil, Options{}); err == nil {
		t.Error("a pin to a CPU that is not there was taken")
	}
	bad := plain()
	bad.SMT = 0
	if _, err := Run(cpus(1), tr, Kernel(), bad, Options{}); err == nil {
		t.Error("an SMT factor of 0 was taken")
	}
	flood := traceOf(VCPU{Forever: true, Program: append(run(us), slices.Repeat([]Op{{Op: Send}}, 90_000)...)})
	if _, err := Run(cpus(1), flood, Kernel(), nil, Options{}); err == nil {
		t.Error("a channel that nobody reads grew without end")
	}
	// A trace that waits for a message that never comes ends at its length.
	stuck := traceOf(VCPU{Program: []Op{{Op: Recv}}})
	if r := mustRun(t, cpus(1), stuck, Kernel(), plain()); r.Complete || r.Makespan != time.Minute {
		t.Errorf("a stuck trace ended after %v, complete: %v", r.Makespan, r.Complete)
	}
}
