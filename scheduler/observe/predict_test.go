package observe

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// epoch makes what an item that wants y CPUs does in 100 ms, on a CPU of its own.
func epoch(y float64) (time.Duration, Sample) {
	const dt = 100 * time.Millisecond
	return dt, Sample{Run: time.Duration(y * float64(dt)), Voluntary: 10, Slices: 10, Threads: 1}
}

// traces are loads over epochs, each made from a seed.
var traces = []struct {
	name string
	most float64 // of the learned prediction's error over the last value's
	make func(r *rand.Rand, t int, last float64) float64
}{
	{"ramp up and down", 0.9, func(r *rand.Rand, t int, _ float64) float64 {
		return math.Abs(float64(t%200)/100-1) + 0.01*r.NormFloat64()
	}},
	{"noise", 0.8, func(r *rand.Rand, t int, _ float64) float64 { return 0.5 + 0.1*r.NormFloat64() }},
	{"sine", 0.8, func(r *rand.Rand, t int, _ float64) float64 {
		return 0.5 + 0.3*math.Sin(float64(t)/3) + 0.03*r.NormFloat64()
	}},
	{"two sines", 0.8, func(r *rand.Rand, t int, _ float64) float64 {
		return 0.5 + 0.2*math.Sin(float64(t)/2) + 0.2*math.Sin(float64(t)/7) + 0.03*r.NormFloat64()
	}},
	{"on and off", 0.8, func(r *rand.Rand, t int, _ float64) float64 {
		return 0.2 + 0.6*float64(t/4%2) + 0.03*r.NormFloat64()
	}},
	{"spikes", 1.0, func(r *rand.Rand, t int, _ float64) float64 {
		if r.IntN(20) == 0 {
			return 0.9
		}
		return 0.1 + 0.02*r.NormFloat64()
	}},
	{"constant", 1.0, func(*rand.Rand, int, float64) float64 { return 0.37 }},
	{"random walk", 1.04, func(r *rand.Rand, _ int, last float64) float64 { return last + 0.03*r.NormFloat64() }},
	{"steps", 1.04, func(r *rand.Rand, t int, last float64) float64 {
		if t%50 == 0 {
			return r.Float64()
		}
		return last
	}},
}

func TestLearnedPredictionAgainstLastValue(t *testing.T) {
	for _, trace := range traces {
		var learned, plain float64
		for seed := range uint64(10) {
			r := rand.New(rand.NewPCG(seed, 7))
			var p Predictor
			last := 0.5
			for i := range 600 {
				y := min(max(trace.make(r, i, last), 0), 1)
				if i > 0 {
					learned += math.Abs(p.Predict("a").CPUs - y)
					plain += math.Abs(last - y)
				}
				last = y
				dt, d := epoch(y)
				p.Observe("a", dt, d)
			}
		}
		ratio := learned / plain
		if plain < 1e-9 {
			ratio = learned
		}
		t.Logf("%-18s error %.4f of the last value's", trace.name, ratio)
		if ratio > trace.most {
			t.Errorf("%s: the learned prediction's error is %.3f of the last value's, must be at most %.2f", trace.name, ratio, trace.most)
		}
	}
}

func BenchmarkPredictor(b *testing.B) {
	var p Predictor
	dt, d := epoch(0.4)
	for b.Loop() {
		p.Observe("a", dt, d)
		p.Predict("a")
	}
}
