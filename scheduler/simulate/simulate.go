// Package simulate plays traces of vCPUs on a host that does not exist: run queues as Linux has them, SMT, caches and wake-ups that cost
// what they cost on a real machine, spinlocks whose holder may be preempted. Placements of package plan and plainer policies are compared
// in it, on hosts larger than any test machine.
//
// What enters is a topology, a trace, a policy and a calibration; the same four give the same result. Threads of this machine do not enter,
// but for the measurements of Calibrate.
//
// The kernel's default is EEVDF with lag, deadlines, slices that end at ticks, and preemption by a shorter slice; wake-ups go to the
// previous CPU, to the waker's or to an idle one that shares a cache, whole idle cores first; CPUs that run dry steal, and periodic
// balancing evens out caches, nodes and packages, moving running vCPUs off busy cores too. Simplified against Linux:
//
//   - a vCPU's load average follows its runnable time only at its own wake-ups and sleeps, with PELT's half-life of 32 ms;
//   - an idle CPU is looked for in the whole cache domain, where Linux may give up early;
//   - negative lag is forgiven when it would have been worked off while asleep (delayed dequeue), without the dequeue itself;
//   - no control groups: weights are those of vCPUs; no bandwidth limits, no NUMA balancing, no frequency changes, no deep idle states;
//   - two threads of a core slow each other by one factor, whatever they run; caches cost at migrations only;
//   - a lock goes to whichever waiter runs, the longest-waiting first, as a test-and-set lock's would.
package simulate

import (
	"time"
)

// Result is what a run measured. Latencies are 0 where the trace has no such event.
type Result struct {
	Policy      string        `json:"policy"`
	Makespan    time.Duration `json:"makespan_ns"`        // until the last vCPU with an end came to it; until the end of the trace if that came first
	Complete    bool          `json:"complete"`           // all work that has an end was done
	WakeP50     time.Duration `json:"wake_p50_ns"`        // from the event that wakes a vCPU until it runs
	WakeP99     time.Duration `json:"wake_p99_ns"`        //
	WakeMax     time.Duration `json:"wake_max_ns"`        //
	Wakes       int           `json:"wakes"`              //
	LockMean    time.Duration `json:"lock_mean_ns"`       //
	LockP99     time.Duration `json:"lock_p99_ns"`        // from asking for a lock until having it
	LockMax     time.Duration `json:"lock_max_ns"`        //
	Locks       int           `json:"locks"`              //
	Fairness    float64       `json:"fairness"`           // Jain's index of work done over entitlement: 1 is fair
	Migrations  int           `json:"migrations"`         // times that a vCPU began to run on another CPU than before
	Switches    int           `json:"switches"`           // times that a CPU began to run another vCPU than before
	SpinLost    time.Duration `json:"spin_lost_ns"`       // CPU time spent waiting for locks
	Overhead    time.Duration `json:"overhead_ns"`        // CPU time spent on switches, wake-ups, refilling caches and planning
	Work        time.Duration `json:"work_ns"`            // useful work, in time of an undisturbed CPU of capacity 1
	Utilization float64       `json:"utilization"`        // busy CPU time over all CPU time, 0..1
	PlannerCPU  float64       `json:"planner_cpu"`        // planning over all CPU time, 0..1, by the clock of the machine that simulated
	Plans       int           `json:"plans,omitempty"`    // placements applied
	Events      int           `json:"events"`             // simulated
	VCPUs       []Usage       `json:"vcpus,omitempty"`    // if Options.Detail
	Timeline    []Segment     `json:"timeline,omitempty"` // if Options.Timeline: in order of From
}

// Usage is what one vCPU got.
type Usage struct {
	Name string        `json:"name"`
	Run  time.Duration `json:"run_ns"`  // on a CPU
	Wait time.Duration `json:"wait_ns"` // runnable, on none
	Spin time.Duration `json:"spin_ns"` // part of Run: waiting for a lock
	Work time.Duration `json:"work_ns"` // useful work
	End  time.Duration `json:"end_ns"`  // when it finished; 0: never
}

// Segment is a stretch of time in which a vCPU has a CPU; both are indexes, into the topology's CPUs and the trace's vCPUs.
type Segment struct {
	CPU  int           `json:"cpu"`
	VCPU int           `json:"vcpu"`
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}
