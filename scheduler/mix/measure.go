package mix

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a guest's process used so far, seen from the host.
type usage struct {
	cpu        time.Duration
	migrations uint64
}

// read looks at a process. One that has ended, and is not yet waited for, still has its CPU time.
func readUsage(pid int) (usage, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // CPUCLOCK_SCHED of a process: see clock_getcpuclockid
		return usage{}, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	u := usage{cpu: time.Duration(t.Nano())}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/sched", pid))
	if err != nil {
		return usage{}, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		u.migrations += schedValue(text, "se.nr_migrations")
	}
	return u, nil
}

// schedValue finds a whole number in the text of /proc/PID/sched; 0 if there is none.
func schedValue(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == name {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("own CPU time: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

// jain is Jain's index of fairness: 1 if all shares are equal, 1/n if one has everything.
func jain(shares []float64) float64 {
	var sum, squares float64
	for _, s := range shares {
		sum += s
		squares += s * s
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(shares)) * squares)
}
