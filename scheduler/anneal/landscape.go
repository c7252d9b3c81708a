package anneal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Landscape is a problem in which each of some items has one of its choices, with a state: what every item's choice is now. No move
// leaves such states, so that no penalty has to hold them. What costs what is the landscape's own affair: it need not be quadratic.
type Landscape interface {
	Items() int
	// Choices is how many choices an item has, at least one; they are counted from 0.
	Choices(item int) int
	// Choice is the one it has now.
	Choice(item int) int
	// Energy is that of the state.
	Energy() float64
	// Delta is by how much the energy would rise if an item's choice were changed, Deltas that of all its choices.
	Delta(item, choice int) float64
	Deltas(item int, out []float64)
	// Move changes an item's choice; delta is what Delta says.
	Move(item, choice int, delta float64)
	// Exchange says which choices i and j would have if they changed places, and whether they can and it would be a change.
	Exchange(i, j int) (ci, cj int, ok bool)
	// Clone returns a copy with a state of its own; Copy takes the state of another copy.
	Clone() Landscape
	Copy(from Landscape)
}

func (o *Options) checkLandscape() error {
	if o.Method != SQA && o.Method != SA && o.Method != Greedy {
		return fmt.Errorf("anneal: method %q is none of those for assignments and landscapes: %s, %s, %s", o.Method, SQA, SA, Greedy)
	}
	if o.Time <= 0 && o.Sweeps <= 0 {
		return fmt.Errorf("anneal: %w: set one of them", ErrBudget)
	}
	if o.Replicas < 0 || o.Replicas > MaxReplicas || o.Time < 0 || o.Sweeps < 0 {
		return errors.New("anneal: replicas, time or sweeps out of range")
	}
	return nil
}

// Improve searches a state of lower energy by moves of one item and exchanges of two, with SQA, SA or Greedy, and leaves the landscape in
// the best state found: never one that is worse than the state it had. Of o, Target, RunSweeps and Workers are not used: all is done in
// the caller's goroutine. It returns how many sweeps were done: in one, every item was offered a move in one replica.
func Improve(ctx context.Context, l Landscape, o Options) (sweeps int, err error) {
	if err := o.checkLandscape(); err != nil {
		return 0, err
	}
	return improve(ctx, l, o, false)
}

// improve is Improve; anew says that the state is worth nothing.
func improve(ctx context.Context, l Landscape, o Options, anew bool) (int, error) {
	s := &improving{ctx: ctx, begun: time.Now(), options: o, rng: newRNG(o.Seed, 0), best: l, one: l.Clone()}
	choices := 0
	for i := range l.Items() {
		choices = max(choices, l.Choices(i))
		s.mean += float64(l.Choices(i)) / float64(l.Items())
	}
	if choices < 2 {
		return 0, nil
	}
	s.row = make([]float64, choices)
	s.measure()
	if o.Time > 0 {
		s.pace(func() { s.descend(s.one, 1) })
		s.descent = 3 * s.took
		s.pace(func() { s.sweep(s.one, 10/s.scale) })
	}
	s.one.Copy(l)
	for run := 0; !s.over(0); run++ {
		warm := (run%2 == 0) != anew
		switch o.Method {
		case SQA:
			s.quantum(s.length(run), warm)
		case SA:
			s.thermal(s.length(run), warm)
		case Greedy:
			s.scatter(s.one)
			s.over(1)
			s.offer(s.one)
		}
	}
	return s.sweeps, nil
}

// improving is a search of Improve.
type improving struct {
	ctx     context.Context
	begun   time.Time
	options Options
	rng     rng
	mean    float64       // choices of an item
	scale   float64       // what a move costs, typically
	took    time.Duration // what a sweep takes; only with a budget of time
	descent time.Duration // what the last descents will take
	sweeps  int
	best    Landscape
	one     Landscape
	slices  []Landscape
	row     []float64
}

// pace sets how long something takes.
func (s *improving) pace(f func()) {
	begun := time.Now()
	f()
	s.took = time.Since(begun)
}

