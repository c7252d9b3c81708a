package simulate

import "math"

const never = math.MaxInt64

// agenda keeps the next time of each of a fixed number of things: a heap of four branches whose members know their place. Things that are
// due at the same time come in order of their numbers.
type agenda struct {
	at    []int64 // by thing
	place []int32 // by thing: where in heap
	heap  []int32
}

func newAgenda(n int) *agenda {
	a := &agenda{at: make([]int64, n), place: make([]int32, n), heap: make([]int32, n)}
	for i := range n {
		a.at[i], a.place[i], a.heap[i] = never, int32(i), int32(i)
	}
	return a
}

// first returns what is due next; never: nothing.
func (a *agenda) first() (thing int, at int64) { return int(a.heap[0]), a.at[a.heap[0]] }

func (a *agenda) before(x, y int32) bool { return a.at[x] < a.at[y] || a.at[x] == a.at[y] && x < y }

func (a *agenda) set(thing int, at int64) {
	x, old := int32(thing), a.at[thing]
	if at == old {
		return
	}
	a.at[thing] = at
	i := a.place[x]
	if at < old {
		for i > 0 {
			up := (i - 1) / 4
			if !a.before(x, a.heap[up]) {
				break
			}
			a.put(i, a.heap[up])
			i = up
		}
	} else {
		for n := int32(len(a.heap)); ; {
			least := 4*i + 1
			if least >= n {
				break
			}
			for j := least + 1; j < min(4*i+5, n); j++ {
				if a.before(a.heap[j], a.heap[least]) {
					least = j
				}
			}
			if !a.before(a.heap[least], x) {
				break
			}
			a.put(i, a.heap[least])
			i = least
		}
	}
	a.put(i, x)
}

func (a *agenda) put(i, thing int32) { a.heap[i], a.place[thing] = thing, i }
