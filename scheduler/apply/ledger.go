package apply

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/internal/process"
	"golang.org/x/sys/unix"
)

// record is what is known of one thread: each line of it is written down before what it says is done.
type record struct {
	Thread process.ID `json:"thread"`
	Of     process.ID `json:"of"`     // its process
	Seen   uint64     `json:"seen"`   // clock ticks since boot when Was was read
	Was    state      `json:"was"`    // before the first change
	Before state      `json:"before"` // before the last change: it may not have been made yet
	Set    state      `json:"set"`    // what it is set to; equal to Was where nothing was changed
	Asked  []int      `json:"asked"`  // CPUs that Set was to have; its cpuset, or CPUs that are offline, may have left fewer
}

// group is a cgroup of ours.
type group struct {
	Dir     string `json:"dir"`
	Parent  string `json:"parent"`
	Enabled bool   `json:"enabled"` // we gave the cpu controller to the parent's children
}

// ledger knows all that was changed and how it was before.
type ledger struct {
	kernel
	records map[process.ID]*record
	groups  map[string]group // by directory
}

func (l *ledger) clear() {
	l.records, l.groups = map[process.ID]*record{}, map[string]group{}
}

// Restored counts what a restoration found.
type Restored struct {
	Threads int `json:"threads"` // put back
	Gone    int `json:"gone"`    // ended meanwhile
	Foreign int `json:"foreign"` // changed by somebody else meanwhile, and left so
	Heirs   int `json:"heirs"`   // born of changed threads, with what these were set to, and put back as well
}

