package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// atomCapacity is what an efficient core of an Intel hybrid counts for when the kernel tells its kind and nothing about its speed.
const atomCapacity = 0.6

// This reads the machine that the program runs on, as far as its affinity and its cpuset let it run there.
func This() (*Topology, error) {
	allowed, err := affinity()
	if err != nil {
		return nil, err
	}
	return read(os.DirFS("/sys/devices/system"), os.DirFS("/sys/devices"), allowed)
}

// affinity returns the CPUs that the calling thread may use.
func affinity() ([]int, error) {
	var set unix.CPUSet
	err := unix.SchedGetaffinity(0, &set)
	if err == nil {
		ids := []int{}
		for id := range len(set) * 64 {
			if set.IsSet(id) {
				ids = append(ids, id)
			}
		}
		return ids, nil
	}
	// More CPUs than the set has bits: /proc tells the same as text.
	text, readErr := os.ReadFile("/proc/thread-self/status")
	if readErr != nil {
		return nil, fmt.Errorf("reading the affinity of this program: %w", errors.Join(err, readErr))
	}
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return ParseList(list)
		}
	}
	return nil, fmt.Errorf("reading the affinity of this program: %w", err)
}

// Read reads a topology from a file system like /sys/devices/system. Only CPUs in allowed count; nil allows all. Files that are missing, as
// containers hide them, are made up for: one package, a node for each package, a cache for each node, a core for each CPU, all of capacity 1. A
// file whose content makes no sense is an error that names it. Without any CPU, the error is ErrNoCPU.
func Read(sys fs.FS, allowed []int) (*Topology, error) { return read(sys, nil, allowed) }

// read also looks into devices, like /sys/devices, for the kinds of an Intel hybrid's cores; nil: do not.
func read(sys, devices fs.FS, allowed []int) (*Topology, error) {
	r := reader{fs: sys}
	ids := r.online(allowed)
	if allowed != nil {
		ids = slices.DeleteFunc(ids, func(id int) bool { return !slices.Contains(allowed, id) })
	}
	if r.err == nil && len(ids) == 0 {
		return nil, ErrNoCPU
	}
	nodes := r.nodes()
	t := &Topology{}
	for _, id := range ids {
		c := CPU{ID: id}
		dir := fmt.Sprintf("cpu/cpu%d/", id)
		pkg, ok := r.number(dir + "topology/physical_package_id")
		if !ok || pkg < 0 {
			pkg = 0
		}
		c.Package = pkg
		c.Core, ok = r.group(dir+"topology/core_cpus_list", id)
		if !ok { // the older name
			if c.Core, ok = r.group(dir+"topology/thread_siblings_list", id); !ok {
				c.Core = id
			}
		}
		if c.Node, ok = nodes[id]; !ok {
			c.Node = maxID + 1 + pkg
		}
		if c.LLC, ok = r.cache(dir, id); !ok {
			if c.LLC, ok = r.group(dir+"topology/die_cpus_list", id); !ok {
				c.LLC = maxID + 1 + c.Node
			}
		}
		t.CPUs = append(t.CPUs, c)
	}
	r.capacities(t.CPUs, devices)
	if r.err != nil {
		return nil, r.err
	}
	for _, field := range []func(*CPU) *int{
		func(c *CPU) *int { return &c.Core }, func(c *CPU) *int { return &c.LLC },
		func(c *CPU) *int { return &c.Node }, func(c *CPU) *int { return &c.Package },
	} {
		renumber(t.CPUs, field)
	}
	return t, nil
}

// renumber makes a field count from 0, in the order in which the CPUs name its values.
func renumber(cpus []CPU, field func(*CPU) *int) {
	numbers := map[int]int{}
	for i := range cpus {
		f := field(&cpus[i])
		n, ok := numbers[*f]
		if !ok {
			n = len(numbers)
			numbers[*f] = n
		}
		*f = n
	}
}

// reader keeps the first error; after it, everything is missing.
type reader struct {
	fs  fs.FS
	err error
}

// text returns a file's content; a file that is missing or may not be read is not there.
func (r *reader) text(name string) (string, bool) {
	if r.err != nil {
		return "", false
	}
	b, err := fs.ReadFile(r.fs, name)
	return strings.TrimSpace(string(b)), err == nil
}

func (r *reader) fail(name string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("reading the host's CPUs from %s: %w", name, err)
	}
}

