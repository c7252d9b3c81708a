package plan

import (
	"slices"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
)

// state is a placement, perhaps of some vCPUs only, with the sums that make the cost of any place quick to tell.
type state struct {
	*field
	penalty  float64 // of a broken constraint
	at       []int32 // CPU of every vCPU, -1: none
	choice   []int32 // index of at in the item's may
	cpus     []onCPU
	coreLoad []float64
	onCore   []int32
	onPkg    []int32
	cache    []float64 // of every last-level cache
	mates    []float64 // load of gang g on CPU p, at g*CPUs+p
	tenant   []int32   // number of vCPUs of tenant t on core k, at t*cores+k
	energy   float64
}

// onCPU is a CPU with what is on it: all load, that of gangs' members, and how many wake briefly.
type onCPU struct {
	cpu
	load, gangs, wakers float64
}

func (f *field) newState() *state {
	s := &state{field: f, at: make([]int32, len(f.items)), choice: make([]int32, len(f.items)), cpus: make([]onCPU, len(f.cpus)),
		coreLoad: make([]float64, f.cores), onCore: make([]int32, f.cores), onPkg: make([]int32, f.pkgs),
		cache: make([]float64, f.llcs), mates: make([]float64, f.gangs*len(f.cpus)), tenant: make([]int32, f.tenants*f.cores)}
	for i := range s.at {
		s.at[i] = -1
	}
	for p, c := range f.cpus {
		s.cpus[p].cpu = c
	}
	return s
}

// breaks returns how many constraints vCPU i would break on a core.
func (s *state) breaks(i int, core int32) int {
	n := 0
	for _, j := range s.apart[i] {
		if q := s.at[j]; q >= 0 && s.cpus[q].core == core {
			n++
		}
	}
	if t := s.items[i].tenant; t >= 0 {
		n += int(s.onCore[core] - s.tenant[int(t)*s.cores+int(core)])
	}
	return n
}

// power is what a vCPU on a CPU costs that has so many others on its core and in its package.
func (s *state) power(onCore, onPkg int32) float64 {
	e := 0.0
	if onCore == 0 {
		e += s.w.Core
	}
	if onPkg == 0 {
		e += s.w.Package
	}
	return e
}

// place returns what vCPU i, wherever it is now, would cost on a CPU, but for its links.
func (s *state) place(i int, p int32) float64 {
	it, c, now := &s.items[i], &s.cpus[p], s.at[i]
	load, gangs, wakers := c.load, c.gangs, c.wakers
	others, pressure := s.coreLoad[c.core]-load, s.cache[c.llc]
	mates := 0.0
	if it.gang >= 0 {
		mates = s.mates[int(it.gang)*len(s.cpus)+int(p)]
	}
	if now == p {
		load, gangs, wakers, mates, pressure = load-it.load, gangs-it.inGang*it.load, wakers-it.latency, mates-it.inGang*it.load, pressure-it.cache
	} else if now >= 0 {
		from := &s.cpus[now]
		if from.llc == c.llc {
			pressure -= it.cache
		}
		if from.core == c.core {
			others -= it.load
		}
	}
	e := c.inv*(it.self+it.byLoad*load+it.byGang*gangs+it.byWake*wakers+it.byMates*mates) + c.smt*it.load*others +
		c.pressed*it.cache*(it.cache+2*pressure)
	if it.now >= 0 {
		e += s.w.Migration * float64(s.dist[int(it.now)*len(s.cpus)+int(p)])
	}
	if !it.simple {
		e += s.special(i, p)
	}
	return e
}

// special is the part of place that few problems have: power and constraints.
func (s *state) special(i int, p int32) float64 {
	c, now := &s.cpus[p], s.at[i]
	onCore, onPkg := s.onCore[c.core], s.onPkg[c.pkg]
	if now >= 0 && s.cpus[now].core == c.core {
		onCore--
	}
	if now >= 0 && s.cpus[now].pkg == c.pkg {
		onPkg--
	}
	return s.power(onCore, onPkg) + s.penalty*float64(s.breaks(i, c.core))
}

// talk returns what the links of vCPU i cost on a CPU.
func (s *state) talk(i int, p int32) float64 {
	e, row := 0.0, s.dist[int(p)*len(s.cpus):][:len(s.cpus)]
	for _, l := range s.links[i] {
		if q := s.at[l.to]; q >= 0 {
			e += l.cost(row[q])
		}
	}
	return e
}

