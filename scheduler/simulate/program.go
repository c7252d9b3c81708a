package simulate

import "errors"

// maxMessages bounds what waits in a channel: a trace that sends more than it receives would fill the memory.
const maxMessages = 1 << 20

var errMessages = errors.New("a channel of the trace holds more than a million messages that nobody takes")

// duration draws how long a step takes.
func (v *vcpu) duration(op *Op, mean int64) int64 {
	switch {
	case op.Exp:
		return max(1, int64(v.rand.ExpFloat64()*float64(mean)))
	case op.Jitter > 0:
		return max(1, int64(float64(mean)*(1+op.Jitter*(2*v.rand.Float64()-1))))
	}
	return mean
}

// complete is called when the vCPU that runs on c is done with what it computed.
func (m *Machine) complete(v *vcpu, c *cpu) {
	switch v.mode {
	case working:
		op := &v.prog.Program[v.step]
		if op.Op != Burst {
			v.step++
			break
		}
		if v.burst--; v.burst == 0 {
			v.step++
		}
		if op.Rest > 0 {
			m.sleep(v, c, m.now+v.duration(op, int64(op.Rest)))
			return
		}
	case holding:
		m.release(m.locks[v.prog.Program[v.step].ID], c)
		v.step++
	}
	m.proceed(v, c)
}

// proceed begins the steps of the vCPU that runs on c, until one takes time.
func (m *Machine) proceed(v *vcpu, c *cpu) {
	for {
		if v.step == len(v.prog.Program) {
			v.step = 0
			if v.passes--; v.passes <= 0 && !v.prog.Forever {
				m.finish(v, c)
				return
			}
		}
		op := &v.prog.Program[v.step]
		switch op.Op {
		case Burst:
			if v.burst == 0 {
				v.burst = max(1, op.Times)
			}
			fallthrough
		case Compute:
			v.mode, v.remain = working, float64(v.duration(op, int64(op.Time)))
			return
		case Sleep:
			v.step++
			m.sleep(v, c, m.now+v.duration(op, int64(op.Time)))
			return
		case Every:
			v.step++
			if v.due += v.duration(op, int64(op.Time)); v.due > m.now {
				m.sleep(v, c, v.due)
				return
			}
			m.wakes.add(m.now - v.due)
		case Send:
			v.step++
			m.send(v, c, m.channels[op.ID])
		case Recv:
			ch := m.channels[op.ID]
			if len(ch.from) == 0 {
				ch.waiters = append(ch.waiters, v.id)
				m.leave(v, c, asleep)
				return
			}
			v.step++
			m.link(ch.from[0], v)
			v.over += float64(m.Cal.Line[m.level[m.vcpus[ch.from[0]].cpu][c.id]])
			ch.from = ch.from[1:]
		case Lock:
			l := m.locks[op.ID]
			v.asked, v.spun = m.now, m.now
			v.remain = float64(v.duration(op, int64(op.Time)))
			if l.holder < 0 {
				m.grant(l, v, c, m.now)
				return
			}
			v.mode = spinning
			l.waiters = append(l.waiters, v.id)
			return
		}
	}
}

func (m *Machine) sleep(v *vcpu, c *cpu, until int64) {
	m.agenda.set(len(m.cpus)+int(v.id), until)
	m.leave(v, c, asleep)
}

func (m *Machine) finish(v *vcpu, c *cpu) {
	v.end = m.now
	m.leave(v, c, gone)
	m.left--
}

// send gives a message to who waits for it longest, or leaves it in the channel.
func (m *Machine) send(v *vcpu, c *cpu, ch *channel) {
	if len(ch.waiters) == 0 {
		if len(ch.from) >= maxMessages {
			m.err = errMessages
			return
		}
		ch.from = append(ch.from, v.id)
		return
	}
	to := &m.vcpus[ch.waiters[0]]
	ch.waiters = ch.waiters[1:]
	to.step++
	to.over += float64(m.Cal.Line[m.level[c.id][to.cpu]])
	m.link(v.id, to)
	m.wake(to, c)
}

func (m *Machine) link(from int32, to *vcpu) { m.links[[2]int32{min(from, to.id), max(from, to.id)}]++ }

// grant gives a lock to a vCPU that runs on c and asked for it at a time.
func (m *Machine) grant(l *lock, v *vcpu, c *cpu, asked int64) {
	l.holder, v.mode = v.id, holding
	way := int64(0)
	if l.last >= 0 {
		way = int64(m.Cal.Line[m.level[l.last][c.id]])
	}
	v.over += float64(way)
	m.acquires.add(m.now - asked + way)
}

// release gives a lock to the one of the waiters that run which has waited longest, or to nobody.
func (m *Machine) release(l *lock, c *cpu) {
	l.holder, l.last = -1, c.id
	for i, id := range l.waiters {
		if v := &m.vcpus[id]; v.state == running {
			at := &m.cpus[v.cpu]
			m.settle(at)
			l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
			m.grant(l, v, at, v.asked)
			m.touch(at)
			return
		}
	}
}

// retry is called when a vCPU that spins gets a CPU: the lock may be free by now.
func (m *Machine) retry(v *vcpu, c *cpu) {
	l := m.locks[v.prog.Program[v.step].ID]
	if l.holder >= 0 {
		return
	}
	for i, id := range l.waiters {
		if id == v.id {
			l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
			break
		}
	}
	m.grant(l, v, c, v.asked)
}
