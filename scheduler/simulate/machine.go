package simulate

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

const unit = 1024 // the weight that EEVDF's time runs by the clock with; a vCPU's default

type state uint8

const (
	absent state = iota // has not come yet
	asleep
	queued
	running
	gone
)

type mode uint8

const (
	fresh    mode = iota // begins its next step as soon as it runs
	working              // in a Compute or a Burst
	holding              // in a Lock
	spinning             // before it
)

// vcpu is a vCPU's state. Times are ns, virtual times ns at weight unit.
type vcpu struct {
	prog     *VCPU
	state    state
	mode     mode
	id       int32
	cpu      int32 // whose queue it is in, or was in last
	ran      int32 // where it ran last; -1: nowhere yet
	vm       int32
	row      int32 // gang scheduling: its row of the matrix; -1: any
	step     int   // of the program
	passes   int   // left
	burst    int   // of a Burst: left
	remain   float64
	over     float64 // overhead to go through before the step goes on
	vruntime float64
	deadline float64
	protect  float64 // the vruntime until which equals do not preempt it
	lag      float64
	slept    float64 // the queue's virtual time when it went to sleep
	weight   float64
	slice    float64
	allowed  set
	due      int64 // Every
	woken    int64 // by an event at this time, and has not run since; -1: no
	asked    int64 // for the lock it spins for
	spun     int64 // began to spin, without having yielded
	since    int64 // in the queue, or asleep
	stopped  int64 // when it ran last
	load     float64
	loadAt   int64
	rand     *rand.Rand

	run, wait, spin, end int64
	work                 float64
	voluntary            uint64
	seen                 Sample // what had been measured when last asked
}

// cpu is a run queue.
type cpu struct {
	id      int32
	core    int32
	llc     int32
	cur     int32 // vCPU that runs; -1: idle
	last    int32 // vCPU that ran last
	touched bool
	resched bool
	since   int64 // when cur's account was settled
	speed   float64
	base    float64 // virtual time of the queue when it was last not empty
	queue   []int32 // vCPUs that wait
	twins   []int32 // other threads of the core
	near    [4]set  // which CPUs share the cache, the node, the package, the host
	failed  int     // balancings that found an imbalance and moved nothing
	busy    int64
	from    int64 // when cur got the CPU, for the timeline
}

type lock struct {
	holder  int32 // -1: free
	last    int32 // CPU it was released on; -1: none
	waiters []int32
}

type channel struct {
	from    []int32 // the senders of messages nobody has taken yet
	waiters []int32
}

// Machine is a host in the middle of a run, as policies see it.
type Machine struct {
	Host  *host.Topology
	Trace *Trace
	Cal   *Calibration

	now      int64
	tick     int64
	slice    float64
	cpus     []cpu
	vcpus    []vcpu
	vms      [][]int32
	locks    map[int]*lock
	channels map[int]*channel
	agenda   *agenda
	idle     set
	crowded  set // CPUs in whose queue somebody waits
	waiting  int // vCPUs in queues
	left     int // vCPUs whose program ends and has not
	dirty    []int32
	level    [][]uint8 // distance of CPUs as an index into the calibration's arrays
	links    map[[2]int32]int
	spread   bool  // balance scheduling: siblings are kept off one queue
	row      int32 // gang scheduling: whose turn it is; -1: no gang scheduling
	rows     int32
	slot     int64
	loads    []float64 // of CPUs, at a balancing
	wakes    histogram
	acquires histogram
	timeline []Segment
	draw     bool
	result   Result
	err      error
}

// Things on the agenda after CPUs and vCPUs.
const (
	onBalance = iota
	onEpoch
	onSlot
	onEnd
	extras
)

