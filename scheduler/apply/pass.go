package apply

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/scheduler/plan"
	"golang.org/x/sys/unix"
)

// pass is one Apply.
type pass struct {
	a      *Applier
	wanted map[process.ID]outcome // threads of its targets
	nice   bool                   // weights are nice values
	report Report
}

// outcome is what came of a thread, in bits.
type outcome uint8

const (
	changed outcome = 1 << iota
	foreign
	refused
	vanished
)

// count sums up.
func (p *pass) count() Report {
	r := p.report
	for _, o := range p.wanted {
		if o&vanished != 0 {
			r.Gone++
			continue
		}
		r.Threads++
		r.Changed += int(o & changed)
		r.Foreign += int(o & foreign / foreign)
		r.Refused += int(o & refused / refused)
	}
	return r
}

// errNoCPU says that a thread may run on none of the CPUs wanted.
var errNoCPU = errors.New("none of these CPUs is online and in its cpuset")

// maxRounds bounds how often a process is asked for threads that were born meanwhile.
const maxRounds = 100

// place applies a setting to a target. If none of its CPUs can be had, the target runs where it ran before the first Apply.
func (p *pass) place(t *Target, s *plan.Setting) {
	err := p.threads(t, s)
	if errors.Is(err, errNoCPU) {
		plain := *s
		plain.CPUs = nil
		err = errors.Join(fmt.Errorf("it runs where it ran before: %w", err), p.threads(t, &plain))
	}
	if err != nil {
		p.report.Warnings = append(p.report.Warnings, fmt.Sprintf("%s: %v", t.Name, err))
	}
}