// measure sets scale: the median of what moves cost.
func (s *improving) measure() {
	var sizes []float64
	for range 256 {
		i := s.rng.below(s.one.Items())
		if d := math.Abs(s.one.Delta(i, s.rng.below(s.one.Choices(i)))); d > 0 {
			sizes = append(sizes, d)
		}
	}
	s.scale = 1
	if len(sizes) > 0 {
		slices.Sort(sizes)
		s.scale = sizes[len(sizes)/2]
	}
}

// spent is the part of the budget that is used up, sweeps more included.
func (s *improving) spent(sweeps int) float64 {
	part := 0.0
	if s.options.Sweeps > 0 {
		part = float64(s.sweeps+sweeps) / float64(s.options.Sweeps)
	}
	if s.options.Time > 0 {
		// What is annealed then descends.
		part = max(part, float64(time.Since(s.begun))/float64(max(1, s.options.Time-s.descent)))
	}
	return part
}

// over counts sweeps and says whether the search is over.
func (s *improving) over(sweeps int) bool {
	s.sweeps += sweeps
	return s.spent(0) >= 1 || s.ctx.Err() != nil
}

// length is that of a run in sweeps: what the budget has left, as far as that can be told, but not much more than longest.
func (s *improving) length(run int) int {
	// Few items need many runs more than long ones.
	longest := min(512, max(32, 8*s.best.Items())) << min(20, run/4)
	left := math.MaxInt32
	if s.options.Sweeps > 0 {
		left = s.options.Sweeps - s.sweeps
	}
	if s.options.Time > 0 {
		left = min(left, int((s.options.Time-s.descent-time.Since(s.begun))/max(1, s.took)))
	}
	if left > longest*3/2 {
		return longest
	}
	return max(1, left)
}

func (s *improving) scatter(l Landscape) {
	for i := range l.Items() {
		if c := s.rng.below(l.Choices(i)); c != l.Choice(i) {
			l.Move(i, c, l.Delta(i, c))
		}
	}
}

// offer descends from a state and keeps what is better than the best.
func (s *improving) offer(l Landscape) {
	s.descend(l, 1<<20)
	if l.Energy() < s.best.Energy() {
		s.best.Copy(l)
	}
}

// descend makes the best move of every item, over and over while that wins something worth the look.
func (s *improving) descend(l Landscape, passes int) {
	least := -1e-9 * s.scale
	for won := math.Inf(1); passes > 0 && won > 1e-6*s.scale*float64(l.Items()) && s.ctx.Err() == nil; passes-- {
		if s.options.Time > 0 && time.Since(s.begun) >= s.options.Time {
			break
		}
		before := l.Energy()
		for i := range l.Items() {
			row := s.row[:l.Choices(i)]
			l.Deltas(i, row)
			best := 0
			for c, d := range row {
				if d < row[best] {
					best = c
				}
			}
			if row[best] < least {
				l.Move(i, best, row[best])
			}
		}
		won = before - l.Energy()
	}
}

// sweep offers every item a move to one of its choices and an exchange with another item.
func (s *improving) sweep(l Landscape, beta float64) {
	n := l.Items()
	for i := range n {
		if c := s.rng.below(l.Choices(i)); c != l.Choice(i) {
			if d := l.Delta(i, c); d <= 0 || d*beta < s.rng.exp() {
				l.Move(i, c, d)
			}
		}
		j := s.rng.below(n)
		ci, cj, ok := l.Exchange(i, j)
		if !ok {
			continue
		}
		old, d := l.Choice(i), l.Delta(i, ci)
		l.Move(i, ci, d)
		if e := l.Delta(j, cj); d+e <= 0 || (d+e)*beta < s.rng.exp() {
			l.Move(j, cj, e)
		} else {
			l.Move(i, old, -d)
		}
	}
}

// thermal is simulated annealing: from a random state, or from the best and less hot.
func (s *improving) thermal(sweeps int, warm bool) {
	hot := 1.0
	if warm {
		hot = 0.15
		s.one.Copy(s.best)
	} else {
		s.scatter(s.one)
	}
	const cold = 0.003
	from, left := s.spent(0), s.spent(sweeps)
	for k := range sweeps {
		done := float64(k) / float64(sweeps)
		if left > 0.99 {
			done = max(done, (s.spent(0)-from)/(1-from))
		}
		s.sweep(s.one, 1/(s.scale*hot*math.Pow(cold/hot, done)))
		if s.over(1) {
			break
		}
	}
	s.offer(s.one)
}

