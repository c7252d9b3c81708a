package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Policy decides what a host's kernel is told.
type Policy interface {
	Name() string
	Start(m *Machine) error // before the first vCPU comes
	Epoch() time.Duration   // how often Plan is called; 0: never
	Plan(m *Machine) error  // at the end of an epoch
}

type kernel struct{}

// Kernel leaves everything to the kernel.
func Kernel() Policy { return kernel{} }

func (kernel) Name() string         { return "kernel" }
func (kernel) Start(*Machine) error { return nil }
func (kernel) Epoch() time.Duration { return 0 }
func (kernel) Plan(*Machine) error  { return nil }

type balanced struct{ kernel }

// Balance keeps the vCPUs of a VM in different run queues, and leaves the rest to the kernel (Sukwong and Kim, EuroSys 2011).
func Balance() Policy { return balanced{} }

func (balanced) Name() string { return "balance" }
func (balanced) Start(m *Machine) error {
	m.spread = true
	return nil
}

type gangs struct {
	kernel
	slot time.Duration
}

// Gangs co-schedules: gangs get rows of a matrix of CPUs and time slots, whose members run in the same slot (Ousterhout 1982); others fill
// what is left of the rows. A CPU whose vCPU of the row sleeps runs another meanwhile.
func Gangs() Policy { return gangs{slot: 5 * time.Millisecond} }

func (gangs) Name() string { return "gang" }

func (g gangs) Start(m *Machine) error {
	members := map[int][]int{}
	var order [][]int
	for i := range m.vcpus {
		gang := m.vcpus[i].prog.Gang
		if gang == 0 {
			order = append(order, []int{i})
		} else if members[gang] = append(members[gang], i); len(members[gang]) == 1 {
			order = append(order, []int{-gang})
		}
	}
	for i, who := range order {
		if who[0] < 0 {
			order[i] = members[-who[0]]
		}
	}
	slices.SortStableFunc(order, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
	var rows []set // which CPUs of a row are taken
	for _, who := range order {
		for len(who) > 0 {
			part := who[:min(len(who), len(m.cpus))]
			who = who[len(part):]
			row := 0
			var on []int
			for ; ; row++ {
				if row == len(rows) {
					rows = append(rows, set{})
				}
				if on = m.cells(rows[row], part); on != nil || rows[row].empty() {
					break
				}
			}
			for k, id := range part {
				if on == nil { // pins contradict the row: the kernel places them
					m.vcpus[id].row = -2
					continue
				}
				rows[row].add(int32(on[k]))
				m.vcpus[id].row = int32(row)
				if err := m.Allow(id, []int{m.Host.CPUs[on[k]].ID}); err != nil {
					return err
				}
			}
		}
	}
	m.rows, m.slot = int32(len(rows)), int64(g.slot)
	return nil
}

// cells returns a free CPU of a row for each of some vCPUs, near each other; nil: there are not enough.
func (m *Machine) cells(taken set, who []int) []int {
	var on []int
	for _, id := range who {
		best := -1
		for c := range m.cpus {
			if taken.has(int32(c)) || !m.vcpus[id].allowed.has(int32(c)) {
				continue
			}
			if best < 0 || len(on) > 0 && m.level[on[0]][c] < m.level[on[0]][best] {
				best = c
			}
		}
		if best < 0 {
			return nil
		}
		taken.add(int32(best))
		on = append(on, best)
	}
	return on
}

// pinned pins each vCPU to the CPU of a placement, once the loads of an epoch are known and whenever vCPUs came or went.
type pinned struct {
	name  string
	place func(*plan.Problem) (*plan.Plan, error)
	watch watcher
}

// Greedy pins each vCPU by package plan's greedy placement, without weights and slices.
func Greedy() Policy {
	return &pinned{name: "greedy", place: func(p *plan.Problem) (*plan.Plan, error) { return p.Greedy() }}
}

// Random pins each vCPU by chance.
func Random(seed uint64) Policy {
	return &pinned{name: "random", place: func(p *plan.Problem) (*plan.Plan, error) { return p.Random(seed) }}
}

func (p *pinned) Name() string         { return p.name }
func (p *pinned) Start(*Machine) error { return nil }
func (p *pinned) Epoch() time.Duration { return 100 * time.Millisecond }

func (p *pinned) Plan(m *Machine) error {
	problem, ids, changed := p.watch.problem(m, p.Epoch())
	if !changed || len(ids) == 0 {
		return nil
	}
	pl, err := p.place(problem)
	if err != nil {
		return err
	}
	m.Charge(len(ids), pl.Elapsed)
	m.result.Plans++
	for k, id := range ids {
		if err := m.Allow(id, []int{m.Host.CPUs[pl.CPU[k]].ID}); err != nil {
			return err
		}
	}
	return nil
}
