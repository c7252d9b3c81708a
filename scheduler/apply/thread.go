package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxCPUs is more than Linux knows on any architecture.
const maxCPUs = 8192

// state is what is applied to one thread.
type state struct {
	CPUs  []int         `json:"cpus"` // the affinity mask: IDs, rising
	Fair  bool          `json:"fair"` // scheduled by weight: only then Nice and Slice mean something
	Nice  int           `json:"nice"`
	Slice time.Duration `json:"slice"` // 0: the kernel's own
	Group string        `json:"group"` // directory of the cgroup that has its share of the CPUs; "": not known
}

// kernel is what is the same for all threads of this machine.
type kernel struct {
	Base   time.Duration `json:"base"` // slice of a thread that has none of its own; 0: this kernel shows and takes none
	Groups cgroups       `json:"groups"`
}

// gone tells whether an error says that the thread does not exist any more.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist)
}

func getCPUs(tid int) ([]int, error) {
	set := unix.NewCPUSet(maxCPUs)
	if err := unix.SchedGetaffinityDynamic(tid, set); err != nil {
		return nil, fmt.Errorf("reading the affinity of thread %d: %w", tid, err)
	}
	var ids []int
	for id, left := 0, set.Count(); left > 0; id++ {
		if set.IsSet(id) {
			ids, left = append(ids, id), left-1
		}
	}
	return ids, nil
}

// setCPUs pins a thread; nil means to any CPU that its cpuset has, now and later.
func setCPUs(tid int, ids []int) error {
	set := unix.NewCPUSet(maxCPUs)
	if ids == nil {
		set.Fill()
	}
	for _, id := range ids {
		set.Set(id)
	}
	if err := unix.SchedSetaffinityDynamic(tid, set); err != nil {
		return fmt.Errorf("setting the affinity of thread %d to CPUs %v: %w", tid, ids, err)
	}
	return nil
}

// read returns the present state of a thread.
func (k *kernel) read(tid int) (state, error) {
	cpus, err := getCPUs(tid)
	if err != nil {
		return state{}, err
	}
	s := state{CPUs: cpus}
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return s, fmt.Errorf("reading the scheduling of thread %d: %w", tid, err)
	}
	if s.Fair = fair(attr); s.Fair {
		s.Nice = int(attr.Nice)
		if s.Slice = time.Duration(attr.Runtime); s.Slice == k.Base {
			s.Slice = 0
		}
	}
	s.Group, err = k.Groups.of(tid)
	return s, err
}

func fair(attr *unix.SchedAttr) bool {
	return attr.Policy == unix.SCHED_NORMAL || attr.Policy == unix.SCHED_BATCH
}

// setAttr sets nice and slice of a thread and leaves the rest of its attributes as they are.
func (k *kernel) setAttr(tid, nice int, slice time.Duration) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err == nil && fair(attr) {
		attr.Nice = int32(nice)
		if k.Base > 0 {
			attr.Runtime = uint64(slice)
		}
		err = unix.SchedSetAttr(tid, attr, 0)
	}
	if err != nil {
		return fmt.Errorf("setting nice %d and a slice of %v of thread %d: %w", nice, slice, tid, err)
	}
	return nil
}

// renice sets a nice value only if the one before can be restored: it first takes one below it, which needs the same right.
func (k *kernel) renice(tid, was, nice int, slice time.Duration) error {
	if nice > was && was > -20 {
		if err := k.setAttr(tid, was-1, slice); err != nil {
			return fmt.Errorf("as it could not be restored, %w", err)
		}
	}
	return k.setAttr(tid, nice, slice)
}

// baseSlice returns the slice of threads that have none of their own, or 0 if this kernel takes no slices. It tries that on the calling thread,
// which stays as it was.
func baseSlice() time.Duration {
	const odd = 1234567 // ns, nobody's default
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || !fair(attr) {
		return 0
	}
	was := attr.Runtime
	var seen [2]uint64
	for i, ask := range []uint64{odd, 0} {
		attr.Runtime = ask
		if unix.SchedSetAttr(0, attr, 0) != nil {
			return 0
		}
		now, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			return 0
		}
		seen[i] = now.Runtime
	}
	if seen[0] != odd {
		return 0
	}
	if attr.Runtime = was; was != seen[1] && unix.SchedSetAttr(0, attr, 0) != nil {
		return 0
	}
	return time.Duration(seen[1])
}

// threads lists the threads of a process.
func threads(pid int) ([]int, error) {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil, fmt.Errorf("listing the threads of process %d: %w", pid, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing the threads of process %d: %w", pid, err)
	}
	tids := make([]int, 0, len(names))
	for _, name := range names {
		if tid, err := strconv.Atoi(name); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}
