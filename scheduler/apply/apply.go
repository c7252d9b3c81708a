// Package apply makes a plan so: it sets on which CPUs threads may run, their slices, weights and limits, and puts all of it back as it was.
//
// What was there is written down before the first change, here and by a guard: another process, which puts it back if this one is killed.
// What somebody else changes meanwhile is theirs, and stays. Nothing is planned or measured here.
package apply

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Options say how to apply. The zero value is useful, but has no guard.
type Options struct {
	// CgroupRoot is where cgroups are mounted; "" is /sys/fs/cgroup.
	CgroupRoot string
	// Guard is the command line of a process that calls [Guard], and so restores all if this process is killed; nil: there is none.
	Guard []string
}

// Target is what one setting is for: threads of one process.
type Target struct {
	PID   int
	Birth uint64 // when the process started, in clock ticks since boot; 0: not checked
	TIDs  []int  // not looked at if Whole
	Whole bool   // all threads of the process, those of later Applies included
	Name  string // for messages
}

// Report says what an Apply found and did, in threads.
type Report struct {
	Threads  int      `json:"threads"`            // that there are
	Changed  int      `json:"changed"`            // where something was set
	Returned int      `json:"returned"`           // of targets that are no more: as they were before
	Gone     int      `json:"gone"`               // ended
	Foreign  int      `json:"foreign"`            // that somebody else has changed since: that was left so
	Refused  int      `json:"refused"`            // where something could not be set
	Warnings []string `json:"warnings,omitempty"` // why, for each target once
}

// Applier sets and restores. Its methods may be called from several goroutines.
type Applier struct {
	mu     sync.Mutex // of all below
	ledger ledger
	guard  *guard
	limits []string
	made   map[groupKey]*made
	number int // of groups made
	closed bool
	noNice bool // this user may not
}

type groupKey struct {
	pid          int
	name, parent string
}

// made is a cgroup for a target; dir is "" where none can be made.
type made struct {
	dir    string
	weight int
	quota  float64
	used   bool // by the present plan
}

// New probes what can be set here and starts the guard. The caller closes the Applier.
func New(o Options) (*Applier, error) {
	if o.CgroupRoot == "" {
		o.CgroupRoot = "/sys/fs/cgroup"
	}
	return open(o, findCgroups(o.CgroupRoot, osFiles{}))
}

func open(o Options, groups cgroups) (*Applier, error) {
	a := &Applier{made: map[groupKey]*made{}, ledger: ledger{kernel: kernel{Groups: groups}}}
	a.ledger.clear()
	runtime.LockOSThread()
	a.ledger.Base = baseSlice()
	runtime.UnlockOSThread()
	if a.ledger.Base == 0 {
		a.limit("this kernel takes no slices for ordinary threads: that needs Linux 6.12 or later")
	}
	if groups.Mount == "" {
		a.limit(fmt.Sprintf("no cgroups with a cpu controller below %s: weights become nice values, and nothing can be limited to a quota", o.CgroupRoot))
		if autogroups() {
			a.limit("nice values count only among the threads of one session, as kernel.sched_autogroup_enabled is 1")
		}
	}
	if os.Geteuid() != 0 {
		a.limit("without root only threads of this user's processes can be placed")
	}
	if o.Guard == nil {
		a.limit("no guard: if this process is killed, settings stay")
		return a, nil
	}
	g, err := startGuard(o.Guard)
	if err != nil {
		return nil, err
	}
	a.guard = g
	if err := g.write(entry{Kernel: &a.ledger.kernel}); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return a, nil
}

// Limits says what cannot be done here, and why. What an Apply finds out is added.
func (a *Applier) Limits() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.limits)
}

func (a *Applier) limit(text string) {
	if !slices.Contains(a.limits, text) {
		a.limits = append(a.limits, text)
	}
}

