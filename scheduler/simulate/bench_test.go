package simulate

import (
	"testing"
)

// BenchmarkEvents tells how many events a second are simulated.
func BenchmarkEvents(b *testing.B) {
	for _, size := range Sizes {
		for _, mix := range []string{"batch", "mixed"} {
			b.Run(mix+"/"+size, func(b *testing.B) {
				top, err := HostOf(size)
				if err != nil {
					b.Fatal(err)
				}
				t, err := Generate(mix, size, Training(0))
				if err != nil {
					b.Fatal(err)
				}
				t.Length = 1000 * ms
				events := 0
				for b.Loop() {
					r, err := Run(top, t, Kernel(), nil, Options{})
					if err != nil {
						b.Fatal(err)
					}
					events += r.Events
				}
				b.ReportMetric(float64(events)/b.Elapsed().Seconds()/1e6, "Mevents/s")
			})
		}
	}
}
