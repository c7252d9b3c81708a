package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Check finds numbers out of range and constraints that contradict each other, and names them. What it does not find, because only a
// search could, ends in an error of the planners.
func (p *Problem) Check() error {
	_, err := p.field()
	return err
}

// field checks a problem and lays it out.
func (p *Problem) field() (*field, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	f, err := newField(p)
	if err != nil {
		return nil, err
	}
	return f, f.contradiction()
}

// rivals says whether two vCPUs must not share a core.
func (f *field) rivals(i, j int) bool {
	return f.items[i].tenant != f.items[j].tenant || slices.Contains(f.apart[i], int32(j))
}

// contradiction looks for vCPUs of which each needs a core of its own, and which have too few between them.
func (f *field) contradiction() error {
	var order []int
	for i := range f.items {
		if f.tenants > 1 || len(f.apart[i]) > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if d := len(f.items[a].may) - len(f.items[b].may); d != 0 {
			return d
		}
		return len(f.apart[b]) - len(f.apart[a])
	})
	// One group begun with each of the vCPUs that have the fewest CPUs to choose from.
	for _, first := range order[:min(len(order), 32)] {
		group := []int{first}
		for _, i := range order {
			if len(group) > f.cores {
				break
			}
			if i != first && !slices.ContainsFunc(group, func(j int) bool { return !f.rivals(i, j) }) {
				group = append(group, i)
			}
		}
		if err := f.match(group); err != nil {
			return err
		}
	}
	return nil
}

// match gives every vCPU of a group a core of its own, or says which cannot all have one: Hall's theorem.
func (f *field) match(group []int) error {
	cores := make([][]int32, len(group))
	for k, i := range group {
		for _, p := range f.items[i].may {
			cores[k] = append(cores[k], f.cpus[p].core)
		}
		slices.Sort(cores[k])
		cores[k] = slices.Compact(cores[k])
	}
	owner := slices.Repeat([]int{-1}, f.cores) // of every core: index into group
	for k := range group {
		seen := make([]bool, f.cores)
		var find func(k int) bool
		find = func(k int) bool {
			for _, c := range cores[k] {
				if seen[c] {
					continue
				}
				seen[c] = true
				if owner[c] < 0 || find(owner[c]) {
					owner[c] = k
					return true
				}
			}
			return false
		}
		if find(k) {
			continue
		}
		names, left := []string{f.p.name(group[k])}, 0
		for c, s := range seen {
			if s {
				left++
				names = append(names, f.p.name(group[owner[c]]))
			}
		}
		why := "must be apart"
		if f.tenants > 1 {
			why += " or are of different tenants"
		}
		return fmt.Errorf("plan: %s %s, and there are %d cores for the %d: %w", list(names), why, left, len(names), ErrContradiction)
	}
	return nil
}

// list joins names, not too many.
func list(names []string) string {
	if more := len(names) - 8; more > 0 {
		names = append(names[:8:8], fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// broken names the constraints that a placement breaks.
func (f *field) broken(cpu []int) string {
	var out []string
	for i, p := range cpu {
		if _, ok := slices.BinarySearch(f.items[i].may, int32(p)); !ok {
			out = append(out, fmt.Sprintf("%s is outside its pin", f.p.name(i)))
		}
		for j, q := range cpu[:i] {
			if f.cpus[p].core != f.cpus[q].core {
				continue
			}
			if slices.Contains(f.apart[i], int32(j)) {
				out = append(out, fmt.Sprintf("%s and %s, to be apart, share a core", f.p.name(j), f.p.name(i)))
			}
			if f.items[i].tenant != f.items[j].tenant {
				out = append(out, fmt.Sprintf("%s and %s, of tenants %.40q and %.40q, share a core", f.p.name(j), f.p.name(i), f.p.VCPUs[j].Tenant, f.p.VCPUs[i].Tenant))
			}
		}
	}
	return list(out)
}
