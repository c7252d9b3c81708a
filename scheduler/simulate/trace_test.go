package simulate

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTracesComeBack(t *testing.T) {
	for _, mix := range Mixes {
		for _, size := range Sizes {
			tr, err := Generate(mix, size, Training(1))
			if err != nil {
				t.Fatal(err)
			}
			again, _ := Generate(mix, size, Training(1))
			other, _ := Generate(mix, size, Training(2))
			if !reflect.DeepEqual(tr, again) || reflect.DeepEqual(tr.VCPUs, other.VCPUs) {
				t.Errorf("%s, %s: the seed does not decide the trace", mix, size)
			}
			if n := len(tr.VCPUs); size == "small" && (n < 4 || n > 12) || size == "large" && (n < 1500 || n > 2500) {
				t.Errorf("%s, %s: %d vCPUs", mix, size, n)
			}
			var b bytes.Buffer
			if err := tr.Write(&b); err != nil {
				t.Fatal(err)
			}
			back, err := Read(&b)
			if err != nil || !reflect.DeepEqual(tr, back) {
				t.Errorf("%s, %s: does not come back: %v", mix, size, err)
			}
		}
	}
	if _, err := Generate("what", "small", 1); err == nil {
		t.Error("an unknown mix was made")
	}
	if _, err := Generate("batch", "huge", 1); err == nil {
		t.Error("an unknown size was made")
	}
}

const header = `{"qenex_trace":1,"kind":"x","seed":1,"length":1000000}` + "\n"

func TestBadTraces(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "version 0",
		"x":                                  "line 1",
		"{}":                                 "line 1",
		header:                               "0 vCPUs",
		`{"qenex_trace":2,"length":1}`:       "line 1",
		header + `{"name":"a","program":[]}`: "0 steps",
		header + `{"name":"a","program":[{"op":"run"}]}`:                                      "time 0",
		header + `{"name":"a","program":[{"op":"jump","t":1}]}`:                               "unknown",
		header + `{"name":"a","program":[{"op":"run","t":-5}]}`:                               "time -5",
		header + `{"name":"a","program":[{"op":"run","t":1e30}]}`:                             "line 2",
		header + `{"name":"a","program":[{"op":"send","id":70000}]}`:                          "id 70000",
		header + `{"name":"a","program":[{"op":"run","t":5,"jitter":2}]}`:                     "jitter",
		header + `{"name":"a","forever":true,"program":[{"op":"sleep","t":5}]}`:               "repeated",
		header + `{"name":"a","cache":7,"program":[{"op":"run","t":5}]}`:                      "cache",
		header + `{"name":"a","what":7,"program":[{"op":"run","t":5}]}`:                       "line 2",
		header + `{"name":"a","program":[{"op":"run","t":5}]} trailing`:                       "line 2",
		`{"qenex_trace":1,"length":0}` + "\n" + `{"name":"a","program":[{"op":"run","t":5}]}`: "length",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want it to say %q", text, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	tr, err := Generate("mixed", "small", Training(1))
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := tr.Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(header + `{"name":"a","program":[{"op":"recv"},{"op":"lock","t":9}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		tr, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		tr.Length = min(tr.Length, 50*ms) // whatever passes is played, briefly
		if _, err := Run(cpus(2), tr, Kernel(), plain(), Options{}); err != nil && !strings.Contains(err.Error(), "pin") && !strings.Contains(err.Error(), "channel") {
			t.Error(err)
		}
		var b bytes.Buffer
		if err := tr.Write(&b); err != nil {
			t.Error(err)
		}
	})
}

func TestRecorder(t *testing.T) {
	r := NewRecorder()
	if _, err := r.Trace(); err == nil {
		t.Error("an empty recording is a trace")
	}
	for i := range 10 {
		all := []Observed{
			{Name: "hog", Sample: Sample{Run: 60 * ms, Wait: 40 * ms}},
			{Name: "server", VM: "s", Sample: Sample{Run: 10 * ms, Wait: 5 * ms, Voluntary: 50}},
		}
		if i >= 5 {
			all = append(all, Observed{Name: "late", Sample: Sample{Run: 20 * ms, Voluntary: 1}})
		}
		if err := r.Next(100*ms, all); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Next(-1, nil); err == nil {
		t.Error("an epoch of -1 was taken")
	}
	if err := r.Next(100*ms, []Observed{{Name: "hog", Sample: Sample{Run: -1}}}); err == nil {
		t.Error("a negative run time was taken")
	}
	tr, err := r.Trace()
	if err != nil {
		t.Fatal(err)
	}
	res := mustRun(t, cpus(4), tr, Kernel(), plain())
	// With a CPU for each, every vCPU does in the simulation what it was seen to do, and the server sleeps as often.
	hog, server, late := res.VCPUs[0], res.VCPUs[1], res.VCPUs[2]
	if hog.Work != 600*ms || (server.Work-100*ms).Abs() > 10*ms || (late.Work-100*ms).Abs() > 50*ms || late.End < 900*ms || res.Wakes < 500 {
		t.Errorf("work %v, %v, %v, the late one ended at %v, %d wake-ups", hog.Work, server.Work, late.Work, late.End, res.Wakes)
	}
	if server.End < 900*ms || server.End > 1000*ms {
		t.Errorf("the server ended at %v", server.End)
	}
}

// TestRecordedTraces plays what was recorded of real threads. QENEX_RECORD=1 records anew; a machine with little else to do is needed.
func TestRecordedTraces(t *testing.T) {
	if os.Getenv("QENEX_RECORD") != "" {
		record(t)
	}
	files, _ := filepath.Glob("testdata/*.jsonl")
	if len(files) == 0 {
		t.Fatal("testdata has no traces")
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := Read(f)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, p := range Policies(1) {
			if r := mustRun(t, cpus(2), tr, p, DefaultCalibration()); !r.Complete || r.Work < 100*time.Millisecond {
				t.Errorf("%s under %s: complete %v, work %v", name, p.Name(), r.Complete, r.Work)
			}
		}
	}
}
