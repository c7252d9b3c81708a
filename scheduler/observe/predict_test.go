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

func TestClasses(t *testing.T) {
	const dt = 100 * time.Millisecond
	ms := time.Millisecond
	for _, c := range []struct {
		name         string
		delta        Sample
		cpus         float64
		latency, hog bool
	}{
		{"server", Sample{Run: 5 * ms, Voluntary: 50, Threads: 1}, 0.05, true, false},
		{"server behind a hog", Sample{Run: 5 * ms, Wait: 50 * ms, Voluntary: 10, Threads: 1}, 0.1, true, false},
		{"hog", Sample{Run: 100 * ms, Threads: 1}, 1, false, true},
		{"starved hog", Sample{Run: 10 * ms, Wait: 90 * ms, Involuntary: 3, Threads: 1}, 1, false, true},
		{"hog that never ran", Sample{Wait: 100 * ms, Threads: 1}, 1, false, true},
		{"worker", Sample{Run: 40 * ms, Voluntary: 10, Threads: 1}, 0.4, false, false},
		{"busy server", Sample{Run: 60 * ms, Voluntary: 600, Threads: 1}, 0.6, false, false},
		{"idle", Sample{Threads: 1}, 0, false, false},
		{"native guest with two hogs", Sample{Run: 80 * ms, Wait: 120 * ms, Voluntary: 3, Threads: 9}, 2, false, true},
		{"more than there is time", Sample{Run: time.Hour, Wait: time.Hour, Threads: 1}, 1, false, true},
		{"less than nothing", Sample{Run: -time.Hour, Wait: -time.Hour, Threads: -1}, 0, false, false},
		{"switches without end", Sample{Voluntary: math.MaxUint64, Slices: math.MaxUint64, Threads: math.MaxInt}, 0, true, false},
	} {
		var p Predictor
		for range 30 {
			p.Observe(c.name, dt, c.delta)
		}
		l := p.Predict(c.name)
		if math.Abs(l.CPUs-c.cpus) > 0.01 || l.Latency != c.latency || l.Hog != c.hog || l.Epochs != 30 || l.Method != "last" {
			t.Errorf("%s: %+v; must be %v CPUs, latency %v, hog %v, by the last value: it wins ties", c.name, l, c.cpus, c.latency, c.hog)
		}
		p.Observe(c.name, 0, c.delta)
		p.Observe(c.name, -dt, c.delta)
		if again := p.Predict(c.name); again != l {
			t.Errorf("%s: an epoch of no length changed %+v to %+v", c.name, l, again)
		}
		p.Forget(c.name)
		if none := p.Predict(c.name); none != (Load{}) {
			t.Errorf("%s: forgotten, and still %+v", c.name, none)
		}
	}
}

// Whatever comes in, numbers within their limits come out.
func FuzzPredictor(f *testing.F) {
	f.Add(int64(1e8), int64(1e7), int64(0), uint64(3), 1, int64(5e7))
	f.Add(int64(1), int64(math.MaxInt64), int64(math.MaxInt64), uint64(math.MaxUint64), math.MaxInt, int64(-1))
	f.Fuzz(func(t *testing.T, dt, run, wait int64, voluntary uint64, threads int, other int64) {
		var p Predictor
		for i := range 60 {
			d := Sample{Run: time.Duration(run), Wait: time.Duration(wait), Voluntary: voluntary, Threads: threads}
			if i%3 == 0 {
				d.Run = time.Duration(other)
			}
			p.Observe("a", time.Duration(dt), d)
			l := p.Predict("a")
			top := float64(max(1, threads))
			for _, x := range []float64{l.CPUs, l.Error, l.Run, l.Wait} {
				if !(x >= 0 && x <= top) {
					t.Fatalf("epoch %d: %+v, of %v CPUs", i, l, top)
				}
			}
			if !(l.Wakeups >= 0) || math.IsInf(l.Wakeups, 0) {
				t.Fatalf("epoch %d: %+v", i, l)
			}
		}
	})
}
