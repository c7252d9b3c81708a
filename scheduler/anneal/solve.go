package anneal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Method is a way to solve a model.
type Method string

// The methods.
const (
	SQA       Method = "sqa"       // simulated quantum annealing: path-integral Monte Carlo, a falling transverse field
	SA        Method = "sa"        // simulated annealing
	MultiSpin Method = "multispin" // simulated annealing of 64 replicas in the bits of words: no fields, couplings of one size
	PT        Method = "pt"        // parallel tempering
	Tabu      Method = "tabu"      // tabu search
	Greedy    Method = "greedy"    // descents from random states
)

// Methods lists all methods.
func Methods() []Method { return []Method{SQA, SA, MultiSpin, PT, Tabu, Greedy} }

// Options say how to solve. Time or Sweeps, or both, must be set.
type Options struct {
	Method Method
	Seed   uint64
	// Time is how long to search. What is found depends on how fast the machine is.
	Time time.Duration
	// Sweeps is how many sweeps to search; in one, every spin is offered a flip once in one replica. What is found depends on the
	// model, the seed and this number, not on Workers.
	Sweeps int
	// RunSweeps is how long one run is, after which the search starts anew; 0 lets runs of many lengths take turns.
	RunSweeps int
	// Replicas is how many Trotter replicas SQA has, or temperatures PT; 0 is the method's default.
	Replicas int
	// Workers is how many goroutines share the runs; 0 is one.
	Workers int
	// Target, if not nil, is an energy that is good enough: the search ends when it is reached.
	Target *float64
}

// MaxReplicas is the largest number of replicas.
const MaxReplicas = 1024

// Result is what was found.
type Result struct {
	Spins   []int8        // +1 or -1
	Energy  float64       // the model's energy of Spins
	Optimal bool          // Energy is the model's bound: nothing is better
	Runs    int           // runs begun
	Sweeps  int           // sweeps done
	Found   time.Duration // when Spins were found
	Elapsed time.Duration // how long it took in all
}

// ErrBudget is wrapped when neither Time nor Sweeps is set.
var ErrBudget = errors.New("neither time nor sweeps to search")

// Solve searches a state of low energy. If ctx ends, what was found until then is the result, without error.
func Solve(ctx context.Context, m *Model, o Options) (*Result, error) {
	if !slices.Contains(Methods(), o.Method) {
		return nil, fmt.Errorf("anneal: method %q is none of %v", o.Method, strings.Trim(fmt.Sprint(Methods()), "[]"))
	}
	if o.Time <= 0 && o.Sweeps <= 0 {
		return nil, fmt.Errorf("anneal: %w: set one of them", ErrBudget)
	}
	if o.Replicas < 0 || o.Replicas > MaxReplicas || o.RunSweeps < 0 || o.Workers < 0 || o.Time < 0 || o.Sweeps < 0 {
		return nil, fmt.Errorf("anneal: replicas %d (at most %d), sweeps a run %d, workers %d, time %v or sweeps %d out of range", o.Replicas, MaxReplicas, o.RunSweeps, o.Workers, o.Time, o.Sweeps)
	}
	begun := time.Now()
	s := &search{ctx: ctx, model: m, options: o, begun: begun, goal: m.Bound()}
	if o.Target != nil {
		s.goal = max(s.goal, *o.Target)
	}
	// Sums of rounded numbers may miss the bound by a little.
	s.goal += 1e-9 * m.weight()
	s.enough.Store(math.MaxInt64)
	if o.Time > 0 {
		s.deadline = begun.Add(o.Time)
	}
	var newRunner func() runner
	scale := integral(m)
	switch {
	case o.Method == MultiSpin:
		p, err := newPacked(m)
		if err != nil {
			return nil, err
		}
		newRunner = func() runner { return p.newRunner() }
	case scale != 0:
		newRunner = runners(newEngine[float32](m, scale), o)
	default:
		newRunner = runners(newEngine[float64](m, 1), o)
	}
	var wg sync.WaitGroup
	for range max(1, o.Workers) {
		wg.Go(func() { s.work(newRunner()) })
	}
	wg.Wait()
	s.best.Elapsed = time.Since(begun)
	s.best.Optimal = s.best.Energy <= m.Bound()+1e-9*m.weight()
	s.best.Runs, s.best.Sweeps = int(min(s.next, s.runs)), int(s.sweeps.Load())
	return &s.best, nil
}

