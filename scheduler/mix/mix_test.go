package mix

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty one has a median")
	}
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Microsecond)
	}
	h.Add(-1)
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 1: time.Millisecond} {
		if got := h.Quantile(q); got < want || float64(got) > 1.13*float64(want) {
			t.Errorf("quantile %v: %v, want %v to 12.5 %% more", q, got, want)
		}
	}
	h.Add(math.MaxInt64)
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back Histogram
	if err := json.Unmarshal(text, &back); err != nil || back != h {
		t.Errorf("%s: %v", text, err)
	}
	back.Merge(&h)
	if back.Count() != 2*h.Count() {
		t.Errorf("merged: %d, of %d twice", back.Count(), h.Count())
	}
	for i := range buckets - 1 { // edges are where the next bucket begins
		if bucket(edge(i)-1) != i || bucket(edge(i)) != i+1 {
			t.Fatalf("bucket %d ends at %v", i, edge(i))
		}
	}
}

func TestReport(t *testing.T) {
	r := Report{Kind: Lock, Ops: 1, Elapsed: time.Second}
	r.Times.Add(time.Millisecond)
	var b bytes.Buffer
	b.WriteString("noise\n" + readyLine + "\n")
	if err := r.write(&b); err != nil {
		t.Fatal(err)
	}
	if got, err := parseReport(b.Bytes(), Lock, time.Second); err != nil || *got != r {
		t.Errorf("%+v, %v", got, err)
	}
	for want, text := range map[string]string{
		"no report":     "nothing",
		"unexpected":    reportMark,
		"kind":          reportMark + `{"kind":"hog","ops":1,"elapsed":1,"times":[]}`,
		"passed in":     reportMark + `{"kind":"lock","ops":1,"elapsed":0,"times":[]}`,
		"-5ns passed":   reportMark + `{"kind":"lock","ops":1,"elapsed":-5,"times":[]}`,
		"1 measured":    reportMark + `{"kind":"lock","ops":5,"elapsed":1,"times":[3,1]}`,
		"bucket 4":      reportMark + `{"kind":"lock","ops":2,"elapsed":1,"times":[5,1,4,1]}`,
		"without":       reportMark + `{"kind":"lock","ops":2,"elapsed":1,"times":[5]}`,
		"bucket 99999":  reportMark + `{"kind":"lock","ops":2,"elapsed":1,"times":[99999,1]}`,
		"unknown field": reportMark + `{"kind":"lock","x":2}`,
	} {
		if _, err := parseReport([]byte(text), Lock, time.Second); err == nil || !strings.Contains(err.Error(), want) && want != "unexpected" {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(reportMark + `{"kind":"lock","ops":2,"elapsed":1000,"times":[5,1,7,1]}`))
	f.Add([]byte("a\n" + reportMark + `{"times":[327,281474976710656]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseReport(text, Lock, time.Second)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := r.write(&b); err != nil {
			t.Fatal(err)
		}
		if again, err := parseReport(b.Bytes(), Lock, time.Second); err != nil || *again != *r {
			t.Errorf("%q became %q, which is %v", text, b.Bytes(), err)
		}
		if n := r.Times.Count(); n > 0 && (n != r.Ops || r.Times.Quantile(0.99) <= 0) {
			t.Errorf("%q: %d of %d measured", text, n, r.Ops)
		}
	})
}

// TestOutputIsBounded checks that a guest cannot make the host keep what it prints.
func TestOutputIsBounded(t *testing.T) {
	g := &guest{ready: make(chan struct{})}
	piece := bytes.Repeat([]byte{'x'}, 1000)
	for range 100 {
		if n, err := g.Write(piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(g.said()) != mostOutput {
		t.Errorf("%d bytes kept", len(g.said()))
	}
	g = &guest{ready: make(chan struct{})}
	for _, c := range []byte(readyLine + "\n" + readyLine + "\n") {
		if _, err := g.Write([]byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-g.ready:
	default:
		t.Error("not ready after it said so in pieces")
	}
}

func TestMixes(t *testing.T) {
	all := Mixes()
	if len(all) != 5 {
		t.Errorf("%d mixes", len(all))
	}
	for _, m := range all {
		if err := m.check(); err != nil || len(m.Guests) < 4 || len(m.Guests) > 12 {
			t.Errorf("%s: %d guests, %v", m.Name, len(m.Guests), err)
		}
		if got, err := Named(m.Name); err != nil || got.Name != m.Name {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	if _, err := Named("none"); err == nil || !strings.Contains(err.Error(), "gangs") {
		t.Errorf("%v", err)
	}
	for name, guests := range map[string][]Guest{
		"nobody":        {},
		"no name":       {{"", Hog, 0, -1}},
		"unknown kind":  {{"a", "x", 0, -1}},
		"lock, no gang": {{"a", Lock, 0, -1}},
		"gang of hogs":  {{"a", Hog, 1, -1}},
		"gang too high": {{"a", Lock, 64, -1}},
		"hog with peer": {{"a", Hog, 0, 0}},
		"own peer":      {{"a", Ping, 0, 0}},
		"no peer":       {{"a", Ping, 0, -1}},
		"two pings":     {{"a", Ping, 0, 1}, {"b", Ping, 0, 0}},
		"one-sided":     {{"a", Ping, 0, 1}, {"b", Pong, 0, 2}, {"c", Ping, 0, 1}},
	} {
		if m := (Mix{Name: name, Guests: guests}); m.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseLoad(t *testing.T) {
	l, err := parseLoad([]string{"kind=lock", "length=2s", "page=/p", "gang=3"})
	if err != nil || l.kind != Lock || l.length != 2*time.Second || l.page != "/p" || l.gang != 3 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"", "length=1s x=1", "length=-1s", "length=2h", "length=1s gang=64", "length=1s gang=-1", "length=1s gang=x"} {
		if _, err := parseLoad(strings.Fields(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestSchedValue(t *testing.T) {
	text := []byte("x (1, #threads: 1)\nse.nr_migrations   :     17\nnr_switches : -1\nbroken")
	if n := schedValue(text, "se.nr_migrations"); n != 17 {
		t.Errorf("%d", n)
	}
	if n := schedValue(text, "nr_switches") + schedValue(text, "broken") + schedValue(nil, "x"); n != 0 {
		t.Errorf("%d", n)
	}
}

func TestRows(t *testing.T) {
	results := []*Result{
		{Mix: "a", Policy: "kernel", Locks: 100, LockP99: 4e-3, Fairness: 1},
		{Mix: "a", Policy: "x", Locks: 200, LockP99: 2e-3, Fairness: 1},
		{Mix: "b", Policy: "x", HogUnits: 5, Fairness: 1},
		{Mix: "a", Policy: "x", Locks: 400, LockP99: 1e-3, Fairness: 0.5},
		{Mix: "a", Policy: "x", Locks: 150, LockP99: 2e-3, Fairness: 0.9},
	}
	rows := Rows(results)
	if len(rows) != 3 || rows[0].Policy != "kernel" || rows[1].Policy != "x" || rows[2].Mix != "b" {
		t.Fatalf("%+v", rows)
	}
	x := rows[1]
	if rows[0].Score != 1 || x.Runs != 3 || x.Median.Locks != 200 || x.Median.Fairness != 0.9 || math.Abs(x.Score-1.8) > 1e-9 || x.High != 2 || x.Low >= x.Score {
		t.Errorf("%+v", x)
	}
	if rows[2].Score != 0 { // nothing to compare with
		t.Errorf("%+v", rows[2])
	}
	var b strings.Builder
	if err := Markdown(&b, rows); err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(b.String()))
	for _, l := range lines {
		if strings.Count(l, "|") != strings.Count(lines[0], "|") {
			t.Errorf("columns: %s", l)
		}
	}
	if !strings.Contains(b.String(), "| a | x | 3 | 1.80 (") {
		t.Errorf("%s", b.String())
	}
	if s := (&Result{Locks: 1, Fairness: 1}).Score(&Result{Fairness: 1}); s != 0 {
		t.Errorf("score against nothing: %v", s)
	}
}

func TestJain(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   float64
	}{{nil, 1}, {[]float64{0, 0}, 1}, {[]float64{3, 3, 3}, 1}, {[]float64{1, 0, 0, 0}, 0.25}} {
		if got := jain(c.shares); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v: %v, want %v", c.shares, got, c.want)
		}
	}
}

func TestProblem(t *testing.T) {
	m := Make("m", 1, 1, 1, 1)
	p := m.Problem(nil)
	if len(p.VCPUs) != 6 || len(p.Links) != 1 || p.Links[0].A != 2 || p.Links[0].B != 3 || p.VCPUs[1].Gang != 1 || !p.VCPUs[4].Latency || p.VCPUs[5].Latency {
		t.Errorf("%+v", p)
	}
	if _, err := PolicyNamed("none", 1); err == nil {
		t.Error("no error")
	}
	if got := len(Policies(1)); got != 7 {
		t.Errorf("%d policies", got)
	}
}
