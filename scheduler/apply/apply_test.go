package apply

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/scheduler/plan"
	"golang.org/x/sys/unix"
)

var guarded = Options{Guard: []string{self, "guard"}}

func TestApplyAndRestore(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	a := newApplier(t, guarded)
	targets, settings := []Target{g.worker()}, []plan.Setting{{CPUs: one(ids[1]), Slice: 3 * time.Millisecond}}
	if r := a.must(t, targets, settings); r.Threads != 1 || r.Changed != 1 || r.Gone+r.Refused+r.Foreign+r.Returned != 0 {
		t.Errorf("%+v", r)
	}
	now := stateOf(t, g.tid)
	if !slices.Equal(now.CPUs, one(ids[1])) || a.ledger.Base > 0 && now.Slice != 3*time.Millisecond {
		t.Errorf("%+v", now)
	}
	if r := a.must(t, targets, settings); r.Threads != 1 || r.Changed != 0 {
		t.Errorf("the same plan again: %+v", r)
	}
	// Another CPU, the slice as it was.
	if r := a.must(t, targets, []plan.Setting{{CPUs: one(ids[0])}}); r.Changed != 1 {
		t.Errorf("%+v", r)
	}
	if now = stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[0])) || now.Slice != was.Slice {
		t.Errorf("%+v", now)
	}
	// A plan without it.
	if r := a.must(t, nil, nil); r.Returned != 1 || r.Threads != 0 {
		t.Errorf("%+v", r)
	}
	if now = stateOf(t, g.tid); !equal(now, was) {
		t.Errorf("%+v after a plan without it, %+v before", now, was)
	}
	a.must(t, targets, settings)
	if r, err := a.Restore(); err != nil || r.Threads != 1 || r.Heirs != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if now = stateOf(t, g.tid); !equal(now, was) {
		t.Errorf("%+v after Restore, %+v before", now, was)
	}
	if r, err := a.Restore(); err != nil || r != (Restored{}) {
		t.Errorf("a second time: %+v, %v", r, err)
	}
}

func TestWholeProcess(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	a := newApplier(t, guarded)
	targets, settings := []Target{g.all()}, []plan.Setting{{CPUs: one(ids[1]), Slice: 5 * time.Millisecond}}
	r := a.must(t, targets, settings)
	if r.Threads < 2 || r.Changed != r.Threads {
		t.Errorf("%+v", r)
	}
	later := g.more(t, "thread") // pinned by its maker, and not known
	child := g.more(t, "child")
	for _, tid := range []int{later, child} {
		if now := stateOf(t, tid); !slices.Equal(now.CPUs, one(ids[1])) {
			t.Fatalf("thread %d: %+v", tid, now)
		}
	}
	if r := a.must(t, targets, settings); r.Changed != 0 {
		t.Errorf("%+v: a new thread has what its process has", r)
	}
	another := g.more(t, "thread")
	if r, err := a.Restore(); err != nil || r.Heirs < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, tid := range []int{g.tid, later, child, another} {
		if now := stateOf(t, tid); !equal(now, was) {
			t.Errorf("thread %d: %+v after Restore, %+v before", tid, now, was)
		}
	}
	tids, err := threads(g.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		if now := stateOf(t, tid); !slices.Equal(now.CPUs, was.CPUs) {
			t.Errorf("thread %d is left on %v", tid, now.CPUs)
		}
	}
}

func TestForeignChangesStay(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	a := newApplier(t, guarded)
	targets, settings := []Target{g.worker()}, []plan.Setting{{CPUs: one(ids[1]), Slice: 2 * time.Millisecond}}
	a.must(t, targets, settings)
	if err := setCPUs(g.tid, one(ids[0])); err != nil {
		t.Fatal(err)
	}
	if r := a.must(t, targets, settings); r.Foreign != 1 || r.Changed != 0 {
		t.Errorf("%+v", r)
	}
	if r, err := a.Restore(); err != nil || r.Foreign != 1 || r.Threads != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[0])) || now.Slice != 0 {
		t.Errorf("%+v: the affinity is theirs, the slice was ours", now)
	}
	// What was never set is how it is found when it is first set.
	a.must(t, targets, []plan.Setting{{Slice: 2 * time.Millisecond}})
	if err := setCPUs(g.tid, one(ids[1])); err != nil {
		t.Fatal(err)
	}
	if r := a.must(t, targets, []plan.Setting{{CPUs: one(ids[0])}}); r.Foreign != 0 || r.Changed != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := a.Restore(); err != nil {
		t.Error(err)
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[1])) {
		t.Errorf("%+v", now)
	}
}

