package anneal

import (
	"syscall"
	"testing"
)

// cpuTime is the processor time of this process in nanoseconds: other processes on the machine do not count.
func cpuTime() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// benchFlips reports the processor time of one offered flip, over a whole annealing and in its cold half.
func benchFlips(b *testing.B, m *Model, replicas int, sweep func(temperature float64), hot, cold float64) {
	const steps = 256
	var all, late float64
	for b.Loop() {
		begun := cpuTime()
		middle := begun
		for k := range steps {
			if k == steps/2 {
				middle = cpuTime()
			}
			sweep(hot - (hot-cold)*float64(k)/(steps-1))
		}
		end := cpuTime()
		all += end - begun
		late += end - middle
	}
	flips := float64(b.N) * steps * float64(m.Spins()*replicas)
	b.ReportMetric(all/flips, "ns/flip")
	b.ReportMetric(late/flips*2, "ns/flip-cold")
}

var benchModels = []struct {
	name  string
	model func() *Model
}{
	{"Torus50x60", func() *Model { return torus(50, 60, func() float64 { return 1 }) }},
	{"Random800", func() *Model { return randomGraph(800, 19176, 1) }},
	{"Random2000", func() *Model { return randomGraph(2000, 19990, 2) }},
}

func BenchmarkSA(b *testing.B) {
	for _, c := range benchModels {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			st, r := newEngine[float32](m, 1).newState(), newRNG(1, 1)
			st.random(&r)
			benchFlips(b, m, 1, func(t float64) { r = st.sweep(1/t, r) }, st.temperature(0, 2), st.temperature(1, 2))
		})
	}
}

func BenchmarkMultiSpin(b *testing.B) {
	for _, c := range benchModels {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			p, err := newPacked(m)
			if err != nil {
				b.Fatal(err)
			}
			w, r := p.newRunner(), newRNG(1, 1)
			benchFlips(b, m, 64, func(t float64) { w.sweep(1/t, &r) }, p.temperature(0, 2), p.temperature(1, 2))
		})
	}
}
