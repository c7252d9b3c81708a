package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// The largest problem.
const (
	MaxVCPUs = 1 << 13
	MaxCPUs  = 1 << 10
	MaxLinks = 1 << 20 // also of Apart
	MaxRate  = 1e9     // of a link
)

// VCPU is a virtual CPU, or all threads of a program, to be placed.
type VCPU struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant,omitempty"`
	// Load is what it uses or would use, in CPUs of capacity 1: 0 to 1.
	Load float64 `json:"load"`
	// Cache is its pressure on a shared cache, from 0, none, to 1, as much as one CPU can make.
	Cache float64 `json:"cache,omitempty"`
	// Latency says that it wakes briefly and often, and that waiting hurts.
	Latency bool `json:"latency,omitempty"`
	// Gang is a number that those share who spin for each other; 0 is none.
	Gang int `json:"gang,omitempty"`
	// Pin is the IDs of the CPUs it may run on; nil is all. IDs that the host does not have, or no longer has, do not count.
	Pin []int `json:"pin,omitempty"`
	// Now is the ID of the CPU it runs on, -1 if that is not known. In JSON, -1 is what a vCPU without it has.
	Now int `json:"now"`
}

// Link says that two vCPUs, indexes into VCPUs, wake each other or exchange messages: how many a second.
type Link struct {
	A    int     `json:"a"`
	B    int     `json:"b"`
	Rate float64 `json:"rate"`
	// Alternate is the share of their running during which the other waits for an answer: from 0, independent, to 1, never both at once.
	Alternate float64 `json:"alternate,omitempty"`
}

// Weights are those of the terms of the cost, 0 or more. All zero stands for DefaultWeights.
type Weights struct {
	Crowding  float64 `json:"crowding"`
	SMT       float64 `json:"smt"`
	Cache     float64 `json:"cache"`
	Link      float64 `json:"link"`
	Gang      float64 `json:"gang"`
	Mixed     float64 `json:"mixed"`
	Latency   float64 `json:"latency"`
	Migration float64 `json:"migration"`
	Core      float64 `json:"core"`
	Package   float64 `json:"package"`
}

// DefaultWeights are used where none are set.
func DefaultWeights() Weights {
	return Weights{
		Crowding:  1,    // two that share a CPU lose one: 2 units
		SMT:       1.2,  // two busy threads of a core do the work of 1.4 CPUs and not 2: they lose 0.6
		Cache:     0.5,  // two that fill the cache of two CPUs lose a quarter of a CPU each
		Link:      2e-6, // a message takes 1 us of a CPU longer for each unit of distance
		Gang:      4,    // who spins for one that cannot run wastes what it gets
		Mixed:     0.5,  // a member that waits for its CPU lets others spin
		Latency:   0.15, // a wake-up waits as often as its CPU is busy, though Settings lets it go before the others; never worth an idle CPU
		Migration: 0.01, // a move to another CPU of the cache must win a hundredth of a CPU
		Core:      0,    // power is not saved unless asked for
		Package:   0,
	}
}

// Check says whether all weights are numbers within limits.
func (w Weights) Check() error {
	for _, x := range []float64{w.Crowding, w.SMT, w.Cache, w.Link, w.Gang, w.Mixed, w.Latency, w.Migration, w.Core, w.Package} {
		if !within(x, 1e6) {
			return fmt.Errorf("plan: a weight of %v: 0 to 1e6 is possible", x)
		}
	}
	return nil
}

// Problem is vCPUs to be placed on a host. Nothing here changes it.
type Problem struct {
	Host  *host.Topology `json:"host"`
	VCPUs []VCPU         `json:"vcpus"`
	Links []Link         `json:"links,omitempty"`
	// Apart are pairs of vCPUs, indexes into VCPUs, that never share a core.
	Apart [][2]int `json:"apart,omitempty"`
	// Separate keeps vCPUs of different tenants on different cores.
	Separate bool    `json:"separate,omitempty"`
	Weights  Weights `json:"weights,omitzero"`
}

// Cost is that of a placement, every term with its weight.
type Cost struct {
	Total     float64 `json:"total"` // the sum of those below
	Crowding  float64 `json:"crowding"`
	SMT       float64 `json:"smt"`
	Cache     float64 `json:"cache"`
	Links     float64 `json:"links"`
	Gang      float64 `json:"gang"` // Gang and Mixed
	Latency   float64 `json:"latency"`
	Migration float64 `json:"migration"`
	Power     float64 `json:"power"` // Core and Package
	// Broken is how many constraints are broken: vCPUs outside their pin, and pairs that must not share a core and do.
	Broken int `json:"broken,omitempty"`
}

// Plan is a placement.
type Plan struct {
	CPU     []int         `json:"cpu"` // of every vCPU: index into Host.CPUs
	Cost    Cost          `json:"cost"`
	Method  string        `json:"method"`
	Elapsed time.Duration `json:"elapsed"` // in nanoseconds
	Sweeps  int           `json:"sweeps,omitempty"`
	Exact   bool          `json:"exact,omitempty"` // nothing is better
}

// ErrContradiction is wrapped where constraints contradict each other, or where no placement was found that keeps them all.
var ErrContradiction = errors.New("constraints contradict each other")

// UnmarshalJSON reads a vCPU; unknown fields are errors.
func (v *VCPU) UnmarshalJSON(b []byte) error {
	type plain VCPU
	in := plain{Now: -1}
	err := strict(bytes.NewReader(b), &in)
	*v = VCPU(in)
	return err
}

