//go:build !kernelonly

package main

import (
	"context"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/scheduler/govern"
	"github.com/qenex/qenex-kernel/scheduler/mix"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
)

// TestSchedBench measures for a moment. The figures mean nothing.
func TestSchedBench(t *testing.T) {
	kvmtest.Open(t)
	if r := decoded[mix.Result](t, "sched", "bench", "--mix", "batch", "--policy", "kernel", "--length", "300ms", "--rounds", "1", "--json"); r.Mix != "batch" || r.Policy != "kernel" || r.HogUnits <= 0 {
		t.Errorf("%+v", r)
	}
	refused(t, exitUsage, "no mix", "sched", "bench", "--mix", "nothing")
	refused(t, exitUsage, "no policy", "sched", "bench", "--policy", "luck")
	refused(t, exitUsage, "--length", "sched", "bench", "--length", "0s")
	refused(t, exitUsage, "--rounds", "sched", "bench", "--rounds", "0")
	if code, _, stderr := qenex(t, "sched", "load", "kind=nothing"); code != exitFailure || stderr == "" {
		t.Errorf("a load of no kind: exit code %d, %q", code, stderr)
	}
}

// TestSchedGovern places eight native guests by a plan that saves power, and so packs them on one CPU, has it measured, and wants all guests as
// they were before. That such a plan is taken back by itself is for package govern to show, where time can be made up.
func TestSchedGovern(t *testing.T) {
	kvmtest.Open(t)
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil || before.Count() < 2 {
		t.Skipf("%d CPUs, %v: two are needed", before.Count(), err)
	}
	t.Setenv("QENEX_TEST_COMMAND", "1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	guests, err := mix.Start(t.Context(), mix.Make("servers", 0, 0, 5, 3), mix.Programs{Qenex: os.Args[0], Load: []string{os.Args[0], "sched", "load"}}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer guests.Close()
	if err := guests.Go(); err != nil {
		t.Fatal(err)
	}
	watcher := observe.NewWatcher()
	defer watcher.Close()
	confined := func() (n int) {
		for _, pid := range guests.PIDs {
			var now unix.CPUSet
			if err := unix.SchedGetaffinity(pid, &now); err != nil {
				t.Error(err)
			}
			if !reflect.DeepEqual(now, before) {
				n++
			}
		}
		return n
	}
	weights := planner.DefaultWeights()
	weights.Core = 50
	var kinds []govern.Kind
	packed := 0
	g, err := govern.New(govern.Config{
		Epoch: 100 * time.Millisecond, Share: 1, Weights: weights, Guard: []string{os.Args[0], "sched", "guard"},
		Find: func() ([]observe.Item, error) {
			all, err := watcher.Find()
			return slices.DeleteFunc(all, func(it observe.Item) bool { return !slices.Contains(guests.PIDs, it.PID) }), err
		},
		Events: func(e govern.Event) {
			kinds = append(kinds, e.Kind)
			switch e.Kind {
			case govern.Applied:
				packed = max(packed, confined())
			case govern.Measured:
				t.Logf("score %.3f, %.3f without a plan", e.Score, e.Baseline)
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
	for _, want := range []govern.Kind{govern.Planned, govern.Applied, govern.Measured, govern.Reverted} {
		if !slices.Contains(kinds, want) {
			t.Errorf("nothing was %s: %q", want, kinds)
		}
	}
	if left := confined(); packed < 3 || left != 0 { // the hogs; who wakes briefly may float
		t.Errorf("%d guests were confined by the plan, %d after it", packed, left)
	}
}