func newMachine(top *host.Topology, t *Trace, cal *Calibration) (*Machine, error) {
	if err := top.Check(); err != nil {
		return nil, err
	}
	if len(top.CPUs) > MaxCPUs {
		return nil, fmt.Errorf("host has %d CPUs, at most %d can be simulated", len(top.CPUs), MaxCPUs)
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	if err := cal.Check(); err != nil {
		return nil, err
	}
	n := len(top.CPUs)
	m := &Machine{Host: top, Trace: t, Cal: cal, tick: int64(cal.Tick), slice: float64(cal.Slice), row: -1,
		cpus: make([]cpu, n), vcpus: make([]vcpu, len(t.VCPUs)), locks: map[int]*lock{}, channels: map[int]*channel{},
		agenda: newAgenda(n + len(t.VCPUs) + extras), links: map[[2]int32]int{}}
	if m.slice == 0 { // Linux: 0.7 ms, times one more than the logarithm of the number of CPUs up to 8
		m.slice = 700e3 * float64(bits.Len(uint(min(n, 8))))
	}
	for i := range m.cpus {
		c := &m.cpus[i]
		*c = cpu{id: int32(i), core: int32(top.CPUs[i].Core), llc: int32(top.CPUs[i].LLC), cur: -1, last: -1, speed: top.CPUs[i].Capacity}
		m.idle.add(c.id)
		m.level = append(m.level, make([]uint8, n))
		for j := range n {
			d := 0
			if x := top.Distance(i, j); x > 0 {
				d = 1 + bits.TrailingZeros(uint(x))
			}
			m.level[i][j] = uint8(d)
			if d == 1 {
				c.twins = append(c.twins, int32(j))
			}
			for near, farthest := range [4]int{2, 3, 4, 5} {
				if d <= farthest {
					c.near[near].add(int32(j))
				}
			}
		}
	}
	vms := map[string]int32{}
	for i := range m.vcpus {
		p := &t.VCPUs[i]
		vm, ok := vms[p.VM]
		if !ok || p.VM == "" {
			vm = int32(len(m.vms))
			vms[p.VM] = vm
			m.vms = append(m.vms, nil)
		}
		m.vms[vm] = append(m.vms[vm], int32(i))
		v := &m.vcpus[i]
		*v = vcpu{prog: p, id: int32(i), vm: vm, cpu: -1, ran: -1, row: -1, passes: max(1, p.Passes), woken: -1, weight: unit, slice: m.slice, load: 1,
			due: int64(p.Start), rand: rand.New(rand.NewPCG(t.Seed, uint64(i)))}
		if err := m.Allow(i, nil); err != nil {
			return nil, err
		}
		if !p.Forever {
			m.left++
		}
		for _, op := range p.Program {
			switch op.Op {
			case Lock:
				m.locks[op.ID] = &lock{holder: -1, last: -1}
			case Send, Recv:
				m.channels[op.ID] = &channel{}
			}
		}
		m.agenda.set(n+i, int64(p.Start))
	}
	m.agenda.set(m.extra(onBalance), m.tick)
	m.agenda.set(m.extra(onEnd), int64(t.Length))
	return m, nil
}

func (m *Machine) extra(which int) int { return len(m.cpus) + len(m.vcpus) + which }

// run plays the trace.
func (m *Machine) run(p Policy) error {
	if err := p.Start(m); err != nil {
		return err
	}
	epoch := int64(p.Epoch())
	if epoch > 0 {
		m.agenda.set(m.extra(onEpoch), epoch)
	}
	if m.rows > 0 {
		m.row = 0
		m.agenda.set(m.extra(onSlot), m.slot)
	}
	hadEnd := m.left > 0
	for m.left > 0 || !hadEnd {
		thing, at := m.agenda.first()
		m.now = at
		m.result.Events++
		switch extra := thing - len(m.cpus) - len(m.vcpus); {
		case thing < len(m.cpus):
			m.expire(&m.cpus[thing])
		case extra < 0:
			m.alarm(&m.vcpus[thing-len(m.cpus)])
		case extra == onBalance:
			m.balance()
			m.agenda.set(thing, m.now+m.tick)
		case extra == onEpoch:
			m.settleAll()
			if err := p.Plan(m); err != nil {
				return err
			}
			m.agenda.set(thing, m.now+epoch)
		case extra == onSlot:
			m.row = (m.row + 1) % m.rows
			for i := range m.cpus {
				m.cpus[i].resched = true
				m.touch(&m.cpus[i])
			}
			m.agenda.set(thing, m.now+m.slot)
		default:
			m.settleAll()
			return nil
		}
		m.flush()
		if m.err != nil {
			return m.err
		}
	}
	m.result.Complete = true
	m.settleAll()
	return nil
}

func (m *Machine) settleAll() {
	for i := range m.cpus {
		m.settle(&m.cpus[i])
	}
}

// settle brings the account of the vCPU that runs on a CPU up to now.
func (m *Machine) settle(c *cpu) {
	dt := m.now - c.since
	c.since = m.now
	if c.cur < 0 || dt == 0 {
		return
	}
	v := &m.vcpus[c.cur]
	v.run += dt
	c.busy += dt
	v.vruntime += float64(dt) * unit / v.weight
	d := float64(dt)
	over := min(v.over, d)
	v.over -= over
	d -= over
	m.result.Overhead += time.Duration(over)
	if v.mode == spinning {
		v.spin += int64(d)
		return
	}
	done := min(d*c.speed, v.remain)
	v.remain -= done
	v.work += done
}

// touch makes flush look after a CPU before time goes on.
func (m *Machine) touch(c *cpu) {
	if !c.touched {
		c.touched = true
		m.dirty = append(m.dirty, c.id)
	}
}

// flush lets every touched CPU choose again, if it must, and sets when it is due next.
func (m *Machine) flush() {
	for i := 0; i < len(m.dirty); i++ {
		c := &m.cpus[m.dirty[i]]
		c.touched = false
		m.settle(c)
		if c.resched {
			c.resched = false
			m.choose(c)
		}
		m.arm(c)
	}
	m.dirty = m.dirty[:0]
}

// arm sets when something happens on a CPU by itself: a step ends, or a tick finds a slice over.
func (m *Machine) arm(c *cpu) {
	at := int64(never)
	if c.cur >= 0 {
		v := &m.vcpus[c.cur]
		if v.mode != spinning {
			at = m.now + int64(math.Ceil(v.over+v.remain/c.speed-1e-6))
		} else if m.Cal.PLE > 0 && len(c.queue) > 0 {
			at = max(m.now, v.spun+int64(v.over)+int64(m.Cal.PLE))
		}
		if len(c.queue) > 0 && m.row < 0 {
			end := m.now + int64(max(0, v.protect-v.vruntime)*v.weight/unit)
			at = min(at, max((end+m.tick-1)/m.tick, m.now/m.tick+1)*m.tick)
		} else if len(c.queue) > 0 && v.row != m.row {
			at = min(at, (m.now/m.tick+1)*m.tick)
		}
	}
	m.agenda.set(int(c.id), at)
}

// expire is called when a CPU is due.
func (m *Machine) expire(c *cpu) {
	m.settle(c)
	m.touch(c)
	v := &m.vcpus[c.cur]
	switch {
	case v.mode != spinning && v.over < 1e-3 && v.remain < 1e-3:
		v.over, v.remain = 0, 0
		m.complete(v, c)
	case v.mode == spinning && m.Cal.PLE > 0 && m.now-v.spun >= int64(m.Cal.PLE):
		v.vruntime = max(v.vruntime, v.deadline) // as yield does
		v.spun = m.now
		c.resched = true
	default:
		c.resched = true
	}
}

// alarm is called when a vCPU comes, or its sleep is over.
func (m *Machine) alarm(v *vcpu) {
	m.agenda.set(len(m.cpus)+int(v.id), never)
	if v.state == absent {
		v.since = m.now
		m.enqueue(v, &m.cpus[m.idlest(m.permitted(v))])
		return
	}
	m.wake(v, &m.cpus[v.cpu])
}