// Apply makes the settings, one for each target, the whole of what is set: a field that is zero is as it was before the first Apply, and so is
// everything of targets that are no longer named. A weight of 100 without a quota is what a thread has, and needs no cgroup. Other weights are
// nice values of threads if no target has a quota and all are of one cgroup, as groups make wake-ups late (scheduler/mix: ten times);
// else they are those of cgroups for each target as a whole, among the threads and groups of its own cgroup. What is so already is not set again. Threads that have ended, may not be changed or were
// changed by somebody else are counted in the report; an error says that the settings are nonsense or that the guard is gone, and that
// nothing more was changed.
func (a *Applier) Apply(targets []Target, settings []plan.Setting) (Report, error) {
	if len(targets) != len(settings) {
		return Report{}, fmt.Errorf("applying a plan: %d settings for %d targets", len(settings), len(targets))
	}
	for i := range settings {
		if err := check(&targets[i], &settings[i]); err != nil {
			return Report{}, fmt.Errorf("applying a plan to %s: %w", targets[i].Name, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return Report{}, errors.New("applying a plan: the applier is closed")
	}
	for _, m := range a.made {
		m.used = false
	}
	pass := pass{a: a, wanted: map[process.ID]outcome{}, nice: !a.noNice && a.siblings(targets, settings)}
	for i := range targets {
		pass.place(&targets[i], &settings[i])
	}
	pass.leave(targets)
	return pass.count(), a.guard.failed()
}

// siblings says whether nice values count among all targets, and are enough.
func (a *Applier) siblings(targets []Target, settings []plan.Setting) bool {
	automatic, groups := autogroups(), map[string]bool{}
	for i, t := range targets {
		if settings[i].Quota > 0 {
			return false
		}
		id, err := process.Find(t.PID)
		if err != nil {
			continue
		}
		group := ""
		if r := a.ledger.records[id]; r != nil {
			group = r.Was.Group
		} else if group, err = a.ledger.Groups.of(t.PID); err != nil {
			continue
		}
		if automatic && group == a.ledger.Groups.Mount {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", t.PID))
			session, _, _ := strings.Cut(string(b), " ")
			group += " " + session
		}
		groups[group] = true
	}
	return len(groups) <= 1
}

// autogroups says whether the kernel makes a group of its own for the threads of each session.
func autogroups() bool {
	b, err := os.ReadFile("/proc/sys/kernel/sched_autogroup_enabled")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

func check(t *Target, s *plan.Setting) error {
	switch {
	case t.PID <= 0:
		return fmt.Errorf("%d is no process ID", t.PID)
	case s.Weight < 0 || s.Weight > 10000:
		return fmt.Errorf("weight %d is not from 1 to 10000", s.Weight)
	case s.Slice < 0:
		return fmt.Errorf("a slice of %v is negative", s.Slice)
	case math.IsNaN(s.Quota) || s.Quota < 0 || s.Quota > maxCPUs:
		return fmt.Errorf("a quota of %g CPUs is not from 0 to %d", s.Quota, maxCPUs)
	case s.CPUs != nil && len(s.CPUs) == 0:
		return errors.New("its set of CPUs is empty")
	}
	for _, id := range s.CPUs {
		if id < 0 || id >= maxCPUs {
			return fmt.Errorf("there is no CPU %d", id)
		}
	}
	for _, tid := range t.TIDs {
		if tid <= 0 {
			return fmt.Errorf("%d is no thread ID", tid)
		}
	}
	return nil
}

// Restore puts everything back. What it could not put back, another Restore, Close or the guard tries again.
func (a *Applier) Restore() (Restored, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restore()
}

func (a *Applier) restore() (Restored, error) {
	clear(a.made)
	done, err := a.ledger.restore()
	if err == nil {
		err = a.guard.write(entry{Done: true})
	}
	return done, err
}

// Close restores, and ends the guard.
func (a *Applier) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	_, err := a.restore()
	return errors.Join(err, a.guard.close())
}

// groupOf returns the cgroup for threads of a target below their own one, "" if there can be none.
func (a *Applier) groupOf(t *Target, parent string, s *plan.Setting) string {
	if parent == "" {
		return ""
	}
	key := groupKey{t.PID, t.Name, parent}
	m := a.made[key]
	if m == nil {
		m = &made{weight: neutral}
		a.made[key] = m
		a.number++
		g := group{Parent: parent, Dir: filepath.Join(parent, fmt.Sprintf("qenex-sched-%d-%d-%s", os.Getpid(), a.number, plain(t.Name)))}
		var err error
		if g.Enabled, err = a.ledger.Groups.enables(parent); err == nil {
			if a.guard.write(entry{Group: &g}) != nil {
				return ""
			}
			err = a.ledger.Groups.create(g.Dir, g.Enabled)
		}
		if err != nil {
			a.limit(fmt.Sprintf("weights become nice values, and there are no quotas: %v", err))
			return ""
		}
		a.ledger.groups[g.Dir], m.dir = g, g.Dir
	}
	if m.dir == "" {
		return ""
	}
	m.used = true
	weight := s.Weight
	if weight == 0 {
		weight = neutral
	}
	if weight != m.weight {
		if err := a.ledger.Groups.setWeight(m.dir, weight); err != nil {
			a.limit(err.Error())
		}
		m.weight = weight
	}
	if s.Quota != m.quota {
		if err := a.ledger.Groups.setQuota(m.dir, s.Quota); err != nil {
			a.limit(err.Error())
		}
		m.quota = s.Quota
	}
	return m.dir
}

// plain makes a name fit for a directory.
func plain(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 40)]
}

// neutral is the weight of a thread of nice 0, and of a cgroup that was not given another.
const neutral = 100

// niceOf is the nice value that comes closest to a weight: each step is a quarter more.
func niceOf(weight int) int {
	return -int(math.Round(math.Log(float64(weight)/neutral) / math.Log(1.25)))
}

// slice bounds of the kernel.
const (
	minSlice = 100 * time.Microsecond
	maxSlice = 100 * time.Millisecond
)
