package simulate

// permitted returns the CPUs that a vCPU may go to.
func (m *Machine) permitted(v *vcpu) set {
	if !m.spread {
		return v.allowed
	}
	s := v.allowed
	for _, id := range m.vms[v.vm] {
		if w := &m.vcpus[id]; id != v.id && (w.state == queued || w.state == running) {
			s.remove(w.cpu)
		}
	}
	if s.empty() {
		return v.allowed
	}
	return s
}

// wholeIdle tells whether no thread of a CPU's core runs.
func (m *Machine) wholeIdle(c int32) bool {
	if !m.idle.has(c) {
		return false
	}
	for _, twin := range m.cpus[c].twins {
		if !m.idle.has(twin) {
			return false
		}
	}
	return true
}

// load returns the weight that wants a CPU.
func (m *Machine) load(c *cpu) float64 {
	sum := 0.0
	if c.cur >= 0 {
		v := &m.vcpus[c.cur]
		sum = v.weight * v.load
	}
	for _, id := range c.queue {
		v := &m.vcpus[id]
		sum += v.weight * v.load
	}
	return sum / m.Host.CPUs[c.id].Capacity
}

// free returns whether a CPU has nothing to do and is not about to.
func (m *Machine) free(c int32) bool { return m.cpus[c].cur < 0 && len(m.cpus[c].queue) == 0 }

// idlest returns the CPU for a vCPU that comes: of a wholly idle core, an idle one, the one with the least load.
func (m *Machine) idlest(from set) int32 {
	best, bestLoad := int32(-1), 0.0
	from.each(func(c int32) bool {
		load := m.load(&m.cpus[c])
		if m.free(c) {
			load = -1
			if m.wholeIdle(c) {
				load = -2
				for _, twin := range m.cpus[c].twins {
					if !m.free(twin) {
						load = -1
					}
				}
			}
		}
		if best < 0 || load < bestLoad {
			best, bestLoad = c, load
		}
		return load > -2
	})
	return best
}

// place returns the CPU for a vCPU that is woken on the CPU by: its previous one or the waker's, and idle ones that share the cache.
func (m *Machine) place(v *vcpu, by *cpu) int32 {
	may := m.permitted(v)
	prev, target := v.cpu, v.cpu
	if may.has(by.id) && by.id != prev && !m.free(prev) {
		switch {
		case m.free(by.id) && by.llc == m.cpus[prev].llc:
			target = by.id
		case m.load(by)+v.weight*v.load < m.load(&m.cpus[prev]):
			target = by.id
		}
	}
	if !may.has(target) {
		target = prev
	}
	if may.has(target) && m.free(target) {
		return target
	}
	if target != prev && may.has(prev) && m.free(prev) && m.cpus[prev].llc == m.cpus[target].llc {
		return prev
	}
	found := int32(-1)
	may.and(m.idle).and(m.cpus[target].near[0]).each(func(c int32) bool {
		if !m.free(c) {
			return true
		}
		if found < 0 {
			found = c
		}
		if m.wholeIdle(c) {
			found = c
			return false
		}
		return true
	})
	switch {
	case found >= 0:
		return found
	case may.has(target):
		return target
	}
	return m.idlest(may)
}

// steal fetches a vCPU that waits elsewhere, from near before far, into the queue of a CPU that ran dry.
func (m *Machine) steal(c *cpu, evenHot bool) bool {
	if m.waiting == 0 {
		return false
	}
	var done set
	for _, near := range c.near {
		candidates := near.and(m.crowded).without(done)
		done = near
		if v := m.fetchable(c, candidates, evenHot); v != nil {
			m.move(v, c)
			return true
		}
	}
	return false
}

// fetchable returns a vCPU that waits on the most crowded of some CPUs and may run on c.
func (m *Machine) fetchable(c *cpu, from set, evenHot bool) *vcpu {
	var best *vcpu
	length := 0
	from.each(func(id int32) bool {
		q := m.cpus[id].queue
		if len(q) <= length {
			return true
		}
		for _, w := range q {
			if v := &m.vcpus[w]; m.fits(v, c, evenHot) {
				best, length = v, len(q)
				break
			}
		}
		return true
	})
	return best
}

func (m *Machine) fits(v *vcpu, c *cpu, evenHot bool) bool {
	if !v.allowed.has(c.id) || m.row >= 0 || !evenHot && m.now-v.stopped < hot {
		return false
	}
	if m.spread {
		may := m.permitted(v)
		return may.has(c.id)
	}
	return true
}

