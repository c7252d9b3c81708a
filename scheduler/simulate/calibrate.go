package simulate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

const (
	turns     = 3000
	footprint = 512 << 10 // bytes that a vCPU whose Cache is 1 keeps in its CPU's own cache, the second-level one
)

// Calibrate measures this machine, in about a second, with threads bound to its CPUs: a quiet machine is needed, and figures that cannot be
// measured here are the default's, as Assumed says.
func Calibrate() (*Calibration, error) {
	top, err := host.This()
	if err != nil {
		return nil, fmt.Errorf("calibrating: %w", err)
	}
	c := DefaultCalibration()
	c.Assumed = nil
	c.Machine = fmt.Sprintf("%d CPUs, %s/%s", len(top.CPUs), runtime.GOOS, runtime.GOARCH)
	pipe, err := pipeCost(top.CPUs[0].ID)
	if err != nil {
		return nil, fmt.Errorf("calibrating: %w", err)
	}
	near, twin := -1, -1 // the nearest other core's CPU, and the other thread of the first core
	for i := range top.CPUs {
		d := top.Distance(0, i)
		if d == 1 && twin < 0 {
			twin = i
		}
		if d >= 2 && (near < 0 || d < top.Distance(0, near)) {
			near = i
		}
	}
	here := top.CPUs[0].ID
	same, err := pipePong(here, here)
	if err != nil {
		return nil, fmt.Errorf("calibrating: %w", err)
	}
	c.Switch = max(0, same-pipe)
	if near >= 0 {
		there := top.CPUs[near].ID
		across, err := pipePong(here, there)
		var refill, line time.Duration
		if err == nil {
			refill, err = migration(here, there)
		}
		if err == nil {
			line, err = lineWay(here, there)
		}
		if err != nil {
			return nil, fmt.Errorf("calibrating: %w", err)
		}
		c.far(max(0, across-pipe), refill, line)
		c.Assumed = append(c.Assumed, "wake-ups, refills and cache lines over other distances: multiples of those within a cache")
	} else {
		c.Assumed = append(c.Assumed, "wake-ups, refills and cache lines: there is no second core")
	}
	if twin >= 0 {
		if c.SMT, err = twoThreads(here, top.CPUs[twin].ID); err != nil {
			return nil, fmt.Errorf("calibrating: %w", err)
		}
	} else {
		c.Assumed = append(c.Assumed, "SMT: no core here has two threads")
	}
	return c, c.Check()
}

// on runs functions at the same time, each on a thread bound to a CPU; the threads end with them.
func on(ids []int, fs ...func() error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(fs))
	for i, f := range fs {
		wait.Go(func() {
			runtime.LockOSThread() // for good: a goroutine that ends locked takes its thread, and the affinity, with it
			if errs[i] = bind(ids[i]); errs[i] == nil {
				errs[i] = f()
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func bind(id int) error {
	var s unix.CPUSet
	s.Set(id)
	if err := unix.SchedSetaffinity(0, &s); err != nil {
		return fmt.Errorf("binding a thread to CPU %d: %w", id, err)
	}
	return nil
}

// pipeCost is what writing a byte into a pipe and reading it costs a thread that need not wait.
func pipeCost(id int) (cost time.Duration, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	err = on([]int{id}, func() error {
		cost, err = median3(func() (time.Duration, error) {
			begun := time.Now()
			for range turns {
				if err := pass(p[1], p[0]); err != nil {
					return 0, err
				}
			}
			return time.Since(begun) / turns, nil
		})
		return err
	})
	return cost, err
}

func median3(f func() (time.Duration, error)) (time.Duration, error) {
	var all []time.Duration
	for range 3 {
		d, err := f()
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	slices.Sort(all)
	return all[1], nil
}

// pass writes a byte and reads one.
func pass(w, r int) error {
	var b [1]byte
	if _, err := unix.Write(w, b[:]); err != nil {
		return os.NewSyscallError("write", err)
	}
	if _, err := unix.Read(r, b[:]); err != nil {
		return os.NewSyscallError("read", err)
	}
	return nil
}

// pipePong is half of a round trip between threads on two CPUs that wake each other.
func pipePong(a, b int) (half time.Duration, err error) {
	var to, back [2]int
	if err := unix.Pipe2(to[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(to[0])
	defer unix.Close(to[1])
	if err := unix.Pipe2(back[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(back[0])
	defer unix.Close(back[1])
	err = on([]int{a, b}, func() error {
		half, err = median3(func() (time.Duration, error) {
			begun := time.Now()
			for range turns {
				if err := pass(to[1], back[0]); err != nil {
					return 0, err
				}
			}
			return time.Since(begun) / turns / 2, nil
		})
		return err
	}, func() error {
		var b [1]byte
		for range 3 * turns {
			if _, err := unix.Read(to[0], b[:]); err != nil {
				return os.NewSyscallError("read", err)
			}
			if _, err := unix.Write(back[1], b[:]); err != nil {
				return os.NewSyscallError("write", err)
			}
		}
		return nil
	})
	return half, err
}

// migration is how much longer the first pass over a footprint takes after a move to another CPU than a pass does in place.
func migration(a, b int) (cost time.Duration, err error) {
	// The lines are visited in an order that no prefetcher guesses; each is changed, so that the other CPU must fetch it from this one.
	const lines = footprint / 64
	memory := make([]uint64, footprint/8)
	for i, at := range rand.New(rand.NewPCG(1, 1)).Perm(lines) {
		memory[8*i] = uint64(at)
	}
	walk := func() time.Duration {
		begun := time.Now()
		for i, at := 0, uint64(0); i < lines; i++ {
			memory[8*at+1]++
			at = memory[8*((at+uint64(i))%lines)]
		}
		return time.Since(begun)
	}
	err = on([]int{a}, func() error {
		var all []time.Duration
		for i := range 60 {
			for range 3 {
				walk()
			}
			warm := walk()
			if err := bind([2]int{b, a}[i%2]); err != nil {
				return err
			}
			all = append(all, walk()-warm)
		}
		slices.Sort(all)
		cost = max(0, all[len(all)/2])
		return nil
	})
	return cost, err
}

// lineWay is half of a round trip of a cache line between two CPUs.
func lineWay(a, b int) (half time.Duration, err error) {
	var word atomic.Uint32
	const trips = 20_000
	side := func(odd uint32) func() error {
		return func() error {
			begun := time.Now()
			for i := uint32(0); i < trips; i++ {
				for looks := 0; word.Load() != 2*i+odd; looks++ {
					if looks%1024 == 1023 && time.Since(begun) > 5*time.Second {
						return fmt.Errorf("CPUs %d and %d took more than 5s for %d messages: the machine is busy", a, b, trips)
					}
				}
				word.Add(1)
			}
			if odd == 1 {
				half = time.Since(begun) / trips / 2
			}
			return nil
		}
	}
	err = on([]int{a, b}, side(0), side(1))
	return half, err
}

// twoThreads is the speed of a core's thread while the other computes too.
func twoThreads(a, b int) (float64, error) {
	compute := func(took *time.Duration) func() error {
		return func() error {
			begun, x := time.Now(), uint64(1)
			for i := range uint64(40_000_000) {
				x = x*6364136223846793005 + i
			}
			*took = time.Since(begun)
			sink.Store(x)
			return nil
		}
	}
	var alone, first, second time.Duration
	if err := on([]int{a}, compute(&alone)); err != nil {
		return 0, err
	}
	if err := on([]int{a, b}, compute(&first), compute(&second)); err != nil {
		return 0, err
	}
	return min(1, float64(alone)/float64(max(first, second, 1))), nil
}

var sink atomic.Uint64
