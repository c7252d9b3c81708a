package trust

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/tpm"
)

// BenchmarkMeasure is a launch with a kernel of 40 MB: for the first time, when all of it is read, and again, when the keeper knows the
// digests. Hashing and TPM are apart; the rest of an operation is the way to the keeper and back, and the event log's file.
func BenchmarkMeasure(b *testing.B) {
	for name, again := range map[string]bool{"first": false, "again": true} {
		b.Run(name, func(b *testing.B) {
			state := State{b.TempDir()}
			keep(b, state, Options{})
			c := connect(b, state, "vm")
			path := filepath.Join(b.TempDir(), "kernel")
			if err := os.WriteFile(path, make([]byte, 40<<20), 0o600); err != nil {
				b.Fatal(err)
			}
			it := openItem(b, tpm.Kernel, path)
			// A digest is remembered of a file that has lain there for a while only.
			for end := time.Now().Add(settle + time.Second); again && time.Now().Before(end); {
				if _, err := c.Measure([]Item{it}); err != nil {
					b.Fatal(err)
				}
			}
			var hashing, tpm time.Duration
			for b.Loop() {
				if !again {
					b.StopTimer()
					now := time.Now()
					if err := os.Chtimes(path, now, now); err != nil {
						b.Fatal(err)
					}
					it.File.Close()
					it = openItem(b, it.What, path)
					b.StartTimer()
				}
				l, err := c.Measure([]Item{it})
				if err != nil {
					b.Fatal(err)
				}
				hashing, tpm = hashing+l.Hashing, tpm+l.TPM
			}
			b.ReportMetric(float64(hashing.Nanoseconds())/float64(b.N), "hashing-ns/op")
			b.ReportMetric(float64(tpm.Nanoseconds())/float64(b.N), "tpm-ns/op")
		})
	}
}
