package simulate

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// Policies makes all policies anew, the kernel's default first and the planner last. A policy is for one run.
func Policies(seed uint64) []Policy {
	return []Policy{Kernel(), Balance(), Gangs(), Random(seed), Greedy(),
		&Planner{Seed: seed, Sweeps: -1, Label: "planner, greedy only"}, &Planner{Seed: seed}}
}

// Compare plays a trace under all policies.
func Compare(top *host.Topology, t *Trace, policies []Policy, cal *Calibration) ([]*Result, error) {
	var all []*Result
	for _, p := range policies {
		r, err := Run(top, t, p, cal, Options{})
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Row is the results of a policy over several traces: medians.
type Row struct {
	Policy                     string
	Score                      float64 // see Summarize
	Makespan, WakeP50, WakeP99 time.Duration
	LockMean, LockP99, LockMax time.Duration
	SpinLost                   time.Duration
	Fairness, PlannerCPU       float64
	Migrations                 int
}

// tiny is the latency below which nothing is won: about as long as a critical section or the service of a request.
const tiny = 100 * time.Microsecond

// Summarize takes the results of Compare for several traces, each in the same order of policies and the kernel's first. The score is the
// geometric mean of makespan, p99 of wake-ups and p99 of locks over the kernel's, latencies below 100 us counting as 100 us; below 1 is
// better.
func Summarize(runs [][]*Result) []Row {
	if len(runs) == 0 {
		return nil
	}
	var rows []Row
	for i, first := range runs[0] {
		row := Row{Policy: first.Policy, Score: 1}
		duration := func(of func(*Result) time.Duration) time.Duration {
			return median(runs, i, of)
		}
		row.Makespan = duration(func(r *Result) time.Duration { return r.Makespan })
		row.WakeP50 = duration(func(r *Result) time.Duration { return r.WakeP50 })
		row.WakeP99 = duration(func(r *Result) time.Duration { return r.WakeP99 })
		row.LockMean = duration(func(r *Result) time.Duration { return r.LockMean })
		row.LockP99 = duration(func(r *Result) time.Duration { return r.LockP99 })
		row.LockMax = duration(func(r *Result) time.Duration { return r.LockMax })
		row.SpinLost = duration(func(r *Result) time.Duration { return r.SpinLost })
		row.Migrations = median(runs, i, func(r *Result) int { return r.Migrations })
		row.Fairness = median(runs, i, func(r *Result) float64 { return r.Fairness })
		row.PlannerCPU = median(runs, i, func(r *Result) float64 { return r.PlannerCPU })
		logs, n := 0.0, 0
		for _, run := range runs {
			for _, pair := range [][2]time.Duration{{run[i].Makespan, run[0].Makespan}, {run[i].WakeP99, run[0].WakeP99}, {run[i].LockP99, run[0].LockP99}} {
				if pair[1] > 0 {
					logs += math.Log(float64(max(pair[0], tiny)) / float64(max(pair[1], tiny)))
					n++
				}
			}
		}
		row.Score = math.Exp(logs / float64(max(n, 1)))
		rows = append(rows, row)
	}
	return rows
}

func median[T int | float64 | time.Duration](runs [][]*Result, i int, of func(*Result) T) T {
	var xs []T
	for _, run := range runs {
		xs = append(xs, of(run[i]))
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// Table writes rows as Markdown.
func Table(rows []Row) string {
	var b strings.Builder
	b.WriteString("| policy | score | makespan | wake-up p50 / p99 | lock mean / p99 / max | spun | fairness | migrations | planner CPU |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %.2f | %.3f s | %s / %s | %s / %s / %s | %.2f s | %.3f | %d | %.3f %% |\n", r.Policy, r.Score, r.Makespan.Seconds(),
			short(r.WakeP50), short(r.WakeP99), short(r.LockMean), short(r.LockP99), short(r.LockMax), r.SpinLost.Seconds(), r.Fairness, r.Migrations, 100*r.PlannerCPU)
	}
	return b.String()
}

func short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f us", float64(d)/1e3)
	}
	return fmt.Sprintf("%.2f ms", float64(d)/1e6)
}
