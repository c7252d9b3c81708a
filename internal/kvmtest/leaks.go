package kvmtest

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
)

// settle is how long goroutines that are on their way out may take to be gone.
const settle = 5 * time.Second

// NoLeaks notes what the process holds now and fails the test if it holds more when the
// test and all cleanups registered after this call are done: goroutines, file descriptors, descriptors
// of the kvm package, and bytes mapped from kvm_run areas and memfds. Call it first. The test must not be
// parallel (it panics then), nor leave work to a test that is.
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, settle)
}

func noLeaks(t testing.TB, settle time.Duration) {
	t.Helper()
	t.Setenv("QENEX_NOLEAKS", "1") // panics in a parallel test
	before, err := held()
	if err != nil {
		t.Fatalf("note what the process holds: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		var leaks []string
		for end := time.Now().Add(settle); ; time.Sleep(time.Millisecond) {
			after, err := held()
			if err != nil {
				t.Errorf("note what the process holds: %v", err)
				return
			}
			if leaks = before.missingIn(after); len(leaks) == 0 {
				return
			}
			if time.Now().After(end) {
				break
			}
		}
		for _, l := range leaks {
			t.Errorf("leak: %s", l)
		}
	})
}

// holdings is what a process holds that a test could leak.
type holdings struct {
	goroutines map[string]string // stacks by goroutine id
	kvmFDs     int64
	files      map[string]int    // descriptors by what they refer to
	mapped     map[string]uint64 // bytes mapped, by file, of kvm_run areas and memfds
}

func held() (holdings, error) {
	// The runtime's poller opens its own descriptors on first use: have it do so now.
	r, w, err := os.Pipe()
	if err != nil {
		return holdings{}, err
	}
	r.Close()
	w.Close()
	h := holdings{goroutines: goroutines(), kvmFDs: kvm.OpenFDs()}
	if h.files, err = openFiles(); err != nil {
		return holdings{}, err
	}
	if h.mapped, err = mappings(); err != nil {
		return holdings{}, err
	}
	return h, nil
}

// missingIn says, an entry each, what after has more of than h.
func (h holdings) missingIn(after holdings) []string {
	var leaks []string
	for id, stack := range after.goroutines {
		if _, old := h.goroutines[id]; !old {
			leaks = append(leaks, stack)
		}
	}
	if n := after.kvmFDs - h.kvmFDs; n > 0 {
		leaks = append(leaks, fmt.Sprintf("%d KVM descriptors more", n))
	}
	for name, n := range after.files {
		if n > h.files[name] {
			leaks = append(leaks, fmt.Sprintf("%d descriptors more of %s", n-h.files[name], name))
		}
	}
	for name, n := range after.mapped {
		if n > h.mapped[name] {
			leaks = append(leaks, fmt.Sprintf("%d bytes more mapped of %s", n-h.mapped[name], name))
		}
	}
	slices.Sort(leaks)
	return leaks
}

// goroutines returns all goroutines but the one that the runtime keeps for signals once a program has asked for
// any. They are told apart by id, not counted: one that was on its way out at first must not hide a new one.
func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	found := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf[:n]), "\n\n") {
		id, _, _ := strings.Cut(stack, " [") // goroutine 7 [running]:
		if !strings.Contains(stack, "os/signal.loop") {
			found[id] = stack
		}
	}
	return found
}

func openFiles() (map[string]int, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string]int)
	for _, e := range entries {
		// The descriptor that ReadDir used is gone by now; so may others be.
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			files[name]++
		}
	}
	return files, nil
}

func mappings() (map[string]uint64, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sizes := make(map[string]uint64)
	s := bufio.NewScanner(f)
	for s.Scan() {
		// address perms offset dev inode name; proc_pid_maps(5)
		fields := strings.Fields(s.Text())
		if len(fields) < 6 {
			continue
		}
		name := strings.Join(fields[5:], " ")
		if !strings.Contains(name, "kvm") && !strings.HasPrefix(name, "/memfd:") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return nil, err
		}
		b, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return nil, err
		}
		sizes[name] += b - a
	}
	return sizes, s.Err()
}
