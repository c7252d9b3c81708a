// Package host describes the CPUs of a machine as the kernel shows them in sysfs: which share a core, a last-level cache, a NUMA node
// or a package, and how fast each is. Loads, threads and plans do not enter.
package host

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// CPU is one logical CPU: a hardware thread. Core, LLC, Node and Package are numbers unique over the host; CPUs that share one have
// the same number.
type CPU struct {
	ID       int     `json:"id"` // as Linux numbers it
	Core     int     `json:"core"`
	LLC      int     `json:"llc"` // last-level cache
	Node     int     `json:"node"`
	Package  int     `json:"package"`
	Capacity float64 `json:"capacity"` // more than 0, at most 1: a thread of the fastest core
}

// Topology is the CPUs that are online and allowed, sorted by ID; never empty.
type Topology struct {
	CPUs []CPU `json:"cpus"`
}

// ErrNoCPU says that no CPU is left to work with.
var ErrNoCPU = errors.New("no CPU is online and allowed")

// Check tells whether a topology that came from elsewhere keeps the promises of the types.
func (t *Topology) Check() error {
	if t == nil || len(t.CPUs) == 0 {
		return ErrNoCPU
	}
	for i, c := range t.CPUs {
		switch {
		case c.ID < 0 || c.ID > maxID || c.Core < 0 || c.LLC < 0 || c.Node < 0 || c.Package < 0:
			return fmt.Errorf("CPU %d: its numbers must be 0 or more, its ID at most %d: %+v", c.ID, maxID, c)
		case i > 0 && t.CPUs[i-1].ID >= c.ID:
			return fmt.Errorf("CPU %d follows CPU %d: each must come once, sorted by ID", c.ID, t.CPUs[i-1].ID)
		case !(c.Capacity > 0 && c.Capacity <= 1):
			return fmt.Errorf("CPU %d has capacity %v, must be more than 0 and at most 1", c.ID, c.Capacity)
		}
	}
	return nil
}

// Distance tells how far apart two CPUs are, given as indexes into CPUs: 0 the same CPU, 1 the same core, 2 the same last-level
// cache, 4 the same node, 8 the same package, 16 otherwise.
func (t *Topology) Distance(i, j int) float64 {
	a, b := &t.CPUs[i], &t.CPUs[j]
	switch {
	case i == j:
		return 0
	case a.Core == b.Core:
		return 1
	case a.LLC == b.LLC:
		return 2
	case a.Node == b.Node:
		return 4
	case a.Package == b.Package:
		return 8
	}
	return 16
}

// Index returns where in CPUs the CPU with this ID is.
func (t *Topology) Index(id int) (int, bool) {
	return slices.BinarySearchFunc(t.CPUs, id, func(c CPU, id int) int { return cmp.Compare(c.ID, id) })
}

// Synthetic makes a regular host of equal CPUs, numbered as Linux does: the first threads of all cores, then the second. A number
// below 1 counts as 1.
func Synthetic(packages, nodesPerPackage, llcPerNode, coresPerLLC, threads int) *Topology {
	packages, nodesPerPackage, llcPerNode = max(1, packages), max(1, nodesPerPackage), max(1, llcPerNode)
	coresPerLLC, threads = max(1, coresPerLLC), max(1, threads)
	t := &Topology{}
	for range threads {
		for core := range packages * nodesPerPackage * llcPerNode * coresPerLLC {
			llc := core / coresPerLLC
			node := llc / llcPerNode
			t.CPUs = append(t.CPUs, CPU{ID: len(t.CPUs), Core: core, LLC: llc, Node: node, Package: node / nodesPerPackage, Capacity: 1})
		}
	}
	return t
}
