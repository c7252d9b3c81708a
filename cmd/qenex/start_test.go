//go:build !kernelonly

package main

import "testing"

// BenchmarkParse is what a command line costs before anything is done.
func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if code := run([]string{"run", "--mem", "0", "true"}); code != exitNative {
			b.Fatalf("exit code %d", code)
		}
	}
}
