package simulate

import (
	"math"
	"slices"
	"time"
)

// hot is for how long after it ran a vCPU is left where its cache is: sched_migration_cost_ns.
const hot = 500_000

// loadHalf is the time in which a load average forgets half, in ns.
const loadHalf = 32e6

// follow brings a vCPU's load average up to now, in whose stretch it was runnable or not.
func (m *Machine) follow(v *vcpu, runnable bool) {
	if dt := m.now - v.loadAt; dt > 0 {
		keep := math.Exp2(-float64(dt) / loadHalf)
		v.load *= keep
		if runnable {
			v.load += 1 - keep
		}
		v.loadAt = m.now
	}
}

// average returns the virtual time of a queue, the one that runs included, and its weight.
func (m *Machine) average(c *cpu) (at, weight float64) {
	var sum, ref float64
	if c.cur >= 0 {
		v := &m.vcpus[c.cur]
		ref, weight = v.vruntime, v.weight
	}
	for _, id := range c.queue {
		v := &m.vcpus[id]
		if weight == 0 {
			ref = v.vruntime
		}
		sum += (v.vruntime - ref) * v.weight
		weight += v.weight
	}
	if weight == 0 {
		return c.base, 0
	}
	return ref + sum/weight, weight
}

// pick returns who shall run: of those who have had no more than their share, the one with the earliest deadline. -1: nobody is here.
func (m *Machine) pick(c *cpu) int32 {
	onlyRow := false
	if m.row >= 0 {
		onlyRow = c.cur >= 0 && m.vcpus[c.cur].row == m.row
		for _, id := range c.queue {
			onlyRow = onlyRow || m.vcpus[id].row == m.row
		}
	}
	at, _ := m.average(c)
	best, bestEligible := int32(-1), false
	consider := func(id int32) {
		v := &m.vcpus[id]
		if onlyRow && v.row != m.row {
			return
		}
		eligible := v.vruntime <= at+1e-3
		if best < 0 || eligible && !bestEligible ||
			eligible == bestEligible && (v.deadline < m.vcpus[best].deadline || v.deadline == m.vcpus[best].deadline && id < best) {
			best, bestEligible = id, eligible
		}
	}
	if c.cur >= 0 {
		consider(c.cur)
	}
	for _, id := range c.queue {
		consider(id)
	}
	return best
}

// choose lets a CPU run who shall run; if nobody is there it looks for work elsewhere.
func (m *Machine) choose(c *cpu) {
	cur := c.cur
	if cur >= 0 {
		if v := &m.vcpus[cur]; v.vruntime >= v.deadline {
			v.deadline = v.vruntime + v.slice*unit/v.weight
		}
	} else if len(c.queue) == 0 {
		m.steal(c, false)
	}
	best := m.pick(c)
	if best != cur {
		if cur >= 0 {
			m.stop(c)
		}
		if best >= 0 {
			m.dispatch(&m.vcpus[best], c)
		}
	}
	if best >= 0 {
		m.protect(&m.vcpus[best], c)
	}
	if m.idle.has(c.id) != (best < 0) {
		m.turn(c, best < 0)
	}
}

// protect sets until when equals do not preempt the one who runs: for the shortest slice of the queue.
func (m *Machine) protect(v *vcpu, c *cpu) {
	slice := v.slice
	for _, id := range c.queue {
		slice = min(slice, m.vcpus[id].slice)
	}
	v.protect = min(v.deadline, v.vruntime+slice*unit/v.weight)
}

// turn notes that a CPU went idle or busy, and how fast the other threads of its core are now.
func (m *Machine) turn(c *cpu, idle bool) {
	if idle {
		m.idle.add(c.id)
	} else {
		m.idle.remove(c.id)
	}
	m.pace(c)
	for _, id := range c.twins {
		m.pace(&m.cpus[id])
	}
}

func (m *Machine) pace(c *cpu) {
	speed := m.Host.CPUs[c.id].Capacity
	for _, id := range c.twins {
		if !m.idle.has(id) {
			speed *= m.Cal.SMT
			break
		}
	}
	if speed != c.speed {
		m.settle(c)
		c.speed = speed
		m.touch(c)
	}
}

// stop puts the one who runs back into the queue.
func (m *Machine) stop(c *cpu) {
	v := &m.vcpus[c.cur]
	m.segment(c)
	m.follow(v, true)
	c.cur = -1
	v.state, v.since, v.stopped = queued, m.now, m.now
	m.join(v, c)
}

func (m *Machine) join(v *vcpu, c *cpu) {
	c.queue = append(c.queue, v.id)
	m.crowded.add(c.id)
	m.waiting++
}

func (m *Machine) quit(v *vcpu, c *cpu) {
	i := slices.Index(c.queue, v.id)
	c.queue = slices.Delete(c.queue, i, i+1)
	if len(c.queue) == 0 {
		m.crowded.remove(c.id)
	}
	m.waiting--
	v.wait += m.now - v.since
	v.since = m.now
}