func (r *reader) list(name string) ([]int, bool) {
	s, ok := r.text(name)
	if !ok {
		return nil, false
	}
	ids, err := ParseList(s)
	if err != nil {
		r.fail(name, err)
	}
	return ids, err == nil
}

func (r *reader) number(name string) (int, bool) {
	s, ok := r.text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		r.fail(name, fmt.Errorf("%.40q is not a number", s))
	}
	return int(n), err == nil
}

// group names the set of CPUs that a file lists by its lowest member. The list of an offline CPU is empty.
func (r *reader) group(name string, id int) (int, bool) {
	ids, ok := r.list(name)
	if !ok {
		return 0, false
	}
	return slices.Min(append(ids, id)), true
}

// numbered returns the numbers n of a directory's entries prefix+n, sorted.
func (r *reader) numbered(dir, prefix string) []int {
	entries, err := fs.ReadDir(r.fs, dir)
	if err != nil || r.err != nil {
		return nil
	}
	var ns []int
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name(), prefix); ok {
			if n, err := parseID(s); err == nil {
				ns = append(ns, n)
			}
		}
	}
	slices.Sort(ns)
	return ns
}

// online returns the CPUs that run; what is allowed must be there even if sysfs shows nothing.
func (r *reader) online(allowed []int) []int {
	ids, ok := r.list("cpu/online")
	if ok {
		return ids
	}
	if ids = r.numbered("cpu", "cpu"); len(ids) == 0 {
		ids = slices.Clone(allowed)
		slices.Sort(ids)
		return slices.DeleteFunc(slices.Compact(ids), func(id int) bool { return id < 0 || id > maxID })
	}
	return slices.DeleteFunc(ids, func(id int) bool {
		on, ok := r.number(fmt.Sprintf("cpu/cpu%d/online", id)) // CPU 0 has none: it cannot be taken offline
		return ok && on == 0
	})
}

// nodes returns the NUMA node of each CPU that has one.
func (r *reader) nodes() map[int]int {
	of := map[int]int{}
	for _, node := range r.numbered("node", "node") {
		ids, _ := r.list(fmt.Sprintf("node/node%d/cpulist", node))
		for _, id := range ids {
			of[id] = node
		}
	}
	return of
}

// cache returns the group of the last level that tells whom it serves.
func (r *reader) cache(dir string, id int) (group int, found bool) {
	best := -1
	for _, index := range r.numbered(dir+"cache", "index") {
		at := path.Join(dir, "cache", "index"+strconv.Itoa(index))
		level, ok := r.number(at + "/level")
		if !ok {
			level = index
		}
		if kind, _ := r.text(at + "/type"); kind == "Instruction" || level < best {
			continue
		}
		if g, ok := r.group(at+"/shared_cpu_list", id); ok {
			best, group, found = level, g, true
		}
	}
	return group, found
}

// capacities tells how fast the CPUs are: by the kernel's own measure, else by the highest frequencies and the kinds of cores. What is not known
// counts as equal, and the fastest of these CPUs as 1.
func (r *reader) capacities(cpus []CPU, devices fs.FS) {
	if !r.relative(cpus, "cpu_capacity") {
		r.relative(cpus, "cpufreq/cpuinfo_max_freq")
		if devices != nil {
			kinds := reader{fs: devices, err: r.err}
			slow, _ := kinds.list("cpu_atom/cpus")
			r.err = kinds.err
			for i := range cpus {
				if slices.Contains(slow, cpus[i].ID) {
					cpus[i].Capacity = min(cpus[i].Capacity, atomCapacity)
				}
			}
		}
	}
	top := 0.0
	for _, c := range cpus {
		top = max(top, c.Capacity)
	}
	for i := range cpus {
		cpus[i].Capacity /= top
	}
}

// relative sets capacities to a file's numbers and tells whether it did; to 1 if a CPU lacks the file.
func (r *reader) relative(cpus []CPU, file string) bool {
	values := make([]int, len(cpus))
	all := true
	for i := range cpus {
		cpus[i].Capacity = 1
		name := fmt.Sprintf("cpu/cpu%d/%s", cpus[i].ID, file)
		n, ok := r.number(name)
		if ok && n <= 0 {
			r.fail(name, fmt.Errorf("%d is not more than 0", n))
		}
		values[i], all = n, all && ok
	}
	if !all || r.err != nil {
		return false
	}
	top := slices.Max(values)
	for i := range cpus {
		cpus[i].Capacity = float64(values[i]) / float64(top)
	}
	return true
}
