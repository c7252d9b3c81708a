package plan

import (
	"context"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/host"
)

// benchPlan plans within a time and reports by how much the cost is below that of the least-loaded greedy and of the best greedy start.
func benchPlan(b *testing.B, vcpus int, h *host.Topology, o Options) {
	var gain, gainStart float64
	n := 0
	for b.Loop() {
		p := fleet(vcpus, h, uint64(1000+n%16))
		greedy, err := p.Greedy()
		if err != nil {
			b.Fatal(err)
		}
		start, err := p.Solve(context.Background(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		o.Seed = uint64(n)
		pl, err := p.Solve(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		n++
		b.ReportMetric(0, "ns/op")
		gain += 100 * (1 - pl.Cost.Total/greedy.Cost.Total)
		gainStart += 100 * (1 - pl.Cost.Total/start.Cost.Total)
		elapsed += pl.Elapsed
		sweeps += pl.Sweeps
	}
	b.ReportMetric(gain/float64(n), "%below-greedy")
	b.ReportMetric(gainStart/float64(n), "%below-best-greedy")
	b.ReportMetric(float64(elapsed.Microseconds())/1000/float64(n), "ms/plan")
	b.ReportMetric(float64(sweeps)/float64(n), "sweeps/plan")
	elapsed, sweeps = 0, 0
}

var (
	elapsed time.Duration
	sweeps  int
	big     = host.Synthetic(2, 1, 8, 8, 2)
	middle  = host.Synthetic(1, 1, 2, 8, 2)
)

func BenchmarkPlan64x32(b *testing.B) {
	for _, m := range []anneal.Method{anneal.SQA, anneal.SA, anneal.Greedy} {
		b.Run(string(m), func(b *testing.B) { benchPlan(b, 64, middle, Options{Method: m, Time: 4500 * time.Microsecond}) })
	}
	b.Run("sa-long", func(b *testing.B) { benchPlan(b, 64, middle, Options{Method: anneal.SA, Time: time.Second}) })
}

func BenchmarkPlan2000x256(b *testing.B) {
	for _, m := range []anneal.Method{anneal.SQA, anneal.SA, anneal.Greedy} {
		b.Run(string(m), func(b *testing.B) { benchPlan(b, 2000, big, Options{Method: m, Time: 225 * time.Millisecond}) })
	}
	b.Run("sa-long", func(b *testing.B) { benchPlan(b, 2000, big, Options{Method: anneal.SA, Time: 5 * time.Second}) })
	b.Run("start", func(b *testing.B) { benchPlan(b, 2000, big, Options{}) })
}