func TestVanished(t *testing.T) {
	ids := cpus(t)
	g, h := newGuest(t, 0), newGuest(t, 0)
	a := newApplier(t, guarded)
	stale := g.worker()
	stale.Birth = 1
	late := h.worker()
	late.TIDs = append(late.TIDs, g.tid) // a thread of another process: its ID was used again
	targets := []Target{g.worker(), h.all()}
	settings := []plan.Setting{{CPUs: one(ids[1])}, {CPUs: one(ids[1])}}
	if r := a.must(t, []Target{stale, late}, settings); r.Gone != 2 || r.Changed != 1 {
		t.Errorf("%+v", r)
	}
	a.must(t, targets, settings)
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if r := a.must(t, targets, settings); r.Gone != 1 || r.Threads != 1 || r.Changed != 0 {
		t.Errorf("%+v", r)
	}
	if n := len(a.ledger.records); n != 1 {
		t.Errorf("%d records of one living thread", n)
	}
	// An ID that another thread has now is not touched.
	for id, r := range a.ledger.records {
		delete(a.ledger.records, id)
		r.Thread.Birth--
		r.Of.Birth--
		a.ledger.records[r.Thread] = r
	}
	if r, err := a.Restore(); err != nil || r.Gone != 1 || r.Threads != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[1])) {
		t.Errorf("%+v", now)
	}
}

func TestNoSuchCPU(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	a := newApplier(t, guarded)
	targets := []Target{g.all()}
	a.must(t, targets, []plan.Setting{{CPUs: one(ids[1])}})
	for range 2 {
		r := a.must(t, targets, []plan.Setting{{CPUs: one(maxCPUs - 1), Slice: time.Millisecond}})
		if r.Refused != r.Threads || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "runs where it ran before") {
			t.Errorf("%+v", r)
		}
		if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, was.CPUs) || a.ledger.Base > 0 && now.Slice != time.Millisecond {
			t.Errorf("%+v", now)
		}
	}
	// Some of the CPUs are enough.
	for i, want := range []bool{true, false} {
		r := a.must(t, targets, []plan.Setting{{CPUs: []int{maxCPUs - 1, ids[1], ids[1]}, Slice: time.Millisecond}})
		if (r.Changed == r.Threads) != want || r.Refused != 0 {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[1])) {
		t.Errorf("%+v", now)
	}
}

// TestCpuset takes CPUs away from under a plan.
func TestCpuset(t *testing.T) {
	root(t)
	ids := cpus(t)
	const mount = "/sys/fs/cgroup/cpuset"
	mems, err := os.ReadFile(mount + "/cpuset.mems")
	if err != nil {
		t.Skipf("needs the cpuset controller of cgroup v1: %v", err)
	}
	c := cgroups{Mount: mount, proc: "/proc", files: osFiles{}}
	dir := fmt.Sprintf("%s/qenex-test-%d", mount, os.Getpid())
	if err := c.create(dir, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.remove(dir); err != nil {
			t.Error(err)
		}
	})
	write := func(name, text string) {
		t.Helper()
		if err := c.files.WriteFile(dir+name, text); err != nil {
			t.Fatal(err)
		}
	}
	both := fmt.Sprintf("%d,%d", ids[0], ids[1])
	write("/cpuset.cpus", both)
	write("/cpuset.mems", string(mems))
	g := newGuest(t, 0)
	write("/cgroup.procs", fmt.Sprint(g.cmd.Process.Pid))
	a := newApplier(t, guarded)
	targets, settings := []Target{g.worker()}, []plan.Setting{{CPUs: one(ids[1])}}
	a.must(t, targets, settings)
	write("/cpuset.cpus", fmt.Sprint(ids[0]))
	if r := a.must(t, targets, settings); r.Foreign != 0 || r.Refused != 1 || !contains(r.Warnings, "runs where it ran before") {
		t.Errorf("%+v", r)
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[0])) {
		t.Errorf("%+v", now)
	}
	write("/cpuset.cpus", both)
	if r := a.must(t, targets, settings); r.Foreign != 0 || r.Changed != 1 {
		t.Errorf("%+v", r)
	}
	write("/cpuset.cpus", fmt.Sprint(ids[0]))
	if r, err := a.Restore(); err != nil || r.Threads != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	write("/cpuset.cpus", both)
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, ids[:2]) {
		t.Errorf("%+v: its cpuset has grown again", now)
	}
}

