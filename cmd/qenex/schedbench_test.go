//go:build !kernelonly

package main

import (
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/scheduler/mix"
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
