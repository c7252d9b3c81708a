//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/mix"
)

type schedBenchCmd struct {
	seedFlag `embed:""`
	Mixes    []string      `name:"mix" placeholder:"NAME" help:"Only these mixes: gangs, pairs, batch, servers, all (default: each). As in: --mix gangs,servers"`
	Policies []string      `name:"policy" placeholder:"NAME" help:"Only these policies: kernel, balance, gang, greedy, random, planner, classes (the planner's slices and weights without its placement) (default: each). As in: --policy kernel,planner"`
	Length   time.Duration `default:"5s" placeholder:"TIME" help:"How long a mix runs under a policy (default: ${default}). As in: --length 10s"`
	Rounds   int           `default:"3" placeholder:"N" help:"How often: the table has medians (default: ${default}). As in: --rounds 5"`
	JSON     bool          `name:"json" help:"Print every measurement as a line of JSON. As in: --json >runs.jsonl"`
}

// Help is the text behind the flags.
func (c *schedBenchCmd) Help() string {
	return `Starts 5 to 8 native guests on this machine for each measurement, which should have nothing else to do. A score is against the kernel's, which has 1: more is
better. All losses are in the table. Progress goes to stderr.

Examples:
  qenex sched bench --mix gangs --policy kernel,planner
  qenex sched bench --rounds 5 --json >runs.jsonl`
}

// Run measures.
func (c *schedBenchCmd) Run() error {
	if c.Length < 100*time.Millisecond || c.Length > 10*time.Minute || c.Rounds < 1 || c.Rounds > 1000 {
		return usageError("--length %v, --rounds %d: 100ms to 10m and 1 to 1000 are possible", c.Length, c.Rounds)
	}
	mixes := mix.Mixes()
	if c.Mixes != nil {
		mixes = nil
		for _, name := range c.Mixes {
			m, err := mix.Named(name)
			if err != nil {
				return usageError("--mix: %w", err)
			}
			mixes = append(mixes, m)
		}
	}
	policies := mix.Policies(c.Seed)
	if c.Policies != nil {
		policies = nil
		for _, name := range c.Policies {
			p, err := mix.PolicyNamed(name, c.Seed)
			if err != nil {
				return usageError("--policy: %w", err)
			}
			policies = append(policies, p)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	var results []*mix.Result
	for _, m := range mixes {
		err = mix.Compare(ctx, m, mix.Programs{Qenex: self, Load: []string{self, "sched", "load"}}, policies, c.Length, c.Rounds, func(r *mix.Result) {
			results = append(results, r)
			fmt.Fprintf(os.Stderr, "qenex: %s under %s: measured\n", r.Mix, r.Policy)
		})
		if err != nil {
			break
		}
	}
	if cut := cutShort(ctx); cut != nil {
		err = cut
	}
	if !c.JSON {
		return errors.Join(mix.Markdown(os.Stdout, mix.Rows(results)), err)
	}
	for _, r := range results {
		err = errors.Join(printLine(os.Stdout, r), err)
	}
	return err
}

type schedLoadCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" help:"What the guest is to do."`
}

// Run is the program in a guest of qenex sched bench.
func (c *schedLoadCmd) Run() error {
	if code := mix.Load(c.Args); code != 0 {
		return &exitError{code: code}
	}
	return nil
}
