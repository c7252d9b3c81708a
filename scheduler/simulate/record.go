package simulate

import (
	"errors"
	"fmt"
	"time"
)

// Recorder turns what was observed of running vCPUs, epoch by epoch, into a trace. What they would have done is told from what they did:
// waiting for a CPU is left out, since a simulated host has waits of its own.
type Recorder struct {
	index map[string]int
	trace Trace
	begun time.Duration
}

// NewRecorder begins a recording.
func NewRecorder() *Recorder {
	return &Recorder{index: map[string]int{}, trace: Trace{Header: Header{Version: 1, Kind: "recorded", Seed: 1}}}
}

// Observed is what one vCPU did in an epoch.
type Observed struct {
	Name, VM string
	Gang     int
	Sample
}

// Next ends an epoch: what each vCPU did in it. vCPUs that appear later start later; those that are missing have ended.
func (r *Recorder) Next(epoch time.Duration, all []Observed) error {
	if epoch <= 0 || epoch > maxTime {
		return fmt.Errorf("recording: an epoch of %v must be more than 0 and at most %v", epoch, maxTime)
	}
	for _, o := range all {
		if o.Run < 0 || o.Wait < 0 {
			return fmt.Errorf("recording: %.60q ran %v and waited %v: neither may be below 0", o.Name, o.Run, o.Wait)
		}
		i, ok := r.index[o.Name]
		if !ok {
			if i = len(r.trace.VCPUs); i == MaxVCPUs {
				return fmt.Errorf("recording: more than %d vCPUs", MaxVCPUs)
			}
			r.index[o.Name] = i
			r.trace.VCPUs = append(r.trace.VCPUs, VCPU{Name: o.Name, VM: o.VM, Gang: o.Gang, Cache: 0.5, Start: r.begun})
		}
		v := &r.trace.VCPUs[i]
		if len(v.Program) == maxOps {
			return fmt.Errorf("recording: %.60q is observed for more than %d epochs", o.Name, maxOps)
		}
		v.Program = append(v.Program, step(epoch, o.Sample))
	}
	r.begun += epoch
	return nil
}

// step is an epoch as a step of a program: so many bursts as the vCPU went to sleep.
func step(epoch time.Duration, s Sample) Op {
	run := min(s.Run, epoch)
	slept := max(0, epoch-run-min(s.Wait, epoch))
	if run == 0 {
		return Op{Op: Sleep, Time: epoch}
	}
	n := time.Duration(min(max(s.Voluntary, 1), uint64(maxRepeats), uint64(run)))
	if s.Voluntary == 0 && slept < epoch/100 {
		return Op{Op: Compute, Time: run}
	}
	return Op{Op: Burst, Time: run / n, Rest: slept / n, Times: int(n), Jitter: 0.5}
}

// Trace returns what was recorded.
func (r *Recorder) Trace() (*Trace, error) {
	if len(r.trace.VCPUs) == 0 {
		return nil, errors.New("recording: nothing was observed")
	}
	t := r.trace
	t.Length = min(4*r.begun+time.Second, maxTime)
	return &t, t.Check()
}
