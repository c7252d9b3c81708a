package observe

import (
	"math"
	"sync"
	"time"
)

// Load is what an item is expected to want in the next epoch.
type Load struct {
	CPUs    float64 `json:"cpus"`              // CPUs' worth of time it would run if it never waited; 0..1, of a Whole item 0..its threads
	Error   float64 `json:"error"`             // how far predictions of CPUs were off of late, on average
	Run     float64 `json:"run"`               // what it got in the last epoch, in CPUs
	Wait    float64 `json:"wait"`              // and how much it waited, in CPUs
	Wakeups float64 `json:"wakeups"`           // a second, of late
	Latency bool    `json:"latency,omitempty"` // it wakes often and runs briefly: waits hurt
	Hog     bool    `json:"hog,omitempty"`     // it takes a CPU for as long as it gets one
	Method  string  `json:"method"`            // the predictor used: "last", "fast", "slow", "trend" or "regression"
	Epochs  int     `json:"epochs"`            // seen; 0: nothing is known of it
}

// What makes an item a latency item or a hog.
const (
	latencyRun     = 2 * time.Millisecond // most it runs after a wake-up, on average
	latencyWakeups = 5                    // fewest wake-ups a second
	latencyLoad    = 0.5                  // most it wants
	hogLoad        = 0.9                  // fewest CPUs it wants
)

// How predictors are chosen: by their absolute errors, each epoch's counting errorDecay of the next one's. Another one than the last value must be
// better than that by winMargin.
const (
	errorDecay = 0.95
	winMargin  = 0.97
	warmUp     = 8 // epochs in which the last value is used
)

// methods are the names of the predictors, in the order of forecast.
var methods = [...]string{"last", "fast", "slow", "trend", "regression"}

// Predictor learns what each item does, epoch by epoch. The zero value is ready; any goroutine may use it. It grows with the names that it
// is told and not made to Forget.
type Predictor struct {
	mu    sync.Mutex
	items map[string]*forecaster // protected by mu
}

// forecaster predicts one item.
type forecaster struct {
	load    Load
	limit   float64 // CPUs
	epochs  int
	burst   float64 // seconds run per wake-up, smoothed
	wakeups float64 // a second, smoothed
	demand  float64 // smoothed

	next   [len(methods)]float64 // forecast of each method
	errors [len(methods)]float64 // decayed sums of absolute errors
	weight float64               // decayed number of them

	fast, slow   float64
	level, slope float64
	regression   regression
}

// Observe tells what an item did in an epoch of length dt: the difference of two samples. An epoch of no or negative length counts for nothing.
func (p *Predictor) Observe(name string, dt time.Duration, delta Sample) {
	if dt <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.items[name]
	if f == nil {
		f = &forecaster{}
		if p.items == nil {
			p.items = map[string]*forecaster{}
		}
		p.items[name] = f
	}
	f.observe(dt.Seconds(), delta)
}

// Predict says what is expected of an item in the next epoch. Of one never observed, Epochs is 0 and so is the rest.
func (p *Predictor) Predict(name string) Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.items[name]; f != nil {
		return f.load
	}
	return Load{}
}

// Forget drops what was learned of an item.
func (p *Predictor) Forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.items, name)
}

// demand is how much an item would run if it never waited. Of one that sleeps between its bursts, the waits are taken out and the sleep is left
// as it is; one that never sleeps wants all it can get.
func demand(run, wait float64) float64 {
	if run+wait >= 1 {
		return run + wait
	}
	return run / (1 - wait)
}

func (f *forecaster) observe(dt float64, d Sample) {
	f.limit = float64(max(1, d.Threads))
	run := clamp(d.Run.Seconds()/dt, f.limit)
	wait := clamp(d.Wait.Seconds()/dt, f.limit)
	y := clamp(demand(run, wait), f.limit)
	f.learn(y)
	best := f.best()
	f.classify(dt, d, y)
	f.load = Load{CPUs: f.next[best], Error: f.errors[best] / math.Max(1, f.weight), Run: run, Wait: wait, Wakeups: f.wakeups,
		Latency: f.load.Latency, Hog: f.load.Hog, Method: methods[best], Epochs: f.epochs}
}

// learn scores the forecasts of y, then makes the next.
func (f *forecaster) learn(y float64) {
	if f.epochs == 0 {
		f.fast, f.slow, f.level = y, y, y
		f.regression.begin(y)
	} else {
		f.weight = f.weight*errorDecay + 1
		for i, x := range f.next {
			f.errors[i] = f.errors[i]*errorDecay + math.Abs(x-y)
		}
		f.fast += 0.5 * (y - f.fast)
		f.slow += 0.1 * (y - f.slow)
		level := f.level
		f.level += f.slope + 0.5*(y-f.level-f.slope)
		f.slope += 0.2 * (f.level - level - f.slope)
		f.regression.learn(y)
	}
	f.epochs++
	for i, x := range [...]float64{y, f.fast, f.slow, f.level + f.slope, f.regression.forecast()} {
		f.next[i] = clamp(x, f.limit)
	}
}

// best is the method with the smallest error of late.
func (f *forecaster) best() int {
	best, least := 0, f.errors[0]*winMargin
	if f.epochs < warmUp {
		return 0
	}
	for i := 1; i < len(methods); i++ {
		if f.errors[i] < least {
			best, least = i, f.errors[i]
		}
	}
	return best
}

// classify tells latency items and hogs, by what they did in the last few epochs.
func (f *forecaster) classify(dt float64, d Sample, y float64) {
	keep := 0.7
	if f.epochs == 1 {
		keep = 0
	}
	burst := d.Run.Seconds() / float64(max(1, d.Voluntary))
	f.burst = keep*f.burst + (1-keep)*burst
	f.wakeups = keep*f.wakeups + (1-keep)*float64(d.Voluntary)/dt
	f.demand = keep*f.demand + (1-keep)*y
	f.load.Hog = f.demand > hogLoad
	f.load.Latency = f.demand < latencyLoad && f.burst < latencyRun.Seconds() && f.wakeups >= latencyWakeups
}

// clamp keeps x within 0..top; what is no number is 0.
func clamp(x, top float64) float64 {
	if !(x > 0) {
		return 0
	}
	return math.Min(x, top)
}
