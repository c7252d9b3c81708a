package simulate

import (
	"math"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	kernel := &Result{Policy: "kernel", Makespan: 1000 * ms, WakeP99: 4 * ms, LockP99: 50 * us}
	other := &Result{Policy: "other", Makespan: 500 * ms, WakeP99: 1 * ms, LockP99: 5 * us}
	rows := Summarize([][]*Result{{kernel, other}})
	// A half, a quarter, and locks where nothing is to be won: both count as 100 us.
	if want := math.Cbrt(0.5 * 0.25); math.Abs(rows[1].Score-want) > 1e-9 || rows[0].Score != 1 {
		t.Errorf("scores %v and %v, want 1 and %v", rows[0].Score, rows[1].Score, want)
	}
	if text := Table(rows); !strings.Contains(text, "| other | 0.50 | 0.500 s |") {
		t.Errorf("table:\n%s", text)
	}
	if Summarize(nil) != nil {
		t.Error("rows of nothing")
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range int64(10_000) {
		h.add(i * 1000)
	}
	for _, q := range []float64{0.5, 0.99} {
		if got, want := float64(h.quantile(q)), q*1e7; math.Abs(got-want) > want/100 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if h.mean() != 4999500 || h.quantile(1) > 9_999_000 {
		t.Errorf("mean %v, greatest %v", h.mean(), h.quantile(1))
	}
}
