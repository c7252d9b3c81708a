package svmlane

import "strings"

// outcome is how one test or subtest ended, in the words of `go test -v`.
type outcome string

const (
	pass       outcome = "PASS"
	fail       outcome = "FAIL"
	skip       outcome = "SKIP"
	unfinished outcome = "" // its end was never printed
)

// test is one test or subtest of a binary's output.
type test struct {
	name    string // full, with slashes
	outcome outcome
	output  []string // what it printed or logged, line by line
	subs    []*test  // in the order in which they began
}

// report collects a test binary's verbose output (-test.v=true or =test2json) by test.
type report struct {
	tests   []*test // top-level ones, in the order in which they began
	output  []string
	byName  map[string]*test
	current *test // whose output comes; nil: the binary's own
}

// line takes the next line of output.
func (r *report) line(s string) {
	// With test2json the testing package puts ^V before its own lines, which may begin behind a test's open line.
	if text, own, ok := strings.Cut(s, "\x16"); ok {
		if text != "" {
			r.print(text)
		}
		s = own
	}
	if name, ok := begun(s); ok {
		r.current = nil
		if name != "" { // empty: what follows is the binary's own
			r.current = r.find(name)
		}
		return
	}
	if name, result, ok := ended(s); ok {
		t := r.find(name)
		t.outcome = result
		r.current = t
		return
	}
	if s == "PASS" || s == "FAIL" {
		r.current = nil
	}
	r.print(s)
}

// print files a line under whose it is.
func (r *report) print(s string) {
	if r.current == nil {
		r.output = append(r.output, s)
		return
	}
	r.current.output = append(r.current.output, s)
}

// find returns the test of that name; a new one is filed under its parent.
func (r *report) find(name string) *test {
	if t := r.byName[name]; t != nil {
		return t
	}
	if r.byName == nil {
		r.byName = make(map[string]*test)
	}
	t := &test{name: name}
	r.byName[name] = t
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		p := r.find(name[:i])
		p.subs = append(p.subs, t)
	} else {
		r.tests = append(r.tests, t)
	}
	return t
}

// begun recognises the lines after which output belongs to another test.
func begun(s string) (name string, ok bool) {
	for _, p := range []string{"=== RUN   ", "=== NAME  ", "=== CONT  ", "=== PAUSE "} {
		if name, ok := strings.CutPrefix(s, p); ok {
			return name, true
		}
	}
	return "", false
}

// ended recognises a line like "    --- PASS: TestX/sub (0.01s)".
func ended(s string) (name string, o outcome, ok bool) {
	s, ok = strings.CutPrefix(strings.TrimLeft(s, " "), "--- ")
	if !ok {
		return "", "", false
	}
	result, rest, ok := strings.Cut(s, ": ")
	if !ok {
		return "", "", false
	}
	i := strings.LastIndex(rest, " (")
	if i <= 0 || !strings.HasSuffix(rest, "s)") {
		return "", "", false
	}
	switch o := outcome(result); o {
	case pass, fail, skip:
		return rest[:i], o, true
	}
	return "", "", false
}