// threads applies a setting to all threads of a target, and returns what went wrong first.
func (p *pass) threads(t *Target, s *plan.Setting) (first error) {
	done := map[int]bool{}
	of, err := process.Find(t.PID)
	if err != nil || t.Birth != 0 && t.Birth != of.Birth {
		p.report.Gone++
		return nil
	}
	for round, fresh := 0, true; fresh && round < maxRounds && p.a.guard.failed() == nil; round++ {
		tids := t.TIDs
		if t.Whole {
			if tids, err = threads(t.PID); err != nil {
				p.report.Gone++
				return first
			}
		}
		fresh = false
		for _, tid := range tids {
			if done[tid] {
				continue
			}
			done[tid], fresh = true, t.Whole
			if err := p.thread(t, of, tid, s); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// thread applies a setting to one thread.
func (p *pass) thread(t *Target, of process.ID, tid int, s *plan.Setting) error {
	l := &p.a.ledger
	id, err := process.Find(tid)
	if err == nil {
		_, err = os.Lstat(fmt.Sprintf("/proc/%d/task/%d", t.PID, tid))
	}
	var now state
	if err == nil {
		now, err = l.read(tid)
	}
	if gone(err) {
		p.report.Gone++
		return nil
	}
	p.wanted[id] |= 0
	if err != nil {
		p.wanted[id] |= refused
		return err
	}
	r, theirs := l.meet(of, id, now)
	next, do := p.next(t, s, r, now, theirs)
	if theirs != (fields{}) {
		p.wanted[id] |= foreign
	}
	if do == (fields{}) {
		return nil
	}
	if err := p.a.guard.write(entry{Record: &next}); err != nil {
		return err
	}
	l.records[id] = &next
	switch err := p.set(&next, now, do); {
	case err == nil:
		p.wanted[id] |= changed
		return nil
	case gone(err) || !id.Alive():
		p.wanted[id] |= vanished
		return nil
	default:
		p.wanted[id] |= refused
		return err
	}
}

// next returns what a thread is to be, and what has to be set for it. What somebody else has changed is theirs.
func (p *pass) next(t *Target, s *plan.Setting, r *record, now state, theirs fields) (next record, do fields) {
	next = *r
	next.Before, next.Set, next.Asked = r.Set, r.Was, nil
	if s.CPUs != nil {
		next.Asked = slices.Clone(s.CPUs)
		slices.Sort(next.Asked)
		next.Asked = slices.Compact(next.Asked)
		next.Set.CPUs = next.Asked
	}
	if s.Slice > 0 && p.a.ledger.Base > 0 && now.Fair {
		if next.Set.Slice = min(max(s.Slice, minSlice), maxSlice); next.Set.Slice == p.a.ledger.Base {
			next.Set.Slice = 0
		}
	}
	if s.Weight > 0 && s.Weight != neutral || s.Quota > 0 {
		dir := ""
		if !p.nice {
			dir = p.a.groupOf(t, r.Was.Group, s)
		}
		if dir != "" {
			next.Set.Group = dir
		} else if now.Fair && s.Weight > 0 && !p.a.noNice {
			next.Set.Nice = min(max(r.Was.Nice+niceOf(s.Weight), -20), 19)
		}
	}
	asked := slices.Equal(next.Asked, r.Asked) && slices.Equal(now.CPUs, r.Set.CPUs)
	do = fields{
		cpus:  !theirs.cpus && !asked && !slices.Equal(now.CPUs, next.Set.CPUs),
		nice:  !theirs.nice && now.Nice != next.Set.Nice,
		slice: !theirs.slice && now.Slice != next.Set.Slice,
		group: !theirs.group && now.Group != next.Set.Group,
	}
	if !do.cpus {
		next.Set.CPUs, next.Asked = r.Set.CPUs, r.Asked
	}
	if !do.nice {
		next.Set.Nice = r.Set.Nice
	}
	if !do.slice {
		next.Set.Slice = r.Set.Slice
	}
	if !do.group {
		next.Set.Group = r.Set.Group
	}
	return next, do
}

// set makes a thread what its record says, and corrects the record by what came of it.
func (p *pass) set(r *record, now state, do fields) error {
	l, tid := &p.a.ledger, r.Thread.PID
	var errs []error
	if do.group {
		if err := l.Groups.join(r.Set.Group, tid); err != nil {
			errs, r.Set.Group = append(errs, err), now.Group
		}
	}
	if do.slice {
		if err := l.setAttr(tid, now.Nice, r.Set.Slice); err != nil {
			errs, r.Set.Slice = append(errs, err), now.Slice
		}
	}
	if do.nice {
		if err := l.renice(tid, now.Nice, r.Set.Nice, r.Set.Slice); err != nil {
			r.Set.Nice = now.Nice
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
				p.a.noNice = true
				p.a.limit(fmt.Sprintf("there are no weights without CAP_SYS_NICE: %v", err))
			} else {
				errs = append(errs, err)
			}
		}
	}
	if do.cpus {
		errs = append(errs, p.pin(r, now.CPUs))
	}
	return errors.Join(errs...)
}

// pin sets the affinity that a record says, and corrects the record by what came of it.
func (p *pass) pin(r *record, now []int) error {
	tid, err := r.Thread.PID, error(nil)
	if r.Asked == nil {
		err = p.a.ledger.restoreCPUs(tid, r.Set.CPUs)
	} else if err = setCPUs(tid, r.Set.CPUs); errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", errNoCPU, err)
	}
	if err == nil {
		now, err = getCPUs(tid)
	}
	if !slices.Equal(now, r.Set.CPUs) {
		r.Set.CPUs = now
		err = errors.Join(err, p.a.guard.write(entry{Record: r}))
	}
	return err
}

// fields says which of a thread's state is meant.
type fields struct{ cpus, nice, slice, group bool }

// meet returns the record of a thread, a new one for a thread that is not known, and what somebody else has changed since it was set.
// What was never set and is changed, is how it was before.
func (l *ledger) meet(of process.ID, id process.ID, now state) (*record, fields) {
	r := l.records[id]
	if r == nil {
		r = &record{Thread: id, Of: of, Seen: ticks(), Was: now, Before: now, Set: now}
		if d := l.donor(of, id, now); d != nil {
			r.Was, r.Asked = d.Was, d.Asked
		}
		return r, fields{}
	}
	foreign := fields{
		cpus:  !slices.Equal(now.CPUs, r.Set.CPUs) && !l.ours(r, now.CPUs) && !(r.Asked == nil && slices.Equal(now.CPUs, r.Was.CPUs)),
		nice:  now.Nice != r.Set.Nice,
		slice: now.Slice != r.Set.Slice,
		group: now.Group != r.Set.Group,
	}
	if foreign.cpus && slices.Equal(r.Set.CPUs, r.Was.CPUs) {
		r.Was.CPUs, r.Set.CPUs, r.Before.CPUs, r.Asked, foreign.cpus = now.CPUs, now.CPUs, now.CPUs, nil, false
	}
	if foreign.nice && r.Set.Nice == r.Was.Nice {
		r.Was.Nice, r.Set.Nice, r.Before.Nice, foreign.nice = now.Nice, now.Nice, now.Nice, false
	}
	if foreign.slice && r.Set.Slice == r.Was.Slice {
		r.Was.Slice, r.Set.Slice, r.Before.Slice, foreign.slice = now.Slice, now.Slice, now.Slice, false
	}
	if foreign.group && r.Set.Group == r.Was.Group {
		r.Was.Group, r.Set.Group, r.Before.Group, foreign.group = now.Group, now.Group, now.Group, false
	}
	return r, foreign
}

// leave puts back what is set of threads that the plan names no more, and tidies up after those that have ended.
func (p *pass) leave(targets []Target) {
	l, g := &p.a.ledger, p.a.guard
	whole := map[int]bool{}
	for _, t := range targets {
		whole[t.PID] = whole[t.PID] || t.Whole
	}
	for id, r := range l.records {
		if _, ok := p.wanted[id]; ok || g.failed() != nil {
			continue
		}
		if !id.Alive() {
			// A thread that was born of it and is not known yet is put back by its record. A whole process has none.
			if whole[r.Of.PID] || !r.Of.Alive() {
				delete(l.records, id)
				g.write(entry{Forget: &id}) // its error stays and ends the pass
			}
			continue
		}
		if same(r.Set, r.Was) {
			continue
		}
		theirs, err := l.putBack(r)
		switch {
		case gone(err):
			continue
		case err != nil:
			p.report.Refused++
			p.report.Warnings = append(p.report.Warnings, err.Error())
			continue
		case theirs:
			p.report.Foreign++
		default:
			p.report.Returned++
		}
		r.Set, r.Before, r.Asked = r.Was, r.Was, nil
		g.write(entry{Record: r})
	}
	for key, m := range p.a.made {
		if m.used || g.failed() != nil {
			continue
		}
		delete(p.a.made, key)
		if m.dir == "" {
			continue // the next one may be luckier: its process may be in another place by then
		}
		keeper, err := l.removeGroup(m.dir)
		if err != nil {
			p.report.Warnings = append(p.report.Warnings, err.Error())
			continue
		}
		if keeper != nil {
			g.write(entry{Group: keeper})
		}
		g.write(entry{Removed: m.dir})
	}
}
