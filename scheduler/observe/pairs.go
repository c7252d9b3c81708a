package observe

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// Link says that two items wake each other.
type Link struct {
	A    string  `json:"a"` // the name of an item, before B's in the alphabet
	B    string  `json:"b"`
	Rate float64 `json:"rate"` // wake-ups a second
}

const (
	pairWindow  = 32  // epochs that are compared
	pairEpochs  = 8   // fewest of them with something to compare
	pairRate    = 20  // fewest times a second that an item of a link goes to sleep
	pairNoise   = 1.5 // least change of its count from epoch to epoch: clocks that tick alike are no pair
	pairLearn   = 4   // changes that the usual one is the mean of, before it follows them slowly
	pairCrowd   = 6   // fewest items that can show that something struck all of them
	pairClip    = 2   // most that one change counts for, in usual changes: one jolt that all feel makes no pairs
	pairLink    = 4.5 // standard errors that the changes must agree by, to begin a link
	pairAlike   = 0.7 // and their correlation
	pairKeep    = 0.5 // correlation that keeps one
	pairAll     = 256 // up to so many items, each is compared with each
	pairBeside  = 64  // beyond, with so many that follow it by rate
	pairForgive = 0.01
)

// Pairs learns which items wake each other, from nothing but how often each goes to sleep: of two that play ping-pong, the counts rise and
// fall together, epoch by epoch. The zero value is ready; any goroutine may use it. Its memory grows with the items seen in the last 32
// epochs, not with their pairs. A pair whose counts never vary, as of a slow clock, is not found; a link that was chance goes away.
type Pairs struct {
	mu     sync.Mutex
	epoch  int                 // protected by mu
	items  map[string]*changes // protected by mu
	linked map[[2]string]bool  // protected by mu
}

// changes is how an item's rate of going to sleep has changed.
type changes struct {
	name   string
	seen   int     // the epoch it was last seen in
	epochs int     // seen one after another
	last   float64 // a second
	rate   float64 // smoothed
	usual  float64 // size of a change, smoothed
	z      [pairWindow]float64
	sum    float64 // of z squared; set by Links
	count  int     // of z that are not 0; set by Links
	best   float64 // correlation with any other; set by Links
}

// Observe tells what the items did in an epoch of length dt, by name. It is called once an epoch, with all items.
func (p *Pairs) Observe(dt time.Duration, deltas map[string]Sample) {
	if dt <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.items == nil {
		p.items, p.linked = map[string]*changes{}, map[[2]string]bool{}
	}
	p.epoch++
	at := p.epoch % pairWindow
	var moved []float64
	for name, d := range deltas {
		c := p.items[name]
		if c == nil {
			c = &changes{name: name, seen: -1}
			p.items[name] = c
		}
		if c.observe(at, c.seen == p.epoch-1, float64(d.Voluntary), dt.Seconds()) {
			moved = append(moved, c.z[at])
		}
		c.seen = p.epoch
	}
	slices.Sort(moved)
	jolt := len(moved) >= pairCrowd && math.Abs(moved[len(moved)/2]) > 1 // all moved alike: that tells nothing of any two
	for name, c := range p.items {
		if p.epoch-c.seen >= pairWindow {
			delete(p.items, name)
		} else if jolt || c.seen != p.epoch {
			c.z[at] = 0
		}
	}
}

// observe notes the change of an item's rate, in usual changes, and tells whether it says anything.
func (c *changes) observe(at int, next bool, count, dt float64) bool {
	rate := count / dt
	change := rate - c.last
	c.last = rate
	c.z[at] = 0
	if !next {
		c.epochs, c.rate = 0, rate
		return false
	}
	c.epochs++
	c.rate += 0.2 * (rate - c.rate)
	if c.epochs <= pairLearn {
		c.usual += (math.Abs(change) - c.usual) / float64(c.epochs)
	} else {
		c.usual += 0.2 * (min(math.Abs(change), pairClip*c.usual) - c.usual)
	}
	if rate < pairRate || c.usual*dt < pairNoise {
		return false
	}
	c.z[at] = min(max(change/c.usual, -pairClip), pairClip)
	return true
}

// Links returns the links learned so far, those of the highest rates first.
func (p *Pairs) Links() []Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	active := p.active()
	type pair struct {
		a, b  *changes
		alike float64
	}
	var pairs []pair
	for i, a := range active {
		beside := active[i+1:]
		if len(active) > pairAll {
			beside = beside[:min(len(beside), pairBeside)]
		}
		for _, b := range beside {
			dot := 0.0
			for k := range a.z {
				dot += a.z[k] * b.z[k]
			}
			alike := dot / math.Sqrt(a.sum*b.sum)
			a.best, b.best = max(a.best, alike), max(b.best, alike)
			if alike >= pairKeep {
				pairs = append(pairs, pair{a, b, alike})
			}
		}
	}
	linked := map[[2]string]bool{}
	var links []Link
	for _, c := range pairs {
		names := [2]string{min(c.a.name, c.b.name), max(c.a.name, c.b.name)}
		// Changes from one epoch to the next swing back: 3 of them tell as much as 2 that do not.
		errors := math.Atanh(min(c.alike, 1-1e-12)) * math.Sqrt(max(0, float64(min(c.a.count, c.b.count))/1.5-3))
		// Items that suffer together are alike as well, but less than those that wake each other.
		nearest := 1-c.alike <= 2*(1-max(c.a.best, c.b.best))+pairForgive
		if p.linked[names] || c.alike >= pairAlike && errors >= pairLink && nearest {
			linked[names] = true
			links = append(links, Link{names[0], names[1], min(c.a.rate, c.b.rate)})
		}
	}
	p.linked = linked
	slices.SortFunc(links, func(a, b Link) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), strings.Compare(a.A, b.A), strings.Compare(a.B, b.B))
	})
	return links
}

// active returns the items that can be compared, by rate.
func (p *Pairs) active() []*changes {
	var active []*changes
	for _, c := range p.items {
		c.sum, c.count, c.best = 0, 0, 0
		for _, z := range c.z {
			c.sum += z * z
			if z != 0 {
				c.count++
			}
		}
		if c.count >= pairEpochs && c.rate >= pairRate {
			active = append(active, c)
		}
	}
	slices.SortFunc(active, func(a, b *changes) int { return cmp.Or(cmp.Compare(a.rate, b.rate), strings.Compare(a.name, b.name)) })
	return active
}