func TestWeightAndQuota(t *testing.T) {
	root(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	a := newApplier(t, guarded)
	if a.ledger.Groups.Mount == "" || a.ledger.Groups.V2 {
		t.Skipf("needs the cpu controller of cgroup v1: %v", a.Limits())
	}
	read := func(dir, name string) string {
		b, err := os.ReadFile(dir + name)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	targets := []Target{g.all()}
	a.must(t, targets, []plan.Setting{{Weight: 200, Quota: 0.5}})
	dir := stateOf(t, g.tid).Group
	if filepath.Dir(dir) != was.Group || read(dir, "/cpu.shares") != "2048" || read(dir, "/cpu.cfs_quota_us") != "50000" {
		t.Errorf("in %s: %s shares, quota %s", dir, read(dir, "/cpu.shares"), read(dir, "/cpu.cfs_quota_us"))
	}
	if r := a.must(t, targets, []plan.Setting{{Weight: 10, Quota: 1}}); r.Changed != 0 {
		t.Errorf("%+v: only the group was to change", r)
	}
	if read(dir, "/cpu.shares") != "102" || read(dir, "/cpu.cfs_quota_us") != "100000" {
		t.Errorf("%s shares, quota %s", read(dir, "/cpu.shares"), read(dir, "/cpu.cfs_quota_us"))
	}
	child := g.more(t, "child") // in the group, too
	a.must(t, targets, []plan.Setting{{Weight: neutral}})
	if _, err := os.Stat(dir); !os.IsNotExist(err) || stateOf(t, g.tid).Group != was.Group || stateOf(t, child).Group != was.Group {
		t.Errorf("a group without a use: %v", err)
	}
	// Without a quota, and with all targets in one group, nice values will do.
	a.must(t, targets, []plan.Setting{{Weight: 50}})
	if now := stateOf(t, g.tid); now.Group != was.Group || now.Nice != min(was.Nice+3, 19) {
		t.Errorf("weight 50: %+v, %+v before", now, was)
	}
	a.must(t, targets, []plan.Setting{{Weight: 50, Quota: 2}})
	dir = stateOf(t, g.tid).Group
	if r, err := a.Restore(); err != nil || r.Threads < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || !equal(stateOf(t, g.tid), was) {
		t.Errorf("after Restore: %v, %+v", err, stateOf(t, g.tid))
	}
}

func TestNice(t *testing.T) {
	root(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	o := guarded
	o.CgroupRoot = t.TempDir()
	a := newApplier(t, o)
	if !contains(a.Limits(), "nice") {
		t.Errorf("%q", a.Limits())
	}
	for _, c := range []struct{ weight, nice int }{{200, -3}, {1, 19}, {10000, -21}, {50, 3}, {neutral, 0}} {
		a.must(t, []Target{g.worker()}, []plan.Setting{{Weight: c.weight}})
		if now := stateOf(t, g.tid); now.Nice != min(max(was.Nice+c.nice, -20), 19) {
			t.Errorf("weight %d: nice %d, and %d before", c.weight, now.Nice, was.Nice)
		}
	}
	a.must(t, []Target{g.worker()}, []plan.Setting{{Weight: 50}})
	if _, err := a.Restore(); err != nil || stateOf(t, g.tid).Nice != was.Nice {
		t.Errorf("nice %d after Restore, %v", stateOf(t, g.tid).Nice, err)
	}
}

// TestKilled kills an applier in the middle of its work.
func TestKilled(t *testing.T) {
	ids := cpus(t)
	g, h := newGuest(t, 0), newGuest(t, 0)
	was := stateOf(t, g.tid)
	o := order{guarded, []Target{g.all(), h.worker()}, []plan.Setting{{CPUs: one(ids[1]), Weight: 300, Slice: time.Millisecond}, {CPUs: one(ids[0])}}}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, 0, "applier", string(text))
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said answer
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatal(err)
	}
	now := stateOf(t, g.tid)
	if !slices.Equal(now.CPUs, one(ids[1])) || said.Report.Changed < 3 {
		t.Fatalf("%+v, %+v", now, said)
	}
	guard, err := process.Find(said.Guard)
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := unix.Getsid(said.Guard); err != nil || sid != said.Guard {
		t.Errorf("the guard is in session %d, %v: a terminal's signals reach it", sid, err)
	}
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if err := unix.Kill(said.Guard, sig); err != nil {
			t.Error(err)
		}
	}
	p.cmd.Process.Kill()
	p.end()
	for guard.Alive() { // it ends when all is restored
		time.Sleep(time.Millisecond)
	}
	for _, tid := range []int{g.tid, h.tid} {
		if now := stateOf(t, tid); !equal(now, was) {
			t.Errorf("%+v after the applier was killed, %+v before", now, was)
		}
	}
	if _, err := os.Stat(now.Group); now.Group != was.Group && !os.IsNotExist(err) {
		t.Errorf("cgroup %s: %v", now.Group, err)
	}
}

