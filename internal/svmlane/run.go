package svmlane

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Run runs the test binaries of s in one outer machine and repeats their results as subtests of t: one for each binary
// by its name, below it one for each of its tests. It fails where the lane cannot run, or skips with QENEX_NO_SVM=1.
func Run(t *testing.T, s Spec) {
	t.Helper()
	if err := Available(); err != nil {
		unavailable(t, err)
	}
	s.Binaries = slices.Clone(s.Binaries)
	for i, b := range s.Binaries {
		s.Binaries[i].Args = append([]string{"-test.v=test2json"}, b.Args...)
	}
	reports := make([]report, len(s.Binaries))
	results, err := Exec(t.Context(), s, func(i int, text string) { reports[i].line(text) })
	if err != nil {
		t.Error(err)
	}
	for i, r := range results {
		t.Run(r.Name, func(t *testing.T) { replay(t, r, &reports[i]) })
	}
}

// replay repeats one binary's results on t.
func replay(t *testing.T, r Result, rep *report) {
	for _, sub := range rep.tests {
		t.Run(sub.name, func(t *testing.T) { replayTest(t, sub) })
	}
	logLines(t, rep.output)
	switch {
	case !r.Ran:
		t.Error("the machine ended before this program did")
	case r.ExitCode != 0:
		t.Errorf("exit code %d", r.ExitCode)
	case len(rep.tests) == 0:
		t.Error("exit code 0, but no test was run")
	default:
		t.Logf("ran in the svm lane in %v", r.Elapsed)
	}
}

// replayTest repeats one test's result on t.
func replayTest(t *testing.T, src *test) {
	for _, sub := range src.subs {
		t.Run(strings.TrimPrefix(sub.name, src.name+"/"), func(t *testing.T) { replayTest(t, sub) })
	}
	logLines(t, src.output)
	switch src.outcome {
	case fail:
		t.Fail()
	case skip:
		t.SkipNow()
	case unfinished:
		t.Error("did not finish")
	}
}

func logLines(t *testing.T, lines []string) {
	if len(lines) > 0 {
		t.Log("\n" + strings.Join(lines, "\n"))
	}
}

// unavailable ends a test that needs the lane: as a failure, unless skipping is allowed.
func unavailable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv(SkipEnv) == "1" {
		t.Skipf("NOT TESTED, %s=1: %v", SkipEnv, err)
	}
	t.Fatalf("%v (%s=1 makes this a skip)", err, SkipEnv)
}

// Available says why the lane cannot run on this host; the error wraps ErrUnavailable. Nil: it can.
func Available() error {
	_, err := findHost()
	return err
}