// count adds vCPU i to the sums of a CPU, or takes it away: sign is 1 or -1.
func (s *state) count(i int, p int32, sign int32) {
	it, c := &s.items[i], &s.cpus[p]
	x := float64(sign)
	c.load += x * it.load
	c.gangs += x * it.load * it.inGang
	c.wakers += x * it.latency
	s.coreLoad[c.core] += x * it.load
	s.onCore[c.core] += sign
	s.onPkg[c.pkg] += sign
	s.cache[c.llc] += x * it.cache
	if it.gang >= 0 {
		s.mates[int(it.gang)*len(s.cpus)+int(p)] += x * it.load
	}
	if it.tenant >= 0 {
		s.tenant[int(it.tenant)*s.cores+int(c.core)] += sign
	}
}

// add places a vCPU that is nowhere.
func (s *state) add(i int, p int32) {
	s.count(i, p, 1)
	s.at[i] = p
}

// remove takes a vCPU away.
func (s *state) remove(i int) {
	s.count(i, s.at[i], -1)
	s.at[i] = -1
}

// start places all vCPUs.
func (s *state) start(cpu []int) {
	s.energy = 0
	for i, p := range cpu {
		if s.at[i] >= 0 {
			s.remove(i)
		}
		s.choice[i] = s.index(i, int32(p))
	}
	for i, p := range cpu {
		s.energy += s.place(i, int32(p)) + s.talk(i, int32(p))
		s.add(i, int32(p))
	}
}

// index returns which of its choices a CPU is for vCPU i, or -1.
func (s *state) index(i int, p int32) int32 {
	may := s.items[i].may
	if len(may) == len(s.cpus) {
		return p
	}
	k, ok := slices.BinarySearch(may, p)
	if !ok {
		return -1
	}
	return int32(k)
}

func (s *state) placement() []int {
	cpu := make([]int, len(s.at))
	for i, p := range s.at {
		cpu[i] = int(p)
	}
	return cpu
}

// What follows makes a state that has placed all vCPUs a landscape of package anneal: a vCPU's choices are the CPUs it may run on.

// Items is how many vCPUs there are.
func (s *state) Items() int { return len(s.items) }

// Choices is how many CPUs a vCPU may run on.
func (s *state) Choices(i int) int { return len(s.items[i].may) }

// Choice is where it is.
func (s *state) Choice(i int) int { return int(s.choice[i]) }

// Energy is the cost, with broken constraints.
func (s *state) Energy() float64 { return s.energy }

// Delta is what a move would cost.
func (s *state) Delta(i, choice int) float64 {
	p, q := s.at[i], s.items[i].may[choice]
	if p == q {
		return 0
	}
	d := s.place(i, q) - s.place(i, p)
	n := len(s.cpus)
	from, to := s.dist[int(p)*n:][:n], s.dist[int(q)*n:][:n]
	for _, l := range s.links[i] {
		r := s.at[l.to]
		d += l.cost(to[r]) - l.cost(from[r])
	}
	return d
}

// Deltas is what all moves of a vCPU would cost.
func (s *state) Deltas(i int, out []float64) {
	may := s.items[i].may
	for k, q := range may {
		out[k] = s.place(i, q)
	}
	n := len(s.cpus)
	for _, l := range s.links[i] {
		row := s.dist[int(s.at[l.to])*n:][:n]
		for k, q := range may {
			out[k] += l.cost(row[q])
		}
	}
	now := out[s.choice[i]]
	for k := range out[:len(may)] {
		out[k] -= now
	}
}

// Move moves a vCPU; delta is what Delta says.
func (s *state) Move(i, choice int, delta float64) {
	q := s.items[i].may[choice]
	s.count(i, s.at[i], -1)
	s.add(i, q)
	s.choice[i] = int32(choice)
	s.energy += delta
}

// Exchange says which choices two vCPUs would have in each other's place.
func (s *state) Exchange(i, j int) (ci, cj int, ok bool) {
	if s.at[i] == s.at[j] {
		return 0, 0, false
	}
	ci, cj = int(s.index(i, s.at[j])), int(s.index(j, s.at[i]))
	return ci, cj, ci >= 0 && cj >= 0
}

// Clone returns a copy.
func (s *state) Clone() anneal.Landscape {
	c := s.newState()
	c.Copy(s)
	return c
}

// Copy makes it the same as another of the same problem.
func (s *state) Copy(from anneal.Landscape) {
	f := from.(*state)
	s.penalty, s.energy = f.penalty, f.energy
	copy(s.at, f.at)
	copy(s.choice, f.choice)
	copy(s.cpus, f.cpus)
	copy(s.coreLoad, f.coreLoad)
	copy(s.onCore, f.onCore)
	copy(s.onPkg, f.onPkg)
	copy(s.cache, f.cache)
	copy(s.mates, f.mates)
	copy(s.tenant, f.tenant)
}
