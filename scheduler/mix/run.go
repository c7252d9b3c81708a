package mix

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A Policy places the guests of running mixes.
type Policy interface {
	Name() string
	// Begin places the guests, and goes on placing them until the function that it returns is called, which undoes what is
	// left when the guests have ended.
	Begin(ctx context.Context, r *Running) (end func() error, err error)
}

// A Result is one measurement of one mix under one policy. What a mix does not have is 0.
type Result struct {
	Mix        string  `json:"mix"`
	Policy     string  `json:"policy"`
	Seconds    float64 `json:"seconds"`
	HogUnits   float64 `json:"hog_units"` // computed a second, of all hogs
	Locks      float64 `json:"locks"`     // acquired a second, of all gangs
	Trips      float64 `json:"trips"`     // round trips a second, of all pairs
	LockP99    float64 `json:"lock_p99"`  // seconds from the first look at the lock to its release
	LockP999   float64 `json:"lock_p999"`
	PingP50    float64 `json:"ping_p50"` // seconds of a round trip
	PingP99    float64 `json:"ping_p99"`
	WakeP50    float64 `json:"wake_p50"` // seconds that the servers' timers were late
	WakeP99    float64 `json:"wake_p99"`
	Fairness   float64 `json:"fairness"`   // Jain's index of the CPU time of hogs and gangs, who all want as much: 1 is fair
	Migrations float64 `json:"migrations"` // of threads from CPU to CPU, a second
	Busy       float64 `json:"busy"`       // CPUs used by the guests
	PolicyCPU  float64 `json:"policy_cpu"` // CPUs used by the policy
}

// Once starts a mix, places it and measures it for length.
func Once(ctx context.Context, m Mix, p Programs, policy Policy, length time.Duration) (_ *Result, err error) {
	r, err := Start(ctx, m, p, length+margin)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	first, err := ownCPU()
	if err != nil {
		return nil, err
	}
	end, err := policy.Begin(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("mix %s: policy %s: %w", m.Name, policy.Name(), err)
	}
	defer func() {
		if e := end(); e != nil {
			err = errors.Join(err, fmt.Errorf("mix %s: end of policy %s: %w", m.Name, policy.Name(), e))
		}
	}()
	placed, err := ownCPU()
	if err != nil {
		return nil, err
	}
	if err := r.Go(); err != nil {
		return nil, err
	}
	begin := time.Now()
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	idle, err := ownCPU()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(length):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	seconds := time.Since(begin).Seconds()
	last, err := ownCPU()
	if err != nil {
		return nil, err
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	reports, err := r.Wait()
	if err != nil {
		return nil, err
	}
	result := summarize(m, reports)
	result.Policy, result.Seconds = policy.Name(), seconds
	var shares []float64
	for i, g := range m.Guests {
		used := (after[i].cpu - before[i].cpu).Seconds()
		result.Busy += used / seconds
		result.Migrations += max(0, float64(after[i].migrations)-float64(before[i].migrations)) / seconds
		if g.Busy() {
			shares = append(shares, used)
		}
	}
	result.Fairness, result.PolicyCPU = jain(shares), (placed-first+last-idle).Seconds()/seconds
	return result, nil
}

// margin is how much longer than measured the guests work, so that they still run when the host looks.
const margin = 400 * time.Millisecond

func (r *Running) usage() (all []usage, err error) {
	for i, pid := range r.PIDs {
		u, err := readUsage(pid)
		if errors.Is(err, unix.EINVAL) { // it has ended, on a machine so busy that the host came late; migrations are not known any more
			g := r.guests[i]
			<-g.done
			u.cpu, err = g.command.ProcessState.UserTime()+g.command.ProcessState.SystemTime(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("mix %s: guest %s: %w", r.Mix.Name, r.Mix.Guests[i].Name, err)
		}
		all = append(all, u)
	}
	return all, nil
}

// summarize puts together what the guests say.
func summarize(m Mix, reports []*Report) *Result {
	result := &Result{Mix: m.Name}
	times := map[Kind]*Histogram{Hog: {}, Lock: {}, Ping: {}, Pong: {}, Server: {}}
	rate := map[Kind]float64{}
	for i, g := range m.Guests {
		rate[g.Kind] += float64(reports[i].Ops) / reports[i].Elapsed.Seconds()
		times[g.Kind].Merge(&reports[i].Times)
	}
	result.HogUnits, result.Locks, result.Trips = rate[Hog], rate[Lock], rate[Ping]
	result.LockP99, result.LockP999 = times[Lock].Quantile(0.99).Seconds(), times[Lock].Quantile(0.999).Seconds()
	result.PingP50, result.PingP99 = times[Ping].Quantile(0.5).Seconds(), times[Ping].Quantile(0.99).Seconds()
	result.WakeP50, result.WakeP99 = times[Server].Quantile(0.5).Seconds(), times[Server].Quantile(0.99).Seconds()
	return result
}
