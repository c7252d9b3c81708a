package svmlane

import (
	"slices"
	"strings"
	"testing"
)

func TestMarks(t *testing.T) {
	m := marks{"word "}
	for line, want := range map[string]frame{
		"":                     {kind: output},
		"some output":          {kind: output, text: "some output"},
		m.begin(3):             {kind: begin, index: 3},
		m.end(3) + "0":         {kind: end, index: 3},
		m.end(12) + "137":      {kind: end, index: 12, code: 137},
		"open line" + m.done(): {kind: done, text: "open line"},
		"word end 1":           {kind: output, text: "word end 1"},
		"word end 1 x":         {kind: output, text: "word end 1 x"},
		"word begin -1":        {kind: output, text: "word begin -1"},
		"word begin 99999999":  {kind: output, text: "word begin 99999999"},
		"word something":       {kind: output, text: "word something"},
		"word done and more 1": {kind: output, text: "word done and more 1"},
	} {
		if got := m.parse(line); got != want {
			t.Errorf("parse(%q) = %+v, want %+v", line, got, want)
		}
	}
	if a, b := newMarks(), newMarks(); a == b {
		t.Errorf("two runs have the same mark %q", a.word)
	}
}

func FuzzMarks(f *testing.F) {
	m := marks{"word "}
	for _, s := range []string{"", "x", m.begin(1), m.end(2) + "3", m.done(), "word end 1 70000", "word word done"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got := m.parse(line)
		if got.kind == output && got.text != line {
			t.Errorf("output %q became %q", line, got.text)
		}
		if !strings.HasPrefix(line, got.text) || got.index < 0 || got.code < 0 {
			t.Errorf("parse(%q) = %+v", line, got)
		}
	})
}

const verbose = `before
=== RUN   TestA
out A
=== RUN   TestA/sub_1
    a_test.go:1: logged
=== PAUSE TestA/sub_1
=== RUN   TestA/sub_2
=== CONT  TestA/sub_1
open` + "\x16" + `=== NAME  TestA
    a_test.go:2: of A
    --- PASS: TestA/sub_1 (0.00s)
    --- SKIP: TestA/sub_2 (0.10s)
--- FAIL: TestA (0.11s)
=== NAME  
between
=== RUN   TestB
--- no result (at all)
panic: B
FAIL`

func TestReport(t *testing.T) {
	var r report
	for _, l := range strings.Split(verbose, "\n") {
		r.line(l)
	}
	for _, c := range []struct {
		name    string
		outcome outcome
		output  []string
	}{
		{"TestA", fail, []string{"out A", "    a_test.go:2: of A"}},
		{"TestA/sub_1", pass, []string{"    a_test.go:1: logged", "open"}},
		{"TestA/sub_2", skip, nil},
		{"TestB", unfinished, []string{"--- no result (at all)", "panic: B"}},
	} {
		if got := r.byName[c.name]; got == nil || got.outcome != c.outcome || !slices.Equal(got.output, c.output) {
			t.Errorf("%s: %+v, want %q %q", c.name, got, c.outcome, c.output)
		}
	}
	if len(r.tests) != 2 || len(r.tests[0].subs) != 2 || len(r.byName) != 4 {
		t.Errorf("%d tests, want TestA with two subtests and TestB", len(r.byName))
	}
	if want := []string{"before", "between", "FAIL"}; !slices.Equal(r.output, want) {
		t.Errorf("the binary's own output %q, want %q", r.output, want)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(verbose)
	f.Add("--- PASS:  (0s)\n--- PASS: / (0s)\n=== RUN   a//b\n=== RUN   /")
	f.Fuzz(func(t *testing.T, text string) {
		var r report
		for _, l := range strings.Split(text, "\n") {
			r.line(l)
		}
		seen := 0
		var walk func([]*test)
		walk = func(list []*test) {
			for _, s := range list {
				seen++
				walk(s.subs)
			}
		}
		if walk(r.tests); seen != len(r.byName) {
			t.Errorf("%d tests in the tree, %d by name", seen, len(r.byName))
		}
	})
}