// runner does runs of a method.
type runner interface {
	// run does a run of about so many sweeps, and gives what it finds to r. It returns soon after r.stop says so, and then too it has
	// given something.
	run(r *run, rng rng, sweeps int)
	// base is the length of the shortest run.
	base() int
}

func runners[T number](e *engine[T], o Options) func() runner {
	switch o.Method {
	case SQA:
		return func() runner { return newQuantum(e, o.Replicas) }
	case PT:
		return func() runner { return newTempering(e, o.Replicas) }
	case Tabu:
		return func() runner { return newTabu(e) }
	case Greedy:
		return func() runner { return &greedy[T]{e.newState()} }
	default:
		return func() runner { return &thermal[T]{e.newState()} }
	}
}

// search hands out runs to workers and keeps the best state.
type search struct {
	ctx      context.Context
	model    *Model
	options  Options
	begun    time.Time
	deadline time.Time // zero: none
	goal     float64
	enough   atomic.Int64 // the least run that reached the goal: runs after it need not go on
	sweeps   atomic.Int64

	mu      sync.Mutex
	next    int64 // next run
	runs    int64 // runs given out
	given   int   // sweeps of the runs given out
	best    Result
	bestRun int64
}

// luby is the sequence 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ...: whatever length of run is right, it is not long missed.
func luby(i int64) int {
	for k := uint64(i + 1); ; {
		n := bits.Len64(k)
		if k == 1<<n-1 {
			return 1 << (n - 1)
		}
		k -= 1<<(n-1) - 1
	}
}

// take returns the next run's number and length, or false.
func (s *search) take(base int) (int64, int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.next
	if i > 0 && (s.ctx.Err() != nil || i > s.enough.Load() || !s.deadline.IsZero() && !time.Now().Before(s.deadline)) {
		return 0, 0, false
	}
	length := s.options.RunSweeps
	if length == 0 {
		length = base * luby(i)
	}
	if s.options.Sweeps > 0 {
		length = min(length, s.options.Sweeps-s.given)
	}
	if length <= 0 {
		return 0, 0, false
	}
	s.given += length
	s.next++
	s.runs++
	return i, length, true
}

func (s *search) work(r runner) {
	for {
		i, length, ok := s.take(r.base())
		if !ok {
			return
		}
		run := &run{search: s, number: i, best: math.Inf(1)}
		r.run(run, newRNG(s.options.Seed, uint64(i)), length)
		s.sweeps.Add(int64(run.sweeps))
	}
}

// run is one run, of one goroutine.
type run struct {
	*search
	number  int64
	best    float64
	sweeps  int
	untimed int // sweeps since the clock was read
}

// stop says that the run shall end. It is asked after every so many sweeps.
func (r *run) stop(sweeps int) bool {
	r.sweeps += sweeps
	if r.number > r.enough.Load() || r.best <= r.goal {
		return true
	}
	if r.untimed += sweeps * r.model.Spins(); r.untimed < 1<<14 {
		return false
	}
	r.untimed = 0
	return r.ctx.Err() != nil || !r.deadline.IsZero() && !time.Now().Before(r.deadline)
}

// offer gives a runner's state.
func (st *state[T]) offer(r *run) {
	if st.energy/st.scale+r.model.offset >= r.best {
		return
	}
	s := make([]int8, len(st.s))
	for i, v := range st.s {
		s[st.order[i]] = int8(v)
	}
	r.offer(s)
}

func (r *run) offer(s []int8) {
	exact := r.model.Energy(s)
	r.best = min(r.best, exact)
	r.mu.Lock()
	defer r.mu.Unlock()
	best, before := &r.search.best, r.number < r.bestRun
	better := best.Spins == nil || exact < best.Energy || exact == best.Energy && before
	if best.Spins != nil && exact <= r.goal && best.Energy <= r.goal && r.number != r.bestRun {
		better = before // so that it does not matter which of two workers is faster
	}
	if better {
		best.Spins, best.Energy, r.bestRun = s, exact, r.number
		best.Found = time.Since(r.begun)
	}
	if exact <= r.goal && r.number < r.enough.Load() {
		r.enough.Store(r.number)
	}
}