// quantum is path-integral Monte Carlo with a driver that takes an item from any of its q choices to any other: the choices in two
// neighbouring replicas are the same with a weight larger by ln(1 + q/(exp(q*beta*Gamma/P) - 1)), in temperatures, than that of
// different ones. For q = 2 that is a spin in a transverse field. A warm run is reverse annealing: from the best state, with a field
// that is not as strong.
func (s *improving) quantum(sweeps int, warm bool) {
	p := max(2, s.options.Replicas)
	if s.options.Replicas == 0 {
		p = 4
	}
	for len(s.slices) < p {
		s.slices = append(s.slices, s.best.Clone())
	}
	hot := 1.0
	for _, l := range s.slices {
		if warm {
			hot = 0.25
			l.Copy(s.best)
		} else {
			s.scatter(l)
		}
	}
	steps := max(1, sweeps/p)
	from, all := s.spent(0), s.spent(sweeps)
	for k := range steps {
		done := float64(k) / float64(steps)
		if all > 0.99 {
			done = max(done, (s.spent(0)-from)/(1-from))
		}
		left := hot * max(0, 1-done)
		beta := 200 / s.scale / float64(p) * (1.1 - left)
		gamma := left * s.scale / s.mean
		ring := math.Log1p(s.mean / math.Expm1(s.mean*beta*gamma))
		for i, l := range s.slices {
			s.sweepRing(l, s.slices[(i+p-1)%p], s.slices[(i+1)%p], beta, ring)
		}
		s.lines(beta)
		if s.over(p) {
			break
		}
	}
	best := s.slices[0]
	for _, l := range s.slices {
		if l.Energy() < best.Energy() {
			best = l
		}
	}
	s.offer(best)
}

// sweepRing is sweep of one replica between its neighbours in the ring; ring is what it costs, in temperatures, to choose otherwise than
// one of them.
func (s *improving) sweepRing(l, before, after Landscape, beta, ring float64) {
	n := l.Items()
	// torn is what the ring costs more if an item's choice is v in place of u.
	torn := func(i, u, v int) float64 {
		b, a := before.Choice(i), after.Choice(i)
		return ring * (float64(bit(b == u)+bit(a == u)) - float64(bit(b == v)+bit(a == v)))
	}
	for i := range n {
		if u, v := l.Choice(i), s.rng.below(l.Choices(i)); u != v {
			d := l.Delta(i, v)
			if x := d*beta + torn(i, u, v); x <= 0 || x < s.rng.exp() {
				l.Move(i, v, d)
			}
		}
	}
}

// lines offers every item a move of all replicas to one choice, and an exchange with another item, where the replicas agree: that leaves
// the ring as it is.
func (s *improving) lines(beta float64) {
	first, deltas := s.slices[0], make([]float64, len(s.slices))
	agree := func(i int) bool {
		for _, l := range s.slices[1:] {
			if l.Choice(i) != first.Choice(i) {
				return false
			}
		}
		return true
	}
	// move offers a move on top of what was done for more.
	move := func(i, v int, more float64, last bool) (sum float64, done bool) {
		sum = more
		for k, l := range s.slices {
			deltas[k] = l.Delta(i, v)
			sum += deltas[k]
		}
		if done = !last || sum <= 0 || sum*beta < s.rng.exp(); done {
			for k, l := range s.slices {
				l.Move(i, v, deltas[k])
			}
		}
		return sum, done
	}
	for i := range first.Items() {
		if !agree(i) {
			continue
		}
		if v := s.rng.below(first.Choices(i)); v != first.Choice(i) {
			move(i, v, 0, true)
		}
		j := s.rng.below(first.Items())
		if ci, cj, ok := first.Exchange(i, j); ok && agree(j) {
			old := first.Choice(i)
			sum, _ := move(i, ci, 0, false)
			if _, done := move(j, cj, sum, true); !done {
				move(i, old, 0, false)
			}
		}
	}
}
