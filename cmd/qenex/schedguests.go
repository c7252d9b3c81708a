//go:build !kernelonly

package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
)

// readProblem reads a placement problem. Without a host, it is this one.
func readProblem(r io.Reader) (*planner.Problem, error) {
	p, err := planner.Read(r)
	if err == nil && p.Host == nil {
		p.Host, err = host.This()
	}
	if err == nil {
		err = p.Check()
	}
	return p, err
}

// runningGuests looks at the guests of this host for a while and returns the problem of placing them.
func runningGuests(ctx context.Context, d time.Duration) (*planner.Problem, error) {
	h, err := host.This()
	if err != nil {
		return nil, err
	}
	items, err := observe.Find()
	if err != nil {
		return nil, err
	}
	before := map[string]observe.Sample{}
	for _, it := range items {
		if s, err := observe.Read(it); err == nil {
			before[it.Name] = s
		} else if !errors.Is(err, observe.ErrGone) {
			return nil, err
		}
	}
	if len(before) == 0 {
		return nil, inputError("no guest runs on this host that you may look at: start one, or give a problem as a file")
	}
	select {
	case <-ctx.Done():
		return nil, cutShort(ctx)
	case <-time.After(d):
	}
	p := &planner.Problem{Host: h}
	var seen observe.Predictor
	for _, it := range items {
		first, known := before[it.Name]
		s, err := observe.Read(it)
		if !known || errors.Is(err, observe.ErrGone) {
			continue
		} else if err != nil {
			return nil, err
		}
		delta, dt := s.Since(first)
		seen.Observe(it.Name, dt, delta)
		l := seen.Predict(it.Name)
		p.VCPUs = append(p.VCPUs, planner.VCPU{
			Name: it.Name, Tenant: it.Tenant, Load: min(1, l.CPUs), Latency: l.Latency, Gang: it.Gang, Pin: it.Pin, Now: s.CPU,
		})
	}
	if len(p.VCPUs) == 0 {
		return nil, inputError("all guests ended while they were looked at")
	}
	return p, p.Check()
}
