package kvmtest

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Main runs a package's tests, for its TestMain, and fails if all of them together leave goroutines or descriptors behind. It returns the exit
// code. Processes that the tests start are without the second that the race detector takes to end one.
func Main(m *testing.M) int {
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	before := descriptors()
	code := m.Run()
	if slices.ContainsFunc(os.Args, func(a string) bool {
		return strings.HasPrefix(a, "-test.fuzz") && !strings.HasPrefix(a, "-test.fuzzcachedir")
	}) {
		return code // the fuzzing engine has goroutines of its own
	}
	for end := time.Now().Add(2 * settle); runtime.NumGoroutine() > 1 && time.Now().Before(end); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); code == 0 && n > 1 {
		buf := make([]byte, 1<<16)
		fmt.Fprintf(os.Stderr, "%d goroutines are left:\n%s\n", n, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	if after := descriptors(); code == 0 && after > before {
		fmt.Fprintf(os.Stderr, "%d descriptors before the tests, %d after\n", before, after)
		code = 1
	}
	return code
}

// descriptors counts those of this process, but for the runtime's poller and what testing keeps open for its own.
func descriptors() (n int) {
	names, _ := os.ReadDir("/proc/self/fd")
	for _, e := range names {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}
