package mix

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Compare measures a mix under several policies, in turns, so that what else happens on the machine meets all of them: rounds times each.
// done gets every result at once.
func Compare(ctx context.Context, m Mix, p Programs, policies []Policy, length time.Duration, rounds int, done func(*Result)) error {
	for range rounds {
		for _, policy := range policies {
			result, err := Once(ctx, m, p, policy, length)
			if err != nil {
				return err
			}
			done(result)
		}
	}
	return nil
}

// A Row is what several results of one mix and one policy come to.
type Row struct {
	Mix, Policy string
	Runs        int
	Median      Result  // of each field by itself
	Score       float64 // against the kernel's default, which has 1; more is better
	Low, High   float64 // scores of the worst and the best run
}

// axes are what a policy is judged by; all that a mix has count alike. Less is better of those that are times.
var axes = []struct {
	name  string
	time  bool
	value func(*Result) *float64
	unit  float64 // what a printed unit is
}{
	{"hog units/s", false, func(r *Result) *float64 { return &r.HogUnits }, 1},
	{"locks/s", false, func(r *Result) *float64 { return &r.Locks }, 1},
	{"round trips/s", false, func(r *Result) *float64 { return &r.Trips }, 1},
	{"lock p99 ms", true, func(r *Result) *float64 { return &r.LockP99 }, 1e-3},
	{"trip p99 ms", true, func(r *Result) *float64 { return &r.PingP99 }, 1e-3},
	{"wake p99 ms", true, func(r *Result) *float64 { return &r.WakeP99 }, 1e-3},
}

// others are shown, and not part of the score.
var others = []func(*Result) *float64{
	func(r *Result) *float64 { return &r.LockP999 }, func(r *Result) *float64 { return &r.PingP50 }, func(r *Result) *float64 { return &r.WakeP50 },
	func(r *Result) *float64 { return &r.Fairness }, func(r *Result) *float64 { return &r.Migrations },
	func(r *Result) *float64 { return &r.Busy }, func(r *Result) *float64 { return &r.PolicyCPU },
}

// Score is the geometric mean of how many times better than base r is, over the throughput of every class in the mix and the 99th percentile of
// every latency in it, times its fairness against that of base. It is 0 if base lacks something that r has.
func (r *Result) Score(base *Result) float64 {
	sum, n := 0.0, 0
	for _, a := range axes {
		mine, theirs := *a.value(r), *a.value(base)
		if mine == 0 && theirs == 0 {
			continue
		}
		ratio := mine / theirs
		if a.time {
			ratio = theirs / mine
		}
		sum, n = sum+math.Log(ratio), n+1
	}
	if n == 0 || base.Fairness == 0 || math.IsInf(sum, 0) || math.IsNaN(sum) {
		return 0
	}
	return math.Exp(sum/float64(n)) * r.Fairness / base.Fairness
}

// Rows puts results together, mixes and policies in the order in which they first occur.
func Rows(results []*Result) []Row {
	var rows []Row
	groups := map[[2]string][]*Result{}
	for _, r := range results {
		key := [2]string{r.Mix, r.Policy}
		if groups[key] == nil {
			rows = append(rows, Row{Mix: r.Mix, Policy: r.Policy})
		}
		groups[key] = append(groups[key], r)
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		first := func(mix string) int { return slices.IndexFunc(results, func(r *Result) bool { return r.Mix == mix }) }
		return first(a.Mix) - first(b.Mix)
	})
	base := map[string]*Result{}
	for i := range rows {
		group := groups[[2]string{rows[i].Mix, rows[i].Policy}]
		rows[i].Runs, rows[i].Median = len(group), median(group)
		if rows[i].Policy == (kernel{}).Name() {
			base[rows[i].Mix] = &rows[i].Median
		}
	}
	for i := range rows {
		row := &rows[i]
		b := base[row.Mix]
		if b == nil {
			continue
		}
		row.Score, row.Low = row.Median.Score(b), math.Inf(1)
		for _, r := range groups[[2]string{row.Mix, row.Policy}] {
			row.Low, row.High = min(row.Low, r.Score(b)), max(row.High, r.Score(b))
		}
	}
	return rows
}

// median is that of each field by itself.
func median(group []*Result) Result {
	m := *group[0]
	field := func(value func(*Result) *float64) {
		var all []float64
		for _, r := range group {
			all = append(all, *value(r))
		}
		slices.Sort(all)
		*value(&m) = (all[len(all)/2] + all[(len(all)-1)/2]) / 2
	}
	for _, a := range axes {
		field(a.value)
	}
	for _, value := range others {
		field(value)
	}
	return m
}

// Markdown writes rows as a table.
func Markdown(w io.Writer, rows []Row) error {
	head, line := "| mix | policy | runs | score (range) |", "|---|---|---|---|"
	for _, a := range axes {
		head, line = head+" "+a.name+" |", line+"---|"
	}
	text := head + " lock p99.9 ms | fairness | migrations/s | policy CPU % |\n" + line + "---|---|---|---|\n"
	for _, r := range rows {
		text += fmt.Sprintf("| %s | %s | %d | %.2f (%.2f-%.2f) |", r.Mix, r.Policy, r.Runs, r.Score, r.Low, r.High)
		for _, a := range axes {
			text += cell(*a.value(&r.Median), a.unit)
		}
		text += cell(r.Median.LockP999, 1e-3) + fmt.Sprintf(" %.3f | %.0f | %.2f |\n", r.Median.Fairness, r.Median.Migrations, 100*r.Median.PolicyCPU)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("table of results: %w", err)
	}
	return nil
}

func cell(v, unit float64) string {
	if v == 0 {
		return " |"
	}
	if unit == 1 {
		return fmt.Sprintf(" %.0f |", v)
	}
	return fmt.Sprintf(" %.2f |", v/unit)
}