// restore puts everything back that is still as we set it, and keeps in the ledger only what failed.
func (l *ledger) restore() (Restored, error) {
	var done Restored
	var errs []error
	processes, failed := map[process.ID]bool{}, map[process.ID]*record{}
	for id, r := range l.records {
		processes[r.Of] = true
		switch foreign, err := l.putBack(r); {
		case err != nil && !id.Alive(), gone(err):
			done.Gone++
		case err != nil:
			errs = append(errs, err)
			failed[id] = r
		case foreign:
			done.Foreign++
		default:
			done.Threads++
		}
	}
	for of := range processes {
		if of.Alive() {
			done.Heirs += l.putBackHeirs(of)
		}
	}
	for dir := range l.groups {
		if _, err := l.removeGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	l.records = failed
	return done, errors.Join(errs...)
}

// removeGroup removes a cgroup of ours, and with the last one below a parent what was changed there. A group that has to remember this
// instead is returned.
func (l *ledger) removeGroup(dir string) (keeper *group, err error) {
	g := l.groups[dir]
	if err := l.Groups.remove(dir); err != nil {
		return nil, err
	}
	delete(l.groups, dir)
	if !g.Enabled {
		return nil, nil
	}
	for other, o := range l.groups {
		if o.Parent == g.Parent {
			o.Enabled = true
			l.groups[other] = o
			return &o, nil
		}
	}
	return nil, l.Groups.disable(g.Parent)
}

// putBack restores one thread, field by field; foreign tells that somebody else had changed it.
func (l *ledger) putBack(r *record) (foreign bool, err error) {
	if !r.Thread.Alive() {
		return false, unix.ESRCH
	}
	now, err := l.read(r.Thread.PID)
	if err != nil {
		return false, err
	}
	tid := r.Thread.PID
	if !slices.Equal(now.CPUs, r.Was.CPUs) && r.touched(func(s state) bool { return !slices.Equal(s.CPUs, r.Was.CPUs) }) {
		if l.ours(r, now.CPUs) {
			err = l.restoreCPUs(tid, r.Was.CPUs)
		} else {
			foreign = true
		}
	}
	nice, slice := now.Nice, now.Slice
	if now.Fair && now.Nice != r.Was.Nice && r.touched(func(s state) bool { return s.Nice != r.Was.Nice }) {
		if now.Nice == r.Set.Nice || now.Nice == r.Before.Nice || now.Nice == r.Before.Nice-1 { // see renice
			nice = r.Was.Nice
		} else {
			foreign = true
		}
	}
	if now.Fair && now.Slice != r.Was.Slice && r.touched(func(s state) bool { return s.Slice != r.Was.Slice }) {
		if now.Slice == r.Set.Slice || now.Slice == r.Before.Slice {
			slice = r.Was.Slice
		} else {
			foreign = true
		}
	}
	if nice != now.Nice || slice != now.Slice {
		err = errors.Join(err, l.setAttr(tid, nice, slice))
	}
	if now.Group != r.Was.Group && r.touched(func(s state) bool { return s.Group != r.Was.Group }) {
		if _, mine := l.groups[now.Group]; mine {
			err = errors.Join(err, l.Groups.join(r.Was.Group, tid))
		} else {
			foreign = true
		}
	}
	return foreign, err
}

// touched tells whether a field was ever to be changed.
func (r *record) touched(differs func(state) bool) bool { return differs(r.Set) || differs(r.Before) }

// ours tells whether a thread's affinity is one that was set, or what the kernel made of it as CPUs or its cpuset changed.
func (l *ledger) ours(r *record, now []int) bool {
	for _, set := range [][]int{r.Set.CPUs, r.Before.CPUs, r.Asked} {
		if set == nil {
			continue
		}
		if slices.Equal(now, set) {
			return true
		}
		if left := l.Groups.left(r.Thread.PID, set); len(left) == 0 || slices.Equal(now, left) {
			return true
		}
	}
	return false
}

// restoreCPUs gives a thread its mask back. A mask that is all its cpuset has becomes "any" again, so that CPUs that come later count too.
func (k *kernel) restoreCPUs(tid int, was []int) error {
	if len(was) > 1 {
		if setCPUs(tid, nil) == nil {
			if now, err := getCPUs(tid); err == nil && slices.Equal(now, k.Groups.left(tid, was)) {
				return nil
			}
		}
	}
	err := setCPUs(tid, was)
	if errors.Is(err, unix.EINVAL) { // none of them is in its cpuset any more
		return setCPUs(tid, nil)
	}
	return err
}

// putBackHeirs restores the threads of a process, and of its descendants, that were born of changed threads and inherited the change.
func (l *ledger) putBackHeirs(of process.ID) (n int) {
	seen := map[process.ID]bool{}
	for fresh := true; fresh; {
		fresh = false
		for _, p := range family(of.PID) {
			tids, _ := threads(p) // none if it has ended
			for _, tid := range tids {
				id, err := process.Find(tid)
				if err != nil || seen[id] || l.records[id] != nil {
					continue
				}
				seen[id], fresh = true, true
				now, err := l.read(tid)
				if err != nil {
					continue
				}
				if r := l.donor(of, id, now); r != nil {
					heir := *r
					heir.Thread = id
					if _, err := l.putBack(&heir); err == nil {
						n++
					}
				}
			}
		}
	}
	return n
}

// donor returns the record of the thread that a later one has its state from, or nil.
func (l *ledger) donor(of process.ID, id process.ID, now state) *record {
	for _, r := range l.records {
		if r.Of != of || id.Birth < r.Seen {
			continue
		}
		for _, s := range []state{r.Set, r.Before} {
			if slices.Equal(now.CPUs, s.CPUs) && now.Nice == s.Nice && now.Slice == s.Slice && now.Group == s.Group && !same(s, r.Was) {
				return r
			}
		}
	}
	return nil
}

func same(a, b state) bool {
	return slices.Equal(a.CPUs, b.CPUs) && a.Nice == b.Nice && a.Slice == b.Slice && a.Group == b.Group
}

// family returns a process and its descendants.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		tids, _ := threads(all[i])
		for _, tid := range tids {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", all[i], tid))
			for _, text := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(text); err == nil && !slices.Contains(all, child) {
					all = append(all, child)
				}
			}
		}
	}
	return all
}

// ticks is the time since boot in the unit of process.ID.
func ticks() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0 // every thread may be an heir then, if its state is what we set
	}
	return uint64(ts.Nano()) / uint64(10*time.Millisecond) // USER_HZ is 100 on every architecture that has KVM
}
