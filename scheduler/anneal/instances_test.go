package anneal

import "math/rand/v2"

// torus is a grid of rows*columns spins that goes around both ways: with weights of 1, the shapes of G48 to G50, with weights of +1 and
// -1 that of G11.
func torus(rows, columns int, weight func() float64) *Model {
	var pairs []Coupling
	for i := range rows {
		for j := range columns {
			pairs = append(pairs, Coupling{i*columns + j, i*columns + (j+1)%columns, weight()},
				Coupling{i*columns + j, (i+1)%rows*columns + j, weight()})
		}
	}
	return must(NewIsing(make([]float64, rows*columns), pairs, 0))
}

func signs(seed uint64) func() float64 {
	r := rand.New(rand.NewPCG(seed, 11))
	return func() float64 { return float64(r.IntN(2)*2 - 1) }
}

// randomGraph is a graph of edges of weight 1, the family of G1 and G22.
func randomGraph(n, edges int, seed uint64) *Model {
	r := rand.New(rand.NewPCG(seed, 22))
	have := map[Coupling]bool{}
	var pairs []Coupling
	for len(pairs) < edges {
		i, j := r.IntN(n), r.IntN(n)
		c := Coupling{min(i, j), max(i, j), 1}
		if i != j && !have[c] {
			have[c] = true
			pairs = append(pairs, c)
		}
	}
	return must(NewIsing(make([]float64, n), pairs, 0))
}

// planted is a torus of rows*columns spins made of frustrated plaquettes, each of which has the hidden state among its ground states:
// so has their sum. It returns the least energy too. Tile planting: of the four couplings of every second plaquette, which share
// none, one is against the hidden state.
func planted(rows, columns int, seed uint64) (m *Model, hidden []int8, energy float64) {
	r := rand.New(rand.NewPCG(seed, 33))
	hidden = make([]int8, rows*columns)
	for i := range hidden {
		hidden[i] = int8(r.IntN(2)*2 - 1)
	}
	var pairs []Coupling
	for i := range rows {
		for j := i % 2; j < columns; j += 2 {
			i2, j2 := (i+1)%rows, (j+1)%columns
			corners := [4]int{i*columns + j, i*columns + j2, i2*columns + j2, i2*columns + j}
			// Three strong couplings satisfied, the weakest one not: no state has less.
			weakest := r.IntN(4)
			for k, a := range corners {
				b := corners[(k+1)%4]
				w := -float64(int(hidden[a])*int(hidden[b])) * 2
				if k == weakest {
					w = -w / 2
				}
				pairs = append(pairs, Coupling{a, b, w})
				energy += w * float64(int(hidden[a])*int(hidden[b]))
			}
		}
	}
	return must(NewIsing(make([]float64, rows*columns), pairs, 0)), hidden, energy
}

func must(m *Model, err error) *Model {
	if err != nil {
		panic(err)
	}
	return m
}
