//go:build !kernelonly

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/picture"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
)

type schedPlanCmd struct {
	seedFlag `embed:""`
	File     string         `arg:"" optional:"" placeholder:"FILE" help:"A problem as JSON: vcpus, and host, links, apart, separate, weights as needed; - is standard input. Without it: the guests that run on this host now."`
	Method   string         `default:"sa" enum:"sqa,sa,greedy,balance,gangs,random,exact" placeholder:"NAME" help:"sqa (simulated quantum annealing), sa (simulated annealing), greedy (the largest load to the least loaded CPU), balance (balance scheduling), gangs (gang scheduling), random, or exact (branch and bound, at most 12 vCPUs) (default: ${default}, which finds better plans than sqa in the same time). As in: --method exact"`
	Budget   *time.Duration `placeholder:"TIME" help:"How long sqa and sa search (default: 250ms, or without end if --sweeps is given). As in: --budget 5ms"`
	Sweeps   *int           `placeholder:"N" help:"How many sweeps sqa and sa search: the plan then depends on the seed alone, not on the machine. As in: --sweeps 500"`
	Measure  time.Duration  `default:"1s" placeholder:"TIME" help:"Without FILE, how long to look at the guests (default: ${default}). As in: --measure 5s"`
	Compare  bool           `help:"Print what all other methods' plans cost beside. As in: --compare"`
	QUBO     string         `name:"qubo" placeholder:"FILE" help:"Write the problem, but for power, as a QUBO in D-Wave's COO format: qenex sched solve and others' annealers take it. As in: --qubo problem.coo"`
	PNG      string         `name:"png" placeholder:"FILE" help:"Draw the plan into a PNG file. As in: --png plan.png"`
	JSON     bool           `name:"json" help:"Print JSON: the problem, the plan, what would be set for each vCPU, and the comparison. As in: --json | jq .problem >problem.json"`
}

// Help is the text behind the flags.
func (c *schedPlanCmd) Help() string {
	return `Nothing is applied: qenex sched apply does that. A cost of 2 is a CPU lost; what the terms are, the text of package scheduler/plan says.

A problem: {"vcpus": [{"name": "web/0", "load": 0.4, "latency": true}, {"name": "job/0", "load": 1, "gang": 1, "pin": [0, 1]}], "links":
[{"a": 0, "b": 1, "rate": 2000}]}. Without "host", it is this one.

Examples:
  qenex sched plan --compare
  qenex sched plan problem.json --method exact --png plan.png
  qenex sched plan --json | jq .problem >problem.json`
}

// planned is what qenex sched plan --json prints.
type planned struct {
	Problem  *planner.Problem  `json:"problem"`
	Plan     *planner.Plan     `json:"plan"`
	Settings []planner.Setting `json:"settings"` // of every vCPU, as sched apply would set them
	Compare  []compared        `json:"compare,omitempty"`
}

// compared is what a method makes of a problem.
type compared struct {
	Method  string        `json:"method"`
	Cost    *planner.Cost `json:"cost,omitempty"`
	Seconds float64       `json:"seconds"`
	Error   string        `json:"error,omitempty"`
}

// options says how to search.
func (c *schedPlanCmd) options() (o planner.Options, err error) {
	o = planner.Options{Method: anneal.Method(c.Method), Seed: c.Seed}
	switch {
	case c.Budget != nil && *c.Budget <= 0:
		return o, usageError("--budget %v: there must be time to search, as in --budget 5ms; --method greedy needs none", *c.Budget)
	case c.Sweeps != nil && *c.Sweeps <= 0:
		return o, usageError("--sweeps %d: there must be at least one; --method greedy needs none", *c.Sweeps)
	case c.Measure <= 0 || c.Measure > time.Hour:
		return o, usageError("--measure %v: more than nothing and at most an hour is possible", c.Measure)
	}
	if c.Sweeps != nil {
		o.Sweeps = *c.Sweeps
	}
	if c.Budget != nil {
		o.Time = *c.Budget
	} else if c.Sweeps == nil {
		o.Time = 250 * time.Millisecond
	}
	return o, nil
}

// writeQUBO writes a problem's model to a file.
func writeQUBO(name string, p *planner.Problem) error {
	m, _, err := p.Model()
	if err != nil {
		return inputError("--qubo: %w", err)
	}
	var b bytes.Buffer
	if err := anneal.WriteCOO(&b, m, anneal.Binary); err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o666)
}

// planMethods are the methods in the order of the comparison.
var planMethods = []string{"sqa", "sa", "greedy", "balance", "gangs", "random", "exact"}

// planBy plans by a method.
func planBy(ctx context.Context, p *planner.Problem, method string, o planner.Options) (*planner.Plan, error) {
	switch method {
	case "greedy":
		return p.Greedy()
	case "balance":
		return p.Balance()
	case "gangs":
		return p.Gangs()
	case "random":
		return p.Random(o.Seed)
	case "exact":
		return p.Exact(ctx)
	}
	o.Method = anneal.Method(method)
	return p.Solve(ctx, o)
}

