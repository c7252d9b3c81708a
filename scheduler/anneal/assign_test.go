package anneal

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomAssignment has a cost of every choice and, for some pairs of items, one for every pair of their choices.
func randomAssignment(items, choices int, seed uint64) *Assignment {
	r := rand.New(rand.NewPCG(seed, 55))
	counts := make([]int, items)
	var cost []float64
	var pairs []Coupling
	for i := range items {
		counts[i] = choices
		for range choices {
			cost = append(cost, r.NormFloat64())
		}
		for j := range i {
			for k := range choices * choices {
				if r.IntN(2) == 0 {
					pairs = append(pairs, Coupling{i*choices + k/choices, j*choices + k%choices, r.NormFloat64()})
				}
			}
		}
	}
	// Pairs within an item are never both chosen.
	pairs = append(pairs, Coupling{0, choices - 1, -1000})
	a, err := NewAssignment(counts, cost, pairs, 0.5)
	if err != nil {
		panic(err)
	}
	return a
}

// exactAssignment looks at all choices.
func exactAssignment(a *Assignment) float64 {
	choice, least := make([]int, a.Items()), math.Inf(1)
	for {
		least = min(least, a.Energy(choice))
		i := 0
		for ; i < len(choice); i++ {
			if choice[i]++; choice[i] < int(a.first[i+1]-a.first[i]) {
				break
			}
			choice[i] = 0
		}
		if i == len(choice) {
			return least
		}
	}
}

// TestAssignment holds every method for assignments against a look at all choices.
func TestAssignment(t *testing.T) {
	for seed := range uint64(15) {
		a := randomAssignment(1+int(seed%7), 2+int(seed%3), seed)
		want := exactAssignment(a)
		for _, method := range []Method{SQA, SA, Greedy} {
			o := Options{Method: method, Seed: seed, Sweeps: 4000}
			got, err := SolveAssignment(context.Background(), a, nil, o)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(got.Energy-want) > 1e-9 {
				t.Errorf("seed %d: %s found %v, the optimum is %v", seed, method, got.Energy, want)
			}
			again, err := SolveAssignment(context.Background(), a, nil, o)
			if err != nil || !slices.Equal(got.Choices, again.Choices) {
				t.Errorf("seed %d: %s found %v, then %v, error %v", seed, method, got.Choices, again.Choices, err)
			}
		}
	}
}

// TestAssignmentDeltas: costs of moves stay right over many moves and exchanges.
func TestAssignmentDeltas(t *testing.T) {
	a := randomAssignment(30, 6, 3)
	p := a.newPlacement()
	p.start(func(int) int { return 0 })
	s := &improving{rng: newRNG(1, 2)}
	for range 3000 {
		s.sweep(p, 0.05)
	}
	fresh := a.newPlacement()
	fresh.start(p.Choice)
	if math.Abs(fresh.energy-p.energy) > 1e-6 {
		t.Errorf("energy %v, computed anew %v", p.energy, fresh.energy)
	}
	for v := range p.g {
		if math.Abs(p.g[v]-fresh.g[v]) > 1e-6 {
			t.Fatalf("variable %d costs %v, computed anew %v", v, p.g[v], fresh.g[v])
		}
	}
}

// TestAssignmentStart: the result is never worse than the start, whatever the budget.
func TestAssignmentStart(t *testing.T) {
	a := randomAssignment(20, 5, 4)
	best, err := SolveAssignment(context.Background(), a, nil, Options{Method: SA, Sweeps: 20000})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []Method{SQA, SA, Greedy} {
		got, err := SolveAssignment(context.Background(), a, best.Choices, Options{Method: method, Seed: 9, Sweeps: 1})
		if err != nil || got.Energy > best.Energy {
			t.Errorf("%s: %v after a start of %v, error %v", method, got, best.Energy, err)
		}
	}
}

func TestBadAssignments(t *testing.T) {
	for name, f := range map[string]func() (*Assignment, error){
		"no choice":       func() (*Assignment, error) { return NewAssignment([]int{1, 0}, []float64{1}, nil, 0) },
		"negative":        func() (*Assignment, error) { return NewAssignment([]int{-1}, nil, nil, 0) },
		"too few costs":   func() (*Assignment, error) { return NewAssignment([]int{2}, []float64{1}, nil, 0) },
		"too many costs":  func() (*Assignment, error) { return NewAssignment([]int{2}, []float64{1, 2, 3}, nil, 0) },
		"nan":             func() (*Assignment, error) { return NewAssignment([]int{1}, []float64{math.NaN()}, nil, 0) },
		"pair":            func() (*Assignment, error) { return NewAssignment([]int{1}, []float64{1}, []Coupling{{0, 1, 1}}, 0) },
		"loop":            func() (*Assignment, error) { return NewAssignment([]int{1}, []float64{1}, []Coupling{{0, 0, 1}}, 0) },
		"pair of nothing": func() (*Assignment, error) { return NewAssignment(nil, nil, []Coupling{{0, 0, 1}}, 0) },
	} {
		if a, err := f(); err == nil {
			t.Errorf("%s: no error: %v", name, a)
		}
	}
	a := randomAssignment(3, 2, 1)
	for name, f := range map[string]func() (*Placed, error){
		"method": func() (*Placed, error) {
			return SolveAssignment(context.Background(), a, nil, Options{Method: Tabu, Sweeps: 1})
		},
		"budget": func() (*Placed, error) { return SolveAssignment(context.Background(), a, nil, Options{Method: SA}) },
		"short start": func() (*Placed, error) {
			return SolveAssignment(context.Background(), a, []int{0}, Options{Method: SA, Sweeps: 1})
		},
		"start choice": func() (*Placed, error) {
			return SolveAssignment(context.Background(), a, []int{0, 2, 0}, Options{Method: SA, Sweeps: 1})
		},
	} {
		if p, err := f(); err == nil {
			t.Errorf("%s: no error: %v", name, p)
		}
	}
	none, err := NewAssignment(nil, nil, nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := SolveAssignment(context.Background(), none, nil, Options{Method: SQA, Sweeps: 1}); err != nil || p.Energy != 3 {
		t.Errorf("nothing to assign: %v, error %v", p, err)
	}
}