// UnmarshalJSON reads weights; those left out are the default ones, unknown ones are errors.
func (w *Weights) UnmarshalJSON(b []byte) error {
	type plain Weights
	in := plain(DefaultWeights())
	err := strict(bytes.NewReader(b), &in)
	*w = Weights(in)
	return err
}

func strict(r io.Reader, to any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	return d.Decode(to)
}

// maxFile is more than the JSON of any problem that Check lets pass needs.
const maxFile = 256 << 20

// Read reads a problem as encoding/json writes it. Unknown fields are errors. The problem may be without a host, for the caller to set;
// it is not checked yet.
func Read(r io.Reader) (*Problem, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("plan: reading a problem: %w", err)
	}
	p, rest := &Problem{}, bytes.NewReader(b)
	d := json.NewDecoder(rest)
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("plan: reading a problem: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("plan: reading a problem: something follows it")
	}
	return p, nil
}

// name returns what errors call a vCPU.
func (p *Problem) name(i int) string {
	if p.VCPUs[i].Name != "" {
		return fmt.Sprintf("%.80q", p.VCPUs[i].Name)
	}
	return fmt.Sprintf("vCPU %d", i)
}

func within(x, most float64) bool { return x >= 0 && x <= most } // not NaN

// check finds numbers out of range.
func (p *Problem) check() error {
	if err := p.Host.Check(); err != nil {
		return fmt.Errorf("plan: the host: %w", err)
	}
	switch n := len(p.VCPUs); {
	case len(p.Host.CPUs) > MaxCPUs:
		return fmt.Errorf("plan: a host of %d CPUs: at most %d", len(p.Host.CPUs), MaxCPUs)
	case n > MaxVCPUs:
		return fmt.Errorf("plan: %d vCPUs: at most %d", n, MaxVCPUs)
	case len(p.Links) > MaxLinks || len(p.Apart) > MaxLinks:
		return fmt.Errorf("plan: %d links and %d pairs apart: at most %d", len(p.Links), len(p.Apart), MaxLinks)
	}
	if err := p.Weights.Check(); err != nil {
		return err
	}
	for i, v := range p.VCPUs {
		switch {
		case !within(v.Load, 1):
			return fmt.Errorf("plan: %s has a load of %v CPUs: 0 to 1 is possible", p.name(i), v.Load)
		case !within(v.Cache, 1):
			return fmt.Errorf("plan: %s has a cache pressure of %v: 0 to 1 is possible", p.name(i), v.Cache)
		case v.Gang < 0:
			return fmt.Errorf("plan: %s is in gang %d: 0 is none, others are above", p.name(i), v.Gang)
		case v.Now < -1:
			return fmt.Errorf("plan: %s runs on CPU %d: -1 is not known", p.name(i), v.Now)
		}
	}
	for k, l := range p.Links {
		if l.A == l.B || min(l.A, l.B) < 0 || max(l.A, l.B) >= len(p.VCPUs) {
			return fmt.Errorf("plan: link %d is of vCPUs %d and %d of %d: two, counted from 0, are needed", k, l.A, l.B, len(p.VCPUs))
		}
		if !within(l.Alternate, 1) {
			return fmt.Errorf("plan: link %d, of %s and %s, alternates for a share of %v: 0 to 1 is possible", k, p.name(l.A), p.name(l.B), l.Alternate)
		}
		if !within(l.Rate, MaxRate) {
			return fmt.Errorf("plan: link %d, of %s and %s, has a rate of %v a second: 0 to %v is possible", k, p.name(l.A), p.name(l.B), l.Rate, MaxRate)
		}
	}
	for k, a := range p.Apart {
		if min(a[0], a[1]) < 0 || max(a[0], a[1]) >= len(p.VCPUs) {
			return fmt.Errorf("plan: pair %d to keep apart is of vCPUs %d and %d of %d, counted from 0", k, a[0], a[1], len(p.VCPUs))
		}
		if a[0] == a[1] {
			return fmt.Errorf("plan: %s is to be kept apart from itself: %w", p.name(a[0]), ErrContradiction)
		}
	}
	return nil
}

func (p *Problem) weights() Weights {
	if p.Weights == (Weights{}) {
		return DefaultWeights()
	}
	return p.Weights
}

// Cost returns that of a placement, which may break constraints.
func (p *Problem) Cost(cpu []int) (Cost, error) {
	if err := p.check(); err != nil {
		return Cost{}, err
	}
	if len(cpu) != len(p.VCPUs) {
		return Cost{}, fmt.Errorf("plan: a placement of %d vCPUs for a problem of %d", len(cpu), len(p.VCPUs))
	}
	for i, c := range cpu {
		if c < 0 || c >= len(p.Host.CPUs) {
			return Cost{}, fmt.Errorf("plan: %s is placed on CPU number %d of %d, counted from 0", p.name(i), c, len(p.Host.CPUs))
		}
	}
	f, err := newField(p)
	if err != nil {
		return Cost{}, err
	}
	return f.cost(cpu), nil
}

func sum(c Cost) float64 {
	return c.Crowding + c.SMT + c.Cache + c.Links + c.Gang + c.Latency + c.Migration + c.Power
}

// better says whether a is the better cost: it breaks less, or costs less.
func better(a, b Cost) bool {
	if a.Broken != b.Broken {
		return a.Broken < b.Broken
	}
	return a.Total < b.Total-1e-12*math.Abs(b.Total)
}
