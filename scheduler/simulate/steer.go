package simulate

import (
	"fmt"
	"time"
)

// Sample is what a vCPU did since it was last asked about: what an observer on a real host reads of a thread.
type Sample struct {
	Run, Wait time.Duration // on a CPU; runnable on none
	Voluntary uint64        // times that it went to sleep
}

// Now is the time since the trace began.
func (m *Machine) Now() time.Duration { return time.Duration(m.now) }

// Present tells whether a vCPU has come and has not gone.
func (m *Machine) Present(v int) bool { return m.vcpus[v].state != absent && m.vcpus[v].state != gone }

// Where returns the index of the CPU whose queue a vCPU is in or was in last, -1 if it was in none.
func (m *Machine) Where(v int) int { return int(m.vcpus[v].cpu) }

// Take returns what a vCPU did since the last call.
func (m *Machine) Take(v int) Sample {
	x := &m.vcpus[v]
	total := Sample{Run: time.Duration(x.run), Wait: time.Duration(x.wait), Voluntary: x.voluntary}
	if x.state == queued {
		total.Wait += time.Duration(m.now - x.since)
	}
	d := Sample{Run: total.Run - x.seen.Run, Wait: total.Wait - x.seen.Wait, Voluntary: total.Voluntary - x.seen.Voluntary}
	x.seen = total
	return d
}

// TakeLinks calls f for each pair of vCPUs that woke or messaged each other since the last call, with how often.
func (m *Machine) TakeLinks(f func(a, b, times int)) {
	for pair, n := range m.links {
		f(int(pair[0]), int(pair[1]), n)
	}
	clear(m.links)
}

// Allow sets the CPUs, by ID, on which a vCPU may run, within its pin; nil is all of the pin. A vCPU that is elsewhere moves at once.
func (m *Machine) Allow(v int, ids []int) error {
	x := &m.vcpus[v]
	var pin, s set
	for i, c := range m.Host.CPUs {
		pin.add(int32(i))
		if x.prog.Pin != nil && !contains(x.prog.Pin, c.ID) {
			pin.remove(int32(i))
		}
		if ids == nil || contains(ids, c.ID) {
			s.add(int32(i))
		}
	}
	if s = s.and(pin); s.empty() {
		return fmt.Errorf("vCPU %d (%.60q): none of CPUs %v is on the host and within its pin %v", v, x.prog.Name, ids, x.prog.Pin)
	}
	x.allowed = s
	if x.cpu < 0 || s.has(x.cpu) {
		return nil
	}
	switch from := &m.cpus[x.cpu]; x.state {
	case running:
		m.push(from, &m.cpus[m.idlest(m.permitted(x))])
	case queued:
		m.move(x, &m.cpus[m.idlest(m.permitted(x))])
	}
	return nil
}

func contains(ids []int, id int) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// Weigh sets a vCPU's weight, 1 to 10000 as a version 2 cgroup's; 100 is usual.
func (m *Machine) Weigh(v, weight int) error {
	if weight < 1 || weight > 10000 {
		return fmt.Errorf("vCPU %d: weight %d is not within 1..10000", v, weight)
	}
	x := &m.vcpus[v]
	if x.cpu >= 0 {
		m.settle(&m.cpus[x.cpu])
		m.touch(&m.cpus[x.cpu])
	}
	x.weight = unit * float64(weight) / 100
	return nil
}

// Slice sets a vCPU's slice, 0.1 to 100 ms as sched_setattr does; 0 is the host's.
func (m *Machine) Slice(v int, d time.Duration) error {
	switch {
	case d == 0:
		m.vcpus[v].slice = m.slice
	case d < 100*time.Microsecond || d > 100*time.Millisecond:
		return fmt.Errorf("vCPU %d: slice %v is not within 100us..100ms", v, d)
	default:
		m.vcpus[v].slice = float64(d)
	}
	return nil
}

// Charge makes planning cost what the calibration says, on the CPU where it would run, and notes what it took in earnest.
func (m *Machine) Charge(vcpus int, took time.Duration) {
	c := &m.cpus[0]
	for i := range m.cpus {
		if m.free(int32(i)) {
			c = nil // an idle CPU does it
			break
		}
	}
	if c != nil && c.cur >= 0 {
		m.settle(c)
		m.vcpus[c.cur].over += float64(m.Cal.Plan) * float64(vcpus)
		m.touch(c)
	}
	m.result.PlannerCPU += float64(took)
}
