package govern

import "math"

// What waits of items count for in a score.
const (
	latencyCounts = 4     // of one that wakes briefly and often
	idle          = 0.002 // CPUs: who wants less does not count
)

// Score says how badly the items of an epoch were served on so many CPUs: the share of the time they were ready in which they waited for
// a CPU, averaged over the items, and the share of the CPUs that did nothing while somebody waited. Items that wake briefly and often count
// fourfold, members of a gang as often as it has members: while one waits, the others may spin for it. What they waste so is not seen, nor
// what caches do. 0 is best; ok is false if nobody wanted anything.
func Score(items []Item, cpus int) (score float64, ok bool) {
	members := map[int]int{}
	for _, it := range items {
		if it.Gang != 0 && it.Run+it.Wait > idle {
			members[it.Gang]++
		}
	}
	var sum, count, wanted, used float64
	for _, it := range items {
		// Threads of a guest that wait behind each other want no more than its CPUs.
		ready := min(it.Run+it.Wait, max(1, math.Ceil(it.Run)))
		if !(ready > idle) {
			continue
		}
		wanted += ready
		used += it.Run
		w := float64(max(1, members[it.Gang]))
		if it.Latency {
			w *= latencyCounts
		}
		sum += w * (ready - it.Run) / ready
		count += w
	}
	if count == 0 {
		return 0, false
	}
	idled := min(wanted, float64(cpus)) - used
	return sum/count + max(0, idled)/float64(cpus), true
}

// scores are those of the last epochs of one kind.
type scores []float64

const (
	window   = 8    // epochs that are remembered
	minNoise = 0.01 // least difference of two scores that means something
)

func (s *scores) add(x float64) {
	if *s = append(*s, x); len(*s) > window {
		*s = (*s)[1:]
	}
}

func (s scores) mean() float64 {
	var sum float64
	for _, x := range s {
		sum += x
	}
	return sum / float64(max(1, len(s)))
}

// noise is what a score may differ from the mean by, without a reason: two standard deviations.
func (s scores) noise() float64 {
	if len(s) < 2 {
		return minNoise
	}
	var sum float64
	for _, x := range s {
		sum += (x - s.mean()) * (x - s.mean())
	}
	return max(minNoise, 2*math.Sqrt(sum/float64(len(s)-1)))
}
