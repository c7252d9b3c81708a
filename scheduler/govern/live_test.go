package govern

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

const self = "/proc/self/exe"

// TestMain is also a guard, and a program that is busy until its standard input ends. It fails if tests leave goroutines or descriptors.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		if err := apply.Guard(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "busy" {
		go func() {
			for turns := 0; ; turns++ {
			}
		}()
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(kvmtest.Main(m))
}

// TestLive governs processes that are busy, on this machine.
func TestLive(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		t.Skip("needs two CPUs")
	}
	var items []observe.Item
	for i := range all.Count() + 1 {
		cmd := exec.Command(self, "busy")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
		id, err := process.Find(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, observe.Item{Name: "busy" + strconv.Itoa(i), PID: id.PID, Birth: id.Birth, Whole: true, TIDs: []int{id.PID}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var kinds []Kind
	policy := plan.DefaultPolicy()
	policy.Unfair = 0 // equal hogs are pinned too
	pinned := 0
	g, err := New(Config{
		Epoch: 20 * time.Millisecond, Share: 1, Hysteresis: -1, Policy: policy, Guard: []string{self, "guard"},
		Find: func() ([]observe.Item, error) { return items, nil },
		Events: func(e Event) {
			kinds = append(kinds, e.Kind)
			switch e.Kind {
			case Applied:
				for _, it := range items {
					pinned += len(confined(t, it.PID, &all))
				}
				if e.Report.Refused > 0 || e.Report.Gone > 0 || len(e.Report.Warnings) > 0 {
					t.Errorf("%+v", e.Report)
				}
			case Measured:
				cancel()
			case Failed:
				t.Error(e.Reason)
			}
			if e.Number > 1000 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(ctx); err != nil {
		t.Error(err)
	}
	for _, want := range []Kind{Observed, Planned, Applied, Measured, Reverted} {
		if !slices.Contains(kinds, want) {
			t.Errorf("nothing was %s: %q", want, kinds)
		}
	}
	if pinned == 0 {
		t.Error("no thread was confined by the plan")
	}
	for _, it := range items {
		if left := confined(t, it.PID, &all); len(left) > 0 {
			t.Errorf("threads %v of %s are still confined", left, it.Name)
		}
	}
}

// confined returns the threads of a process that may not run everywhere.
func confined(t *testing.T, pid int, all *unix.CPUSet) (tids []int) {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err == nil && set != *all {
			tids = append(tids, tid)
		}
	}
	return tids
}

// BenchmarkEpoch is the planner's own CPU time in an epoch on this machine, when there is nothing to do but to look.
func BenchmarkEpoch(b *testing.B) {
	g, err := New(Config{Apply: &world{}, Share: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer g.watcher.Close()
	for b.Loop() {
		if err := g.step(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
