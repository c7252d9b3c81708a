package svmlane

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// probe builds testdata/probe as a test binary and returns its path and a directory with the file it looks for.
func probe(t *testing.T) (binary, data string) {
	t.Helper()
	dir := t.TempDir()
	binary, data = filepath.Join(dir, "probe.test"), filepath.Join(dir, "data")
	build := exec.Command("go", "test", "-c", "-o", binary, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return binary, data
}

// TestRun proves that KVM works in the outer machine, with files and environment handed in.
func TestRun(t *testing.T) {
	binary, data := probe(t)
	Run(t, Spec{
		Binaries: []Binary{{
			Name: "probe", Path: binary, TestData: data,
			Args: []string{"-test.run", "TestKVM|TestSVM|TestHandedIn|TestSkips"},
			Env:  []string{"PROBE=it's $HOME"},
		}},
		Files:   map[string]string{"/data/hello": filepath.Join(data, "hello")},
		Timeout: time.Minute,
	})
}

// TestExec looks at results that Run would only pass on: a failing binary and its neighbours.
func TestExec(t *testing.T) {
	requireLane(t)
	kvmtest.NoLeaks(t)
	binary, _ := probe(t)
	args := func(run string) []string { return []string{"-test.v=test2json", "-test.run", run} }
	var reports [3]report
	results, err := Exec(t.Context(), Spec{
		Binaries: []Binary{
			{Name: "fails", Path: binary, Args: args("TestFails")},
			{Name: "skips", Path: binary, Args: args("TestSkips")},
			{Name: "is killed", Path: binary, Args: []string{"-test.timeout=1s", "-test.run=TestHangs"}, Env: []string{"PROBE_HANG=1"}},
		},
		Timeout: time.Minute,
	}, func(i int, text string) { reports[i].line(text) })
	if err != nil {
		t.Fatal(err)
	}
	for i, code := range []int{1, 0, 2} {
		if r := results[i]; !r.Ran || r.ExitCode != code || r.Elapsed <= 0 {
			t.Errorf("%s: %+v, want exit code %d", r.Name, r, code)
		}
	}
	fails := reports[0].find("TestFails")
	if fails.outcome != fail || len(fails.subs) != 1 || fails.subs[0].outcome != fail {
		t.Errorf("TestFails: %+v", fails)
	}
	if got := strings.Join(fails.output, "\n"); got != "an open line" {
		t.Errorf("TestFails printed %q", got)
	}
	if got := strings.Join(fails.subs[0].output, "\n"); !strings.Contains(got, "as asked") {
		t.Errorf("TestFails/sub printed %q", got)
	}
	if o := reports[1].find("TestSkips").outcome; o != skip {
		t.Errorf("TestSkips: %q", o)
	}
	if got := strings.Join(reports[2].output, "\n"); !strings.Contains(got, "test timed out") {
		t.Errorf("the hanging program printed %q", got)
	}
}

func TestExecTimeout(t *testing.T) {
	requireLane(t)
	kvmtest.NoLeaks(t)
	binary, _ := probe(t)
	results, err := Exec(t.Context(), Spec{
		Binaries: []Binary{{Name: "probe", Path: binary}},
		Timeout:  200 * time.Millisecond,
	}, func(int, string) {})
	if err == nil || !strings.Contains(err.Error(), "stopped after 200ms") {
		t.Errorf("error %v", err)
	}
	if len(results) != 1 || results[0].Ran {
		t.Errorf("results %+v", results)
	}
}

func TestExecRefuses(t *testing.T) {
	static, _ := probe(t)
	for _, c := range []struct {
		name string
		spec Spec
		want string
	}{
		{"nothing to run", Spec{}, "no test binary"},
		{"missing program", Spec{Binaries: []Binary{{Path: "/nowhere"}}}, "no such file"},
		{"dynamic program", Spec{Binaries: []Binary{{Path: "/bin/sh"}}}, "CGO_ENABLED=0"},
		{"bad environment", Spec{Binaries: []Binary{{Path: static, Env: []string{"x y=1"}}}}, "NAME=VALUE"},
		{"relative file", Spec{Binaries: []Binary{{Path: static}}, Files: map[string]string{"x": static}}, "not absolute"},
		{"missing file", Spec{Binaries: []Binary{{Path: static}}, Files: map[string]string{"/x": "/nowhere"}}, "no such file"},
		{"directory", Spec{Binaries: []Binary{{Path: static}}, Files: map[string]string{"/x": "/tmp"}}, "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Exec(t.Context(), c.spec, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestUnavailable(t *testing.T) {
	static, _ := probe(t)
	t.Setenv("QENEX_CACHE", t.TempDir())
	spec := Spec{Binaries: []Binary{{Path: static}}}
	if _, err := Exec(t.Context(), spec, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without artefacts: %v", err)
	}
	t.Setenv("PATH", "")
	if err := Available(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("without QEMU: %v", err)
	}
}

// requireLane fails where the lane cannot run, or skips with QENEX_NO_SVM=1.
func requireLane(t *testing.T) {
	t.Helper()
	if err := Available(); err != nil {
		unavailable(t, err)
	}
}
