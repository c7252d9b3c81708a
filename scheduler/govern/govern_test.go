package govern

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/observe"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

func TestPlanThatPaysIsKept(t *testing.T) {
	w := newWorld(t, 40)
	w.pays = true
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	applied, kept, reverted := w.of(Applied), w.of(Kept), w.of(Reverted)
	if len(applied) != 1 || len(kept) != 1 || len(reverted) != 1 || reverted[0].Reason != "the end" {
		t.Fatalf("%q", w.story())
	}
	if kept[0].Number != applied[0].Number+1 || !(kept[0].Score < kept[0].Baseline-kept[0].Noise) {
		t.Errorf("%+v", kept[0])
	}
	p := applied[0].Plan
	if len(p.Settings) != 3 || len(p.Names) != 3 || !(p.Gain > 0) || applied[0].Report.Changed != 3 {
		t.Errorf("%+v", p)
	}
	for _, e := range w.events {
		if _, err := json.Marshal(e); err != nil {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

func TestPlanThatDoesNotPay(t *testing.T) {
	w := newWorld(t, 200)
	const arrival = 150
	w.script[arrival] = func() { w.add("late", 0.3, false) }
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	var at []int
	events := w.of(Applied, Reverted)
	for i, e := range events {
		if e.Kind == Reverted {
			continue
		}
		at = append(at, e.Number)
		if next := events[i+1]; next.Kind != Reverted || next.Number > e.Number+1 {
			t.Errorf("the plan of epoch %d stays until epoch %d", e.Number, next.Number)
		}
	}
	k := slices.IndexFunc(at, func(n int) bool { return n > arrival })
	if k < 5 || at[k] > arrival+baselineEpochs+3 {
		t.Fatalf("applied in epochs %d, one guest more in %d", at, arrival)
	}
	for i := 3; i < k; i++ {
		if at[i]-at[i-1] <= at[i-1]-at[i-2] {
			t.Errorf("applied in epochs %d: too soon again", at[:k])
		}
	}
}

func TestNoBetterIsNoReason(t *testing.T) {
	w := newWorld(t, 30)
	w.pays = true
	w.guests["server"].latency = false // whose wait the plan does not change
	w.guests["hog0"].run, w.guests["hog1"].run = 0.5, 0.5
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	kept := w.of(Kept)
	if len(kept) != 1 || len(w.of(Measured)) != trialEpochs || kept[0].Score > kept[0].Baseline+kept[0].Noise {
		t.Errorf("%q", w.story())
	}
}

func TestKeptPlanThatTurnsBad(t *testing.T) {
	w := newWorld(t, 60)
	w.pays = true
	w.script[30] = func() { w.pays = false }
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	reverted := w.of(Reverted)
	if len(reverted) < 2 || reverted[0].Number != 32 || !strings.Contains(reverted[0].Reason, "worse") {
		t.Errorf("%q", w.story())
	}
}

func TestRecheck(t *testing.T) {
	w := newWorld(t, 60)
	w.pays = true
	if err := w.govern(Config{Recheck: 20}); err != nil {
		t.Fatal(err)
	}
	applied := w.of(Applied)
	if len(applied) < 2 || applied[1].Number > applied[0].Number+20+baselineEpochs+1 {
		t.Errorf("%q", w.story())
	}
}

func TestDrift(t *testing.T) {
	w := newWorld(t, 60)
	w.pays = true
	w.add("idler", 0.05, false)
	w.script[20] = func() { w.guests["idler"].run, w.guests["hog0"].run = 0.95, 0.1 }
	if err := w.govern(Config{Hysteresis: 1e-9}); err != nil {
		t.Fatal(err)
	}
	planned := w.of(Planned)
	if !slices.ContainsFunc(planned, func(e Event) bool { return e.Number > 20 && e.Number < 40 }) {
		t.Errorf("%q", w.story())
	}
}

func TestGuestsAndCPUsGo(t *testing.T) {
	w := newWorld(t, 60)
	w.pays = true
	w.script[20] = func() { w.guests["hog0"].gone = true }
	w.script[35] = func() { w.topology = host.Synthetic(1, 1, 1, 1, 1) }
	w.script[50] = func() { clear(w.guests) }
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, e := range w.of(Reverted, StoodAside) {
		reasons = append(reasons, fmt.Sprint(e.Number, " ", e.Reason))
	}
	for _, want := range []string{"21 hog0 went", "there is one CPU", "there are no guests"} {
		if !slices.ContainsFunc(reasons, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("nothing says %q: %q", want, reasons)
		}
	}
	for _, e := range w.of(Applied) {
		if e.Number > 35 {
			t.Errorf("applied in epoch %d, on one CPU", e.Number)
		}
	}
}

func TestNothingToGain(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*world)
		reason string
	}{
		{"no guests", func(w *world) { clear(w.guests) }, "there are no guests"},
		{"one CPU", func(w *world) { w.topology = host.Synthetic(1, 1, 1, 1, 1) }, "there is one CPU"},
		{"idle", func(w *world) {
			for _, g := range w.guests {
				g.run = 0
			}
		}, "all guests are idle"},
		{"pinned nowhere", func(w *world) { w.guests["hog0"].item.Pin = []int{99} }, "hog0"},
	} {
		w := newWorld(t, 30)
		c.change(w)
		if err := w.govern(Config{}); err != nil {
			t.Fatal(err)
		}
		aside := w.of(StoodAside)
		if len(aside) != 1 || !strings.Contains(aside[0].Reason, c.reason) || len(w.of(Applied)) != 0 {
			t.Errorf("%s: %q", c.name, w.story())
		}
	}
}

func TestHysteresis(t *testing.T) {
	w := newWorld(t, 30)
	w.guests["server"].latency = false // no other reason to apply one
	if err := w.govern(Config{Hysteresis: 10}); err != nil {
		t.Fatal(err)
	}
	if len(w.of(Applied)) != 0 || len(w.of(Planned)) < 3 || len(w.of(StoodAside)) != 1 {
		t.Errorf("%q", w.story())
	}
}

func TestFindFails(t *testing.T) {
	w := newWorld(t, 40)
	w.pays = true
	w.script[15] = func() { w.findErr = errWorld }
	w.script[25] = func() { w.findErr = nil }
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	applied, reverted := w.of(Applied), w.of(Reverted)
	if len(w.of(Failed)) != 10 || len(applied) != 2 || reverted[0].Number != 15+findFailures || applied[1].Number <= 25 {
		t.Errorf("%q", w.story())
	}
}

func TestApplyFails(t *testing.T) {
	w := newWorld(t, 40)
	w.applyErr = errWorld
	if err := w.govern(Config{}); !errors.Is(err, errWorld) {
		t.Errorf("%v", err)
	}
	if w.epoch >= 40 {
		t.Error("it went on")
	}
}

func TestShare(t *testing.T) {
	w := newWorld(t, 60)
	w.cost = 50 * time.Millisecond
	begin := w.now
	if err := w.govern(Config{}); err != nil {
		t.Fatal(err)
	}
	if share := w.cpu.Seconds() / w.now.Sub(begin).Seconds(); share > 0.00501 {
		t.Errorf("%.4f of a CPU was used", share)
	}
	last := w.events[len(w.events)-1]
	if last.Epoch < 9*time.Second || last.Share > 0.00501 {
		t.Errorf("%+v", last)
	}
}

func TestPinsGangsAndWideGuests(t *testing.T) {
	w := newWorld(t, 30)
	w.pays = true
	w.topology = host.Synthetic(1, 1, 1, 4, 1)
	w.guests["hog0"].item.Pin = []int{2}
	wide := w.add("wide", 1.9, false)
	wide.item.Whole, wide.item.TIDs = true, []int{1, 2, 3}
	// What a plan has set looks like a pin from outside.
	w.script[3] = func() { w.guests["hog1"].item.Pin = []int{0} }
	prepared := 0
	c := Config{Prepare: func(p *plan.Problem, vcpus []observe.Item) {
		prepared++
		if len(p.VCPUs) != len(vcpus) || len(vcpus) != 5 {
			t.Errorf("%d vCPUs, %d items", len(p.VCPUs), len(vcpus))
		}
		for i := range p.VCPUs {
			if p.VCPUs[i].Name == "hog1" && p.VCPUs[i].Pin != nil {
				t.Errorf("%+v", p.VCPUs[i])
			}
		}
	}}
	if err := w.govern(c); err != nil {
		t.Fatal(err)
	}
	applied := w.of(Applied)
	if len(applied) == 0 || prepared == 0 {
		t.Fatalf("%q", w.story())
	}
	p := applied[0].Plan
	for i, name := range p.Names {
		switch cpus := p.Settings[i].CPUs; {
		case name == "hog0" && !slices.Equal(cpus, []int{2}), name == "wide" && len(cpus) < 2:
			t.Errorf("%s is placed on %v", name, cpus)
		}
	}
}

func TestScore(t *testing.T) {
	for _, c := range []struct {
		items []Item
		score float64
		ok    bool
	}{
		{nil, 0, false},
		{[]Item{{}}, 0, false},
		{[]Item{{Run: math.NaN()}}, 0, false},
		{[]Item{{Wait: 2}}, 1.5, true},
		{[]Item{{Run: 1}}, 0, true},
		{[]Item{{Run: 0.5, Wait: 0.5}, {Run: 1}, {}}, 0.25 + 0.5/2, true},
		{[]Item{{Run: 0.5, Wait: 0.5}, {Run: 0.5, Wait: 0.5}, {Run: 1}}, 1.0 / 3, true},
		{[]Item{{Run: 0.5, Wait: 1.5}}, 0.5 + 0.5/2, true},
		{[]Item{{Run: 1.5, Wait: 1.5}, {Run: 0.5}}, 0.125, true},
		{[]Item{{Run: 0.05, Wait: 0.05, Latency: true}, {Run: 1}}, 0.4 + 0.05/2, true},
		{[]Item{{Run: 0.5, Wait: 0.5, Gang: 7}, {Run: 1, Gang: 7}, {Run: 1}, {Gang: 7}}, 0.2, true},
	} {
		if score, ok := Score(c.items, 2); math.Abs(score-c.score) > 1e-12 || ok != c.ok {
			t.Errorf("%+v: %v %v", c.items, score, ok)
		}
	}
}

func TestNonsense(t *testing.T) {
	for _, c := range []Config{{Epoch: -1}, {Budget: -1}, {Recheck: -1}, {Share: -1}, {Share: 2}, {Share: math.NaN()}, {Hysteresis: math.NaN()}, {Hysteresis: math.Inf(1)}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v", c)
		}
	}
}