func TestWithoutRoot(t *testing.T) {
	root(t)
	ids := cpus(t)
	const nobody = 65534
	theirs, other := newGuest(t, nobody), newGuest(t, 0)
	was := stateOf(t, theirs.tid)
	set := plan.Setting{CPUs: one(ids[1]), Weight: 50, Slice: 2 * time.Millisecond}
	text, err := json.Marshal(order{guarded, []Target{theirs.worker(), other.worker()}, []plan.Setting{set, set}})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, nobody, "applier", string(text))
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said answer
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatal(err)
	}
	if r := said.Report; r.Threads != 2 || r.Changed != 1 || r.Refused != 1 || !contains(r.Warnings, "not permitted") {
		t.Errorf("%+v", r)
	}
	for _, part := range []string{"without root", "no weights", "CAP_SYS_NICE"} {
		if !contains(said.Limits, part) {
			t.Errorf("nothing about %q in %q", part, said.Limits)
		}
	}
	if now := stateOf(t, theirs.tid); !slices.Equal(now.CPUs, one(ids[1])) || now.Nice != was.Nice || now.Slice != set.Slice && probeKernel().Base > 0 {
		t.Errorf("%+v", now)
	}
	if now := stateOf(t, other.tid); !equal(now, was) {
		t.Errorf("root's thread: %+v", now)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	if now := stateOf(t, theirs.tid); !equal(now, was) {
		t.Errorf("%+v after Close, %+v before", now, was)
	}
}

func TestGuardGone(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	a, err := New(guarded)
	if err != nil {
		t.Fatal(err)
	}
	targets := []Target{g.worker()}
	a.must(t, targets, []plan.Setting{{CPUs: one(ids[1])}})
	guard, err := process.Find(a.guardPID())
	if err != nil {
		t.Fatal(err)
	}
	if err := guard.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.guard.pipe.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := a.guard.pipe.Read(make([]byte, 1)); n != 0 || err == nil { // the last of its threads has ended
		t.Fatalf("the guard said something, %v", err)
	}
	if _, err := a.Apply(targets, []plan.Setting{{CPUs: one(ids[0])}}); err == nil || !strings.Contains(err.Error(), "guard") {
		t.Errorf("applied without the guard: %v", err)
	}
	if now := stateOf(t, g.tid); !slices.Equal(now.CPUs, one(ids[1])) {
		t.Errorf("%+v", now)
	}
	if err := a.Close(); err == nil {
		t.Error("nobody hears that the guard was killed")
	}
	if now := stateOf(t, g.tid); !equal(now, was) {
		t.Errorf("%+v after Close, %+v before", now, was)
	}
	for _, argv := range [][]string{{"/bin/true"}, {"/bin/echo", "a guard that says other things"}, {"/nonexistent"}} {
		if _, err := New(Options{Guard: argv}); err == nil || !strings.Contains(err.Error(), argv[0]) {
			t.Errorf("%q as a guard: %v", argv, err)
		}
	}
}

func TestJournal(t *testing.T) {
	ids := cpus(t)
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	k := probeKernel()
	id, err := process.Find(g.tid)
	if err != nil {
		t.Fatal(err)
	}
	of, err := process.Find(g.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := setCPUs(g.tid, one(ids[1])); err != nil {
		t.Fatal(err)
	}
	now := was
	now.CPUs = one(ids[1])
	line := func(e entry) string {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	head := line(entry{Kernel: &k})
	set := line(entry{Record: &record{Thread: id, Of: of, Was: was, Before: was, Set: now}})
	for _, c := range []struct {
		name, journal string
		bad, restored bool
	}{
		{"nothing", "", false, false},
		{"done", head + set + line(entry{Done: true}), false, false},
		{"forgotten", head + set + line(entry{Forget: &id}), false, false},
		{"a first line cut off", head + set[:len(set)/2], true, false},
		{"a second line cut off", head + set + set[:len(set)/2], true, true},
	} {
		if err := follow(strings.NewReader(c.journal)); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
		if now := stateOf(t, g.tid); equal(now, was) != c.restored {
			t.Errorf("%s: %+v", c.name, now)
		}
	}
}

func TestNonsense(t *testing.T) {
	g := newGuest(t, 0)
	a := newApplier(t, Options{})
	if !contains(a.Limits(), "no guard") {
		t.Errorf("%q", a.Limits())
	}
	for _, s := range []plan.Setting{
		{Weight: -1}, {Weight: 10001}, {Slice: -1}, {Quota: math.NaN()}, {Quota: math.Inf(1)}, {Quota: -1}, {CPUs: []int{}}, {CPUs: one(-1)}, {CPUs: one(maxCPUs)},
	} {
		if r, err := a.Apply([]Target{g.worker()}, []plan.Setting{s}); err == nil || r.Changed != 0 {
			t.Errorf("%+v: %+v", s, r)
		}
	}
	for _, target := range []Target{{PID: 0}, {PID: -1, Whole: true}, {PID: g.cmd.Process.Pid, TIDs: []int{0}}} {
		if _, err := a.Apply([]Target{target}, []plan.Setting{{}}); err == nil {
			t.Errorf("%+v", target)
		}
	}
	if _, err := a.Apply([]Target{g.worker()}, nil); err == nil {
		t.Error("a target without a setting")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.Apply(nil, nil); err == nil {
		t.Error("applied after Close")
	}
}