// dispatch gives a CPU to one of its queue.
func (m *Machine) dispatch(v *vcpu, c *cpu) {
	m.quit(v, c)
	m.follow(v, true)
	v.state = running
	c.cur, c.since, c.from = v.id, m.now, m.now
	if c.last != v.id {
		c.last = v.id
		m.result.Switches++
		v.over += float64(m.Cal.Switch)
	}
	if v.woken >= 0 {
		m.wakes.add(m.now + int64(v.over) - v.woken)
		v.woken = -1
	}
	if v.ran != c.id {
		if v.ran >= 0 {
			m.result.Migrations++
			v.over += float64(m.Cal.Refill[m.level[v.ran][c.id]]) * v.prog.Cache
		}
		v.ran = c.id
	}
	if v.mode == spinning {
		v.spun = m.now
		m.retry(v, c)
	}
}

// leave takes the one who runs off its CPU, to sleep or for good.
func (m *Machine) leave(v *vcpu, c *cpu, to state) {
	at, _ := m.average(c)
	m.segment(c)
	m.follow(v, true)
	limit := max(2*v.slice, float64(m.tick)) * unit / v.weight
	v.lag, v.slept = min(max(at-v.vruntime, -limit), limit), at
	v.state, v.since, v.stopped, v.mode = to, m.now, m.now, fresh
	v.voluntary++
	c.base = v.vruntime
	c.cur, c.resched = -1, true
	m.touch(c)
}

// wake makes a vCPU that sleeps runnable; by is the CPU where that happens.
func (m *Machine) wake(v *vcpu, by *cpu) {
	m.follow(v, false)
	v.woken, v.since = m.now, m.now
	c := &m.cpus[m.place(v, by)]
	if c.cur < 0 && len(c.queue) == 0 {
		v.over += float64(m.Cal.Wake[m.level[by.id][c.id]])
	}
	m.enqueue(v, c)
}

// enqueue puts a vCPU into a CPU's queue, with the lag it is owed, and preempts who runs there if it must.
func (m *Machine) enqueue(v *vcpu, c *cpu) {
	m.settle(c)
	m.touch(c)
	at, weight := m.average(c)
	lag := v.lag
	if weight == 0 || lag < 0 && v.state == asleep && (v.cpu != c.id || at-v.slept >= -lag) {
		lag = 0
	}
	if weight > 0 {
		lag *= (weight + v.weight) / weight
	}
	v.vruntime = at - lag
	v.deadline = v.vruntime + v.slice*unit/v.weight
	v.cpu, v.state = c.id, queued
	m.join(v, c)
	if m.preempts(v, c) {
		c.resched = true
	}
}

// preempts tells whether a vCPU that just came into a queue makes the CPU choose again.
func (m *Machine) preempts(v *vcpu, c *cpu) bool {
	if c.cur < 0 {
		return true
	}
	cur := &m.vcpus[c.cur]
	if m.row >= 0 && (v.row == m.row) != (cur.row == m.row) {
		return v.row == m.row
	}
	if m.overdue(cur, c) {
		return true
	}
	if v.slice < cur.slice && v.deadline < cur.deadline {
		at, _ := m.average(c)
		return v.vruntime <= at+1e-3
	}
	return cur.vruntime >= cur.protect && m.pick(c) == v.id
}

// overdue tells whether the slice of the one who runs is over. While it was alone, ticks began new ones for it.
func (m *Machine) overdue(cur *vcpu, c *cpu) bool {
	over := int64((cur.vruntime - cur.deadline) * cur.weight / unit)
	if over < 0 || len(c.queue) > 1 {
		return over >= 0
	}
	renewed := (m.now - over + m.tick - 1) / m.tick * m.tick
	if renewed > m.now {
		return true
	}
	slice := int64(cur.slice)
	into := (m.now - renewed) % ((slice + m.tick - 1) / m.tick * m.tick)
	if into >= slice {
		return true
	}
	cur.deadline = cur.vruntime + float64(slice-into)*unit/cur.weight
	cur.protect = cur.deadline
	return false
}

// move takes a vCPU that is queued somewhere to another CPU's queue.
func (m *Machine) move(v *vcpu, to *cpu) {
	from := &m.cpus[v.cpu]
	m.settle(from)
	at, _ := m.average(from)
	ahead := v.deadline - v.vruntime
	v.lag = at - v.vruntime
	m.quit(v, from)
	if from.cur < 0 && len(from.queue) == 0 {
		from.base = at
	}
	m.touch(from)
	m.enqueue(v, to)
	v.deadline = v.vruntime + ahead
}

// push takes the one who runs on a CPU to another, as the kernel's stopper thread does.
func (m *Machine) push(from, to *cpu) {
	m.settle(from)
	v := &m.vcpus[from.cur]
	m.stop(from)
	from.resched = true
	m.move(v, to)
}

func (m *Machine) segment(c *cpu) {
	if !m.draw || m.now == c.from || len(m.timeline) >= maxSegments {
		return
	}
	m.timeline = append(m.timeline, Segment{CPU: int(c.id), VCPU: int(c.cur), From: time.Duration(c.from), To: time.Duration(m.now)})
}
