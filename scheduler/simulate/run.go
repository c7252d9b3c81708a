package simulate

import (
	"fmt"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// maxSegments bounds a timeline; what comes later is not recorded.
const maxSegments = 1 << 20

// Options say what a result holds beyond figures.
type Options struct {
	Timeline bool
	Detail   bool // what each vCPU got
}

// Run plays a trace on a host under a policy. A nil calibration is the default one. The same arguments give the same result, PlannerCPU
// excepted, as long as the policy plans by a budget of sweeps.
func Run(top *host.Topology, t *Trace, p Policy, cal *Calibration, o Options) (*Result, error) {
	if cal == nil {
		cal = DefaultCalibration()
	}
	m, err := newMachine(top, t, cal)
	if err != nil {
		return nil, fmt.Errorf("simulating: %w", err)
	}
	m.draw = o.Timeline
	if err := m.run(p); err != nil {
		return nil, fmt.Errorf("simulating %s under %s: %w", t.Kind, p.Name(), err)
	}
	m.measure(o)
	m.result.Policy = p.Name()
	return &m.result, nil
}

// measure fills in the result.
func (m *Machine) measure(o Options) {
	r := &m.result
	r.Makespan = time.Duration(m.now)
	r.WakeP50, r.WakeP99, r.WakeMax, r.Wakes = m.wakes.quantile(0.5), m.wakes.quantile(0.99), time.Duration(m.wakes.top), m.wakes.n
	r.LockMean = m.acquires.mean()
	r.LockP99, r.LockMax, r.Locks = m.acquires.quantile(0.99), time.Duration(m.acquires.top), m.acquires.n
	for i := range m.cpus {
		c := &m.cpus[i]
		if c.cur >= 0 {
			m.segment(c)
		}
		r.Utilization += float64(c.busy) / float64(len(m.cpus)) / float64(max(m.now, 1))
	}
	r.Timeline = m.timeline
	for i := range m.vcpus {
		v := &m.vcpus[i]
		if v.state == queued {
			v.wait += m.now - v.since
		}
		r.Work += time.Duration(v.work)
		r.SpinLost += time.Duration(v.spin)
		if o.Detail {
			r.VCPUs = append(r.VCPUs, Usage{Name: v.prog.Name, Run: time.Duration(v.run), Wait: time.Duration(v.wait),
				Spin: time.Duration(v.spin), Work: time.Duration(v.work), End: time.Duration(v.end)})
		}
	}
	r.Fairness = m.fairness()
	if m.now > 0 {
		r.PlannerCPU /= float64(m.now) * float64(len(m.cpus))
	}
}

// fairness is Jain's index of what vCPUs got over what they were entitled to. Entitled is a vCPU to what it would use if it never had to
// wait or spin, but to no more than all get who want more: that limit shares out the whole host.
func (m *Machine) fairness() float64 {
	type claim struct{ want, got, alive float64 }
	var claims []claim
	for i := range m.vcpus {
		v := &m.vcpus[i]
		end := v.end
		if v.state != gone {
			end = m.now
		}
		alive := float64(end - int64(v.prog.Start))
		if alive <= 0 || v.work <= 0 {
			continue
		}
		slept := max(0, alive-float64(v.run+v.wait))
		claims = append(claims, claim{v.work / (v.work + slept), v.work / alive, alive})
	}
	if len(claims) == 0 {
		return 1
	}
	host := 0.0
	for i := range m.cpus {
		speed := m.Host.CPUs[i].Capacity
		if len(m.cpus[i].twins) > 0 {
			speed *= m.Cal.SMT
		}
		host += speed * float64(m.now)
	}
	low, high := 0.0, 1.0
	for range 50 {
		level, sum := (low+high)/2, 0.0
		for _, c := range claims {
			sum += min(c.want, level) * c.alive
		}
		if sum > host {
			high = level
		} else {
			low = level
		}
	}
	var sum, squares float64
	for _, c := range claims {
		x := c.got / min(c.want, high)
		sum += x
		squares += x * x
	}
	return sum * sum / squares / float64(len(claims))
}
