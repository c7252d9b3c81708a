//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

type schedSolveCmd struct {
	seedFlag `embed:""`
	File     string         `arg:"" help:"The problem: a rudy file, as the G-set has them, or a COO file of D-Wave's dimod; - is standard input."`
	Budget   *time.Duration `placeholder:"TIME" help:"How long to search (default: 10s, or without end if --sweeps is given). As in: --budget 12s"`
	Sweeps   *int           `placeholder:"N" help:"How many sweeps to search: what is found then depends on the seed alone, not on the machine. As in: --sweeps 20000"`
	Method   string         `default:"sa" enum:"sqa,sa,multispin,pt,tabu,greedy" placeholder:"NAME" help:"sqa (simulated quantum annealing), sa (simulated annealing), multispin (the same, 64 replicas at once, for couplings of one size), pt (parallel tempering), tabu or greedy (default: ${default}, mostly the fastest). As in: --method pt"`
	Target   *float64       `placeholder:"X" help:"Stop at this cut, or at this energy. As in: --target 11624"`
	Replicas int            `placeholder:"N" help:"Replicas of sqa, or temperatures of pt (default: the method's own). As in: --replicas 16"`
	Workers  int            `default:"1" placeholder:"N" help:"Threads that search (default: ${default}). As in: --workers 4"`
	Out      string         `placeholder:"FILE" help:"Write the state found, a variable a line: 1 or -1 for its side of the cut, 0 or 1 of a QUBO. As in: --out partition.txt"`
	JSON     bool           `name:"json" help:"Print JSON. As in: --json | jq .cut"`
}

// Help is the text behind the flags.
func (c *schedSolveCmd) Help() string {
	return `What the file is, its content says. The larger cut is the better one, and the smaller energy. Ctrl-C prints what was found until then, with exit
code 130.

Examples:
  qenex sched solve G1.txt --budget 12s --seed 3 --method sqa --json
  qenex sched solve G48.txt --target 6000 --workers 2
  qenex sched solve bqm.coo --sweeps 5000 --method pt --out state.txt`
}

// solved is what qenex sched solve --json prints.
type solved struct {
	Cut         *float64 `json:"cut,omitempty"`
	Energy      *float64 `json:"energy,omitempty"`
	Seconds     float64  `json:"seconds"`
	Seed        uint64   `json:"seed"`
	Method      string   `json:"method"`
	Found       float64  `json:"found_seconds"` // after how many seconds this was found
	Sweeps      int      `json:"sweeps"`
	Runs        int      `json:"runs"`
	Optimal     bool     `json:"optimal"` // proven: it is the model's bound
	Reached     *bool    `json:"reached,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`
	Spins       int      `json:"spins"`
	Couplings   int      `json:"couplings"`
}

// options says how to search.
func (c *schedSolveCmd) options() (o anneal.Options, err error) {
	o = anneal.Options{Method: anneal.Method(c.Method), Seed: c.Seed, Replicas: c.Replicas, Workers: c.Workers}
	switch {
	case c.Budget != nil && *c.Budget <= 0:
		return o, usageError("--budget %v: there must be time to search, as in --budget 12s", *c.Budget)
	case c.Sweeps != nil && *c.Sweeps <= 0:
		return o, usageError("--sweeps %d: there must be at least one", *c.Sweeps)
	case c.Target != nil && (math.IsNaN(*c.Target) || math.IsInf(*c.Target, 0)):
		return o, usageError("--target %v is not a finite number", *c.Target)
	case c.Workers < 1 || c.Workers > 1024:
		return o, usageError("--workers %d: 1 to 1024 are possible", c.Workers)
	case c.Replicas < 0 || c.Replicas > anneal.MaxReplicas:
		return o, usageError("--replicas %d: at most %d are possible", c.Replicas, anneal.MaxReplicas)
	}
	if c.Sweeps != nil {
		o.Sweeps = *c.Sweeps
	}
	if c.Budget != nil {
		o.Time = *c.Budget
	} else if c.Sweeps == nil {
		o.Time = 10 * time.Second
	}
	return o, nil
}

// Run solves.
func (c *schedSolveCmd) Run() error {
	o, err := c.options()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	r, first, closer, err := openProblem(c.File)
	if err != nil {
		return err
	}
	in, err := readInstance(r, first)
	if err = errors.Join(err, closer()); err != nil {
		return inputError("%s: %w", c.File, err)
	}
	if c.Target != nil {
		goal := *c.Target
		if in.cut {
			goal = in.model.CutEnergy(goal)
		}
		o.Target = &goal
	}
	clear := progress(ctx, c.File, o.Time)
	res, err := anneal.Solve(ctx, in.model, o)
	clear()
	if errors.Is(err, anneal.ErrUnit) {
		return usageError("--method multispin: %s is not for it: %w", c.File, err)
	} else if err != nil {
		return err
	}
	value := in.value(res.Spins)
	out := solved{
		Seconds: res.Elapsed.Seconds(), Seed: c.Seed, Method: c.Method, Found: res.Found.Seconds(), Sweeps: res.Sweeps, Runs: res.Runs,
		Optimal: res.Optimal, Interrupted: ctx.Err() != nil, Spins: in.model.Spins(), Couplings: len(in.model.Couplings()),
	}
	if in.cut {
		out.Cut = &value
	} else {
		out.Energy = &value
	}
	if c.Target != nil {
		reached := in.cut && value >= *c.Target || !in.cut && value <= *c.Target
		out.Reached = &reached
	}
	if c.Out != "" {
		if err := os.WriteFile(c.Out, []byte(in.text(res.Spins)), 0o666); err != nil {
			return err
		}
	}
	if c.JSON {
		err = printLine(os.Stdout, out)
	} else {
		proven := ""
		if res.Optimal {
			proven = ", which is optimal"
		}
		_, err = fmt.Printf("%s %s%s\nfound after %.3f s of %.3f s; seed %d, method %s, %d sweeps in %d runs\n",
			in.unit(), number(value), proven, out.Found, out.Seconds, c.Seed, c.Method, res.Sweeps, res.Runs)
	}
	return errors.Join(err, cutShort(ctx))
}