// Run plans.
func (c *schedPlanCmd) Run() error {
	o, err := c.options()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	p, err := c.problem(ctx)
	if err != nil {
		return err
	}
	if c.QUBO != "" {
		if err := writeQUBO(c.QUBO, p); err != nil {
			return err
		}
	}
	out := planned{Problem: p}
	if out.Plan, err = planBy(ctx, p, c.Method, o); err != nil {
		return errors.Join(inputError("%w", err), cutShort(ctx))
	}
	out.Settings = p.Settings(out.Plan)
	if c.Compare {
		for _, m := range planMethods {
			pl := out.Plan
			begun := time.Now()
			var err error
			if m != c.Method {
				pl, err = planBy(ctx, p, m, o)
			}
			row := compared{Method: m, Seconds: time.Since(begun).Seconds()}
			if err != nil {
				row.Error = oneLine(err)
			} else {
				row.Cost, row.Seconds = &pl.Cost, pl.Elapsed.Seconds()
			}
			out.Compare = append(out.Compare, row)
		}
	}
	if c.PNG != "" {
		if err := placementChart(p, out.Plan).Save(ctx, c.PNG); err != nil {
			return err
		}
	}
	if c.JSON {
		err = printJSON(out)
	} else {
		err = out.print()
	}
	return errors.Join(err, cutShort(ctx))
}

// problem is that of the file, or of this host.
func (c *schedPlanCmd) problem(ctx context.Context) (p *planner.Problem, err error) {
	if c.File == "" {
		return runningGuests(ctx, c.Measure)
	}
	r, _, closer, err := openProblem(c.File)
	if err != nil {
		return nil, err
	}
	p, err = readProblem(r)
	if err = errors.Join(err, closer()); err != nil {
		return nil, inputError("%s: %w", c.File, err)
	}
	return p, nil
}

// print prints a plan for people.
func (out *planned) print() error {
	p, pl := out.Problem, out.Plan
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CPU\tCORE\tLOAD\tVCPUS")
	for i, cpu := range p.Host.CPUs {
		load, names := 0.0, []string{}
		for v, at := range pl.CPU {
			if at == i {
				load += p.VCPUs[v].Load
				names = append(names, fmt.Sprintf("%s %.2f", plain(p.VCPUs[v].Name), p.VCPUs[v].Load))
			}
		}
		fmt.Fprintf(w, "%d\t%d\t%.2f\t%s\n", cpu.ID, cpu.Core, load, strings.Join(names, ", "))
	}
	fmt.Fprintln(w)
	header := "METHOD\tCOST\t" + strings.Join(costTerms, "\t") + "\tTIME"
	rows := out.Compare
	if rows == nil {
		rows = []compared{{Method: pl.Method, Cost: &pl.Cost, Seconds: pl.Elapsed.Seconds()}}
	}
	fmt.Fprintln(w, header)
	for _, r := range rows {
		if r.Cost == nil {
			fmt.Fprintf(w, "%s\t%s\n", r.Method, r.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%.4f", r.Method, r.Cost.Total)
		for _, x := range costValues(r.Cost) {
			fmt.Fprintf(w, "\t%.4f", x)
		}
		fmt.Fprintf(w, "\t%.3f ms\n", r.Seconds*1e3)
	}
	return w.Flush()
}

var costTerms = []string{"CROWDING", "SMT", "CACHE", "LINKS", "GANG", "LATENCY", "MIGRATION", "POWER"}

func costValues(c *planner.Cost) []float64 {
	return []float64{c.Crowding, c.SMT, c.Cache, c.Links, c.Gang, c.Latency, c.Migration, c.Power}
}

// placementChart is the picture of a plan.
func placementChart(p *planner.Problem, pl *planner.Plan) *picture.Chart {
	list := make([]picture.VCPU, len(p.VCPUs))
	for i, v := range p.VCPUs {
		list[i] = picture.VCPU{Name: cut(v.Name, picture.MaxName), Group: groupOf(v.Name, v.Gang), CPU: pl.CPU[i], Load: v.Load}
	}
	return &picture.Chart{
		Title:     fmt.Sprintf("%d vCPUs on %d CPUs by %s: cost %.3f", len(list), len(p.Host.CPUs), pl.Method, pl.Cost.Total),
		Placement: &picture.Placement{Host: p.Host, VCPUs: list},
	}
}

// groupOf is what a vCPU shares its colour with: those of its VM, or of its gang.
func groupOf(name string, gang int) string {
	if vm, _, ok := strings.Cut(name, "/"); ok {
		return cut(vm, picture.MaxName)
	}
	if gang != 0 {
		return fmt.Sprint("gang ", gang)
	}
	return ""
}

// cut cuts text to so many bytes, without breaking a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