// Every how many ticks a busy CPU evens out with its cache's, and with the rest of the host; an idle one does at every tick, and looks
// for cores whose threads slow each other every few.
const (
	nearTicks = 8
	farTicks  = 32
	coreTicks = 4
)

// balance is the periodic balancing, at a tick.
func (m *Machine) balance() {
	number := m.now / m.tick
	m.loads = m.loads[:0]
	for i := range m.cpus {
		m.loads = append(m.loads, m.load(&m.cpus[i]))
	}
	for i := range m.cpus {
		c := &m.cpus[i]
		phase := number + int64(i)
		if m.free(c.id) {
			switch {
			case m.steal(c, c.failed > 1):
				c.failed = 0
			case m.waiting > 0:
				c.failed++
			}
			if m.free(c.id) && phase%coreTicks == 0 && m.wholeIdle(c.id) {
				m.relieve(c)
			}
			continue
		}
		if m.waiting == 0 {
			continue
		}
		if phase%nearTicks == 0 {
			m.even(c, c.near[0].and(m.crowded), m.loads[i], 1)
		}
		if phase%farTicks == 0 {
			for k := 1; k < len(c.near); k++ {
				m.evenGroups(c, c.near[k-1], c.near[k], k-1)
			}
		}
	}
}

// relieve takes a running vCPU from a core with several to a wholly idle one.
func (m *Machine) relieve(c *cpu) {
	for _, near := range c.near {
		found := int32(-1)
		near.without(m.idle).each(func(id int32) bool {
			from := &m.cpus[id]
			for _, twin := range from.twins {
				if from.cur >= 0 && m.cpus[twin].cur >= 0 && m.fits(&m.vcpus[from.cur], c, true) {
					found = id
				}
			}
			return found < 0
		})
		if found >= 0 {
			m.push(&m.cpus[found], c)
			return
		}
	}
}

// evenGroups evens out c's group with the busiest of the equal groups within all.
func (m *Machine) evenGroups(c *cpu, own, all set, k int) {
	mean := func(s set) (load float64, n int, least int32) {
		least = -1
		s.each(func(id int32) bool {
			load += m.loads[id]
			if least < 0 || m.loads[id] < m.loads[least] {
				least = id
			}
			n++
			return true
		})
		return load / float64(max(n, 1)), n, least
	}
	here, n, least := mean(own)
	if m.loads[c.id] > m.loads[least] {
		return // another of the group does it
	}
	var busiest set
	top := 0.0
	for rest := all.without(own); !rest.empty(); {
		group := m.cpus[rest.first()].near[k]
		rest = rest.without(group)
		if load, _, _ := mean(group); load > top {
			busiest, top = group, load
		}
	}
	if top > 0 {
		m.even(c, busiest.and(m.crowded), here, n)
	}
}

// even fetches waiting vCPUs from the busiest of some CPUs until half of the difference in load is gone; here is the load of c, or the
// mean of c's group of n CPUs. What is too heavy to move at first is moved after failures: vCPUs that cannot be shared out evenly take
// turns in being many on a CPU.
func (m *Machine) even(c *cpu, from set, here float64, n int) {
	from.remove(c.id)
	busiest := int32(-1)
	from.each(func(id int32) bool {
		if busiest < 0 || m.loads[id] > m.loads[busiest] {
			busiest = id
		}
		return true
	})
	if busiest < 0 || m.loads[busiest] <= 1.17*here {
		return
	}
	gap := (m.loads[busiest] - here) / 2
	if n > 1 {
		gap = min(gap*float64(n), m.loads[busiest]-here)
	}
	moved := false
	queue := m.cpus[busiest].queue
	for i := 0; i < len(queue); {
		v := &m.vcpus[queue[i]]
		w := v.weight * v.load
		if !m.fits(v, c, c.failed > 2) || w/float64(int(1)<<min(c.failed, 10)) > gap+1e-9 {
			i++
			continue
		}
		m.move(v, c)
		m.loads[busiest] -= w
		m.loads[c.id] += w
		moved = true
		if gap -= w; gap <= 0 {
			break
		}
		queue = m.cpus[busiest].queue
	}
	if moved {
		c.failed = 0
	} else {
		c.failed++
	}
}
