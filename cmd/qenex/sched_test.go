//go:build !kernelonly

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/qenex/qenex-kernel/internal/qasm3"
	"github.com/qenex/qenex-kernel/scheduler/govern"
	"github.com/qenex/qenex-kernel/scheduler/picture"
	"github.com/qenex/qenex-kernel/scheduler/picture/draw"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
	"github.com/qenex/qenex-kernel/scheduler/simulate"
)

// init lets the test program stand in for qenex-picture.
func init() {
	if filepath.Base(os.Args[0]) != picture.Program {
		return
	}
	c, err := picture.Read(os.Stdin)
	if err == nil {
		err = draw.PNG(os.Stdout, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// file writes a file for a test.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// torus is a max-cut problem whose largest cut has all 2*a*b edges if a and b are even.
func torus(a, b int) string {
	var s strings.Builder
	fmt.Fprintln(&s, a*b, 2*a*b)
	for i := range a {
		for j := range b {
			fmt.Fprintln(&s, i*b+j+1, i*b+(j+1)%b+1, 1)
			fmt.Fprintln(&s, i*b+j+1, (i+1)%a*b+j+1, 1)
		}
	}
	return s.String()
}

// decoded runs a command that prints JSON.
func decoded[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	out := must(t, args...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("qenex %q prints %q: %v", args, out, err)
	}
	return v
}

// pngDrawn puts a program that draws into PATH.
func pngDrawn(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(dir, picture.Program)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// notBlank wants a PNG file with more than one colour.
func notBlank(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	first := img.At(0, 0)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if img.At(x, y) != first {
				return
			}
		}
	}
	t.Errorf("%s is blank", name)
}

func TestSchedSolve(t *testing.T) {
	name := file(t, torus(8, 10))
	for _, method := range []string{"sqa", "sa", "multispin", "pt", "tabu", "greedy"} {
		args := []string{"sched", "solve", name, "--sweeps", "3000", "--seed", "5", "--method", method, "--json"}
		got, again := decoded[solved](t, args...), decoded[solved](t, args...)
		if got.Cut == nil || *got.Cut > 160 || *got.Cut < 140 || method != "greedy" && *got.Cut != 160 || got.Seed != 5 || got.Method != method ||
			got.Seconds <= 0 || got.Energy != nil || got.Optimal != (*got.Cut == 160) || got.Spins != 80 || got.Couplings != 160 {
			t.Errorf("%s: %+v", method, got)
		}
		if *again.Cut != *got.Cut || again.Runs != got.Runs || again.Sweeps != got.Sweeps {
			t.Errorf("%s: %+v, then %+v by the same seed", method, got, again)
		}
	}
	out := filepath.Join(t.TempDir(), "cut")
	text := must(t, "sched", "solve", name, "--budget", "20s", "--target", "160", "--workers", "2", "--out", out)
	if !strings.HasPrefix(text, "cut 160, which is optimal\n") || !strings.Contains(text, "seed 1, method sa") {
		t.Errorf("output %q", text)
	}
	sides, err := os.ReadFile(out)
	side := strings.Fields(string(sides))
	if err != nil || len(side) != 80 {
		t.Fatalf("%q, %v", sides, err)
	}
	for i := range side {
		if side[i] == side[i/10*10+(i+1)%10] || side[i] != "1" && side[i] != "-1" {
			t.Errorf("vertex %d is on side %s as its neighbour", i, side[i])
		}
	}

	// A QUBO: 3 - 2a - 2b + 5ab has its minimum, 1, where one is 1.
	coo := "# vartype=BINARY\n# offset=3\n0 0 -2\n1 1 -2\n0 1 5\n"
	got := decoded[solved](t, "sched", "solve", file(t, coo), "--sweeps", "100", "--target", "0", "--json", "--out", out)
	if got.Energy == nil || *got.Energy != 1 || got.Cut != nil || got.Reached == nil || *got.Reached {
		t.Errorf("%+v", got)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "1\n0\n" && string(b) != "0\n1\n" {
		t.Errorf("state %q, %v", b, err)
	}
	cmd := command("sched", "solve", "-", "--sweeps", "10")
	cmd.Stdin = strings.NewReader("\n\n" + coo)
	if b, err := cmd.Output(); err != nil || !strings.HasPrefix(string(b), "energy 1") {
		t.Errorf("of standard input: %q, %v", b, err)
	}
}

func TestSchedSolveBadInput(t *testing.T) {
	good := file(t, torus(4, 4))
	for _, tt := range []struct {
		want int
		why  string
		args []string
	}{
		{exitInput, "no such file", []string{"/nonexistent"}},
		{exitInput, "directory", []string{t.TempDir()}},
		{exitInput, "vertices edges", []string{file(t, "")}},
		{exitInput, "vertices edges", []string{os.DevNull}},
		{exitInput, "vertices edges", []string{file(t, "\x7fELF\x02")}},
		{exitInput, "finite", []string{file(t, "2 1\n1 2 NaN\n")}},
		{exitInput, "finite", []string{file(t, "# vartype=SPIN\n0 1 Inf\n")}},
		{exitInput, "vartype", []string{file(t, "0 1 1\n")}},
		{exitInput, "twice", []string{file(t, "2 2\n1 2 1\n2 1 1\n")}},
		{exitUsage, "--budget 0s", []string{good, "--budget", "0s"}},
		{exitUsage, "--budget -1s", []string{good, "--budget=-1s"}},
		{exitUsage, "--budget", []string{good, "--budget", "12"}},
		{exitUsage, "--sweeps 0", []string{good, "--sweeps", "0"}},
		{exitUsage, "finite", []string{good, "--target", "NaN"}},
		{exitUsage, "--workers", []string{good, "--workers", "0"}},
		{exitUsage, "--replicas", []string{good, "--replicas=-3"}},
		{exitUsage, "--method", []string{good, "--method", "magic"}},
		{exitUsage, "--seed", []string{good, "--seed=-1"}},
		{exitUsage, "multispin", []string{file(t, "3 2\n1 2 1\n2 3 2\n"), "--method", "multispin"}},
		{exitUsage, "<file>", nil},
	} {
		refused(t, tt.want, tt.why, append([]string{"sched", "solve"}, tt.args...)...)
	}
}

// TestSchedSolveInterrupted wants Ctrl-C to give what was found, and its exit code.
func TestSchedSolveInterrupted(t *testing.T) {
	cmd := command("sched", "solve", "-", "--budget", "1h", "--json")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got solved
	decodedAll := make(chan error, 1)
	go func() { decodedAll <- json.NewDecoder(out).Decode(&got) }()
	// More than fits into a pipe: when it is written, the command reads, and catches signals.
	if _, err := in.Write([]byte(torus(5, 5) + strings.Repeat("\n", 1<<20))); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-decodedAll; err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitSignal+int(syscall.SIGINT) || !got.Interrupted || got.Cut == nil || *got.Cut > 40 || *got.Cut < 30 {
		t.Errorf("exit code %d, %+v", code, got)
	}
}

const smallPlacement = `{"host": {"cpus": [{"id": 2, "core": 0, "llc": 0, "node": 0, "package": 0, "capacity": 1}, {"id": 5, "core": 1, "llc": 0, "node": 0,
	"package": 0, "capacity": 1}]}, "vcpus": [{"name": "a/0", "load": 0.8, "gang": 1}, {"name": "a/1", "load": 0.9, "gang": 1}, {"name": "b", "load": 0.1, "pin": [5]}]}`

func TestSchedQASM(t *testing.T) {
	ring, place := file(t, torus(2, 3)[:0]+"5 5\n1 2 1\n2 3 1\n3 4 1\n4 5 1\n5 1 2\n"), file(t, smallPlacement)
	for _, name := range []string{ring, place} {
		text := must(t, "sched", "qasm", name, "--depth", "2")
		p, err := qasm3.Parse(text)
		if err != nil || p.Result["c"] != "q" || p.Qubits["q"] != 5 {
			t.Errorf("%+v, %v:\n%s", p, err, text)
		}
		r := decoded[qasmReport](t, "sched", "qasm", name, "--depth", "2", "--json")
		if r.QASM != text || r.Qubits != 5 || r.Depth != 2 || len(r.Gamma) != 2 || len(r.Beta) != 2 || r.Simulated.Shots != 4096 || r.Simulated.Hits == 0 {
			t.Errorf("%+v", r)
		}
		if d := r.Simulated.value() - r.BruteForce.value(); d > 1e-9 || d < -1e-9 {
			t.Errorf("the simulator finds %v, brute force %v", r.Simulated.value(), r.BruteForce.value())
		}
		if name == place && (!reflect.DeepEqual(r.Simulated.Placement, r.BruteForce.Placement) || r.BruteForce.Placement["b"] != 5 || r.BruteForce.Placement["a/0"] != 5) {
			t.Errorf("placements %v and %v", r.Simulated.Placement, r.BruteForce.Placement)
		}
	}
	counts := file(t, `{"01010": 600, "11111": 400}`)
	if text := must(t, "sched", "qasm", ring, "--counts", counts); !strings.HasPrefix(text, "best cut measured: 4, in 600 of 1000 shots; their mean is 2.4; the optimum is 5\n1\n-1\n1\n-1\n1\n") {
		t.Errorf("output %q", text)
	}
	r := decoded[qasmReport](t, "sched", "qasm", place, "--counts", file(t, `{"11001": 1, "11111": 9}`), "--json")
	if r.Measured.Placement != nil && len(r.Measured.Placement) != 3 || r.QASM != "" || r.Measured.Shots != 10 {
		t.Errorf("%+v", r.Measured)
	}
	refused(t, exitInput, "5 bits", "sched", "qasm", ring, "--counts", file(t, `{"01": 1}`))
	refused(t, exitInput, "--counts", "sched", "qasm", ring, "--counts", "/nonexistent")
	refused(t, exitInput, "20 qubits", "sched", "qasm", file(t, torus(5, 5)))
	refused(t, exitInput, "1 to 20", "sched", "qasm", file(t, "0 0\n"))
	refused(t, exitInput, "unknown field", "sched", "qasm", file(t, `{"vcpu": 1}`))
	refused(t, exitUsage, "--depth", "sched", "qasm", ring, "--depth", "0")
	refused(t, exitUsage, "--shots", "sched", "qasm", ring, "--shots", "0")
}

func TestSchedPlan(t *testing.T) {
	pngDrawn(t)
	name, picture := file(t, smallPlacement), filepath.Join(t.TempDir(), "plan.png")
	for _, method := range planMethods {
		got := decoded[planned](t, "sched", "plan", name, "--method", method, "--sweeps", "50", "--compare", "--json", "--png", picture)
		if got.Plan == nil || len(got.Plan.CPU) != 3 || got.Plan.CPU[2] != 1 || len(got.Settings) != 3 || len(got.Compare) != len(planMethods) || len(got.Problem.VCPUs) != 3 {
			t.Fatalf("%s: %+v", method, got)
		}
		best := got.Compare[len(got.Compare)-1].Cost
		if best == nil || got.Compare[0].Cost == nil || got.Compare[0].Cost.Total > best.Total+1e-9 || got.Compare[5].Cost == nil {
			t.Errorf("%s: %+v", method, got.Compare)
		}
		for _, row := range got.Compare {
			if row.Cost != nil && row.Cost.Total < best.Total-1e-9 {
				t.Errorf("%s is better than the optimum: %v", row.Method, row.Cost)
			}
		}
		notBlank(t, picture)
		if err := os.Remove(picture); err != nil {
			t.Fatal(err)
		}
	}
	text := must(t, "sched", "plan", name, "--budget", "5ms", "--compare")
	for _, word := range []string{"CPU  CORE  LOAD  VCPUS", "5    1     ", "b 0.10", "METHOD", "balance", "exact"} {
		if !strings.Contains(text, word) {
			t.Errorf("no %q in:\n%s", word, text)
		}
	}
	qubo := filepath.Join(t.TempDir(), "plan.coo")
	best := decoded[planned](t, "sched", "plan", name, "--method", "exact", "--json", "--qubo", qubo)
	if got := decoded[solved](t, "sched", "solve", qubo, "--sweeps", "5000", "--json"); got.Energy == nil || math.Abs(*got.Energy-best.Plan.Cost.Total) > 1e-9 {
		t.Errorf("the QUBO's optimum is %v, the plan's cost %v", got.Energy, best.Plan.Cost.Total)
	}
	plain := file(t, `{"vcpus": [{"name": "\u001b[31mred", "load": 0.5}]}`) // on this host
	if text := must(t, "sched", "plan", plain, "--method", "greedy"); strings.Contains(text, "\x1b") || !strings.Contains(text, "[31mred 0.50") {
		t.Errorf("output %q", text)
	}

	many := planner.Problem{}
	for i := range 13 {
		many.VCPUs = append(many.VCPUs, planner.VCPU{Name: fmt.Sprint("v", i), Load: 0.1, Now: -1})
	}
	b, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, exitInput, "12", "sched", "plan", file(t, string(b)), "--method", "exact")
	if text := must(t, "sched", "plan", file(t, string(b)), "--method", "greedy", "--compare"); !strings.Contains(text, "exact") || !strings.Contains(text, "at most 12") {
		t.Errorf("output %q", text)
	}
	refused(t, exitInput, "no such file", "sched", "plan", "/nonexistent")
	refused(t, exitInput, "plan", "sched", "plan", file(t, "[]"))
	refused(t, exitInput, "plan", "sched", "plan", file(t, ""))
	refused(t, exitInput, "load", "sched", "plan", file(t, `{"vcpus": [{"name": "a", "load": 2}]}`))
	refused(t, exitInput, "plan", "sched", "plan", file(t, `{"vcpus": [{"name": "a", "load": NaN}]}`))
	refused(t, exitInput, "pinned", "sched", "plan", file(t, strings.ReplaceAll(smallPlacement, `"pin": [5]`, `"pin": [7]`)))
	refused(t, exitUsage, "--budget 0s", "sched", "plan", name, "--budget", "0s")
	refused(t, exitUsage, "--sweeps 0", "sched", "plan", name, "--sweeps", "0")
	refused(t, exitUsage, "--measure", "sched", "plan", "--measure", "0s")
	t.Setenv("PATH", "/nonexistent")
	refused(t, exitFailure, "make build", "sched", "plan", name, "--method", "greedy", "--png", picture)
}

func TestSchedSimulate(t *testing.T) {
	pngDrawn(t)
	picture, trace := filepath.Join(t.TempDir(), "gantt.png"), filepath.Join(t.TempDir(), "trace")
	got := decoded[simulated](t, "sched", "simulate", "--mix", "mixed", "--policy", "planner", "--json", "--png", picture, "--save", trace)
	if len(got.Results) != 2 || got.Results[0].Policy != "kernel" || got.Results[1].Policy != "planner" || got.Results[1].Makespan <= 0 ||
		len(got.Host.CPUs) != 2 || got.Calibration.Check() != nil || len(got.Traces) != 1 || got.Traces[0].Kind != "mixed" || got.Traces[0].VCPUs < 4 {
		t.Errorf("%+v", got)
	}
	notBlank(t, picture)
	again := decoded[simulated](t, "sched", "simulate", "--trace", trace, "--policy", "kernel", "--json")
	if !reflect.DeepEqual(again.Results[0], got.Results[0]) {
		t.Errorf("%+v, then %+v", got.Results[0], again.Results[0])
	}
	calibration := file(t, func() string { b, _ := json.Marshal(got.Calibration); return string(b) }())
	if text := must(t, "sched", "simulate", "--mix", "gangs", "--vcpus", "4", "--runs", "2", "--calibration", calibration); strings.Count(text, "\n") != 2+len(simulate.Policies(1)) {
		t.Errorf("output %q", text)
	}
	for _, tt := range []struct {
		want int
		why  string
		args []string
	}{
		{exitUsage, "--host", []string{"--host", "2"}}, {exitUsage, "--host", []string{"--host", "2x0"}}, {exitUsage, "--host", []string{"--host", "1x2x3x4"}},
		{exitUsage, "--host", []string{"--host", "300x1"}}, {exitUsage, "--host", []string{"--host", "64x64"}}, {exitUsage, "--host", []string{"--host", "axb"}},
		{exitUsage, "--runs", []string{"--runs", "0"}}, {exitUsage, "--vcpus", []string{"--vcpus=-1"}}, {exitUsage, "--window", []string{"--window", "0s"}},
		{exitUsage, "--mix", []string{"--mix", "nothing"}}, {exitUsage, "--policy", []string{"--policy", "luck"}}, {exitUsage, "no more than", []string{"--vcpus", "4000"}},
		{exitInput, "no such file", []string{"--trace", "/nonexistent"}}, {exitInput, "--trace", []string{"--trace", file(t, `{"qenex_trace":1}`)}},
		{exitInput, "--calibration", []string{"--calibration", file(t, `{"smt":NaN}`)}}, {exitUsage, "record", []string{"--record", "1s", "--trace", "x"}},
	} {
		refused(t, tt.want, tt.why, append([]string{"sched", "simulate"}, tt.args...)...)
	}
}

// TestFewer wants vCPUs that wait for each other to stay together.
func TestFewer(t *testing.T) {
	for _, kind := range simulate.Mixes {
		tr, err := simulate.Generate(kind, "medium", 7)
		if err != nil {
			t.Fatal(err)
		}
		fewer(tr, 20)
		if err := tr.Check(); err != nil || len(tr.VCPUs) > 20 || len(tr.VCPUs) < 17 {
			t.Errorf("%s: %d vCPUs, %v", kind, len(tr.VCPUs), err)
		}
		talk := map[int]map[simulate.Kind]bool{}
		for _, v := range tr.VCPUs {
			for _, op := range v.Program {
				if op.Op == simulate.Send || op.Op == simulate.Recv {
					if talk[op.ID] == nil {
						talk[op.ID] = map[simulate.Kind]bool{}
					}
					talk[op.ID][op.Op] = true
				}
			}
		}
		for id, ends := range talk {
			if len(ends) != 2 {
				t.Errorf("%s: of channel %d one end is left", kind, id)
			}
		}
	}
}

// TestSchedWatch looks at this host, changes nothing, and is ended by Ctrl-C.
func TestSchedWatch(t *testing.T) {
	cmd := command("sched", "watch", "--look", "--epoch", "20ms", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for n := 0; lines.Scan(); n++ {
		var e govern.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Kind == "" || e.At.IsZero() || e.Number < 1 || e.Kind == govern.Applied || e.Kind == govern.Kept {
			t.Errorf("%q: %v", lines.Text(), err)
		}
		if n == 0 {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	must(t, "sched", "apply", "--for", "50ms", "--epoch", "40ms") // too short for a plan
	refused(t, exitFailure, "applier", "sched", "guard")          // standard input is no applier
	for _, tt := range [][]string{{"--for", "--for", "0s"}, {"--epoch", "--epoch", "0s"}, {"--budget", "--budget", "0s"}, {"--budget", "--budget", "2s"},
		{"--hysteresis", "--hysteresis", "NaN"}, {"--hysteresis", "--hysteresis", "0"}} {
		refused(t, exitUsage, tt[0], append([]string{"sched", "apply"}, tt[1:]...)...)
		refused(t, exitUsage, tt[0], append([]string{"sched", "watch"}, tt[1:]...)...)
	}
}

// TestSchedView draws events, and wants the frames to fit the terminal and to show what happened.
func TestSchedView(t *testing.T) {
	var out strings.Builder
	v := &schedView{out: &out}
	cost := &govern.Proposal{Now: planner.Cost{Total: 8}, Then: planner.Cost{Total: 6}, Gain: 2, Method: "sqa", Elapsed: time.Millisecond}
	for _, e := range []govern.Event{
		{Kind: govern.Observed, Number: 1, Epoch: time.Second, Score: 0.5, Items: []govern.Item{{Name: "web/vcpu0", CPU: 1, Run: 0.75, Wait: 0.5}, {Name: "evil\x1b[31m", CPU: 0, Run: 3}}},
		{Kind: govern.Applied, Plan: cost}, {Kind: govern.Measured, Score: 0.25, Baseline: 0.5}, {Kind: govern.Reverted, Score: 0.75, Baseline: 0.5, Reason: "it does not pay"},
	} {
		if err := v.show(e); err != nil {
			t.Fatal(err)
		}
	}
	text := out.String()
	for _, want := range []string{
		"\x1b[2J\x1b[H", "CPU 1   [###############.....] 0.75  web/vcpu0 75% (waits 50%)", "CPU 0   [####################] 3.00", "plan: on trial", "plan: taken back",
		"applied: cost 6.000 instead of 8.000, by sqa in 1ms", "without a plan 0.500", "reverted: score 0.750, 0.500 without a plan, noise 0.000: it does not p",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b[31m") {
		t.Error("a guest's name writes to the terminal")
	}
	for line := range strings.Lines(v.frame(40, 6)) {
		if line = strings.TrimSuffix(strings.TrimPrefix(line, "\x1b[H"), "\x1b[K\n"); len(line) > 40 {
			t.Errorf("%q is longer than 40", line)
		}
	}
	if n := strings.Count(v.frame(40, 6), "\n"); n > 5 {
		t.Errorf("%d lines on 6 rows", n)
	}
}

// TestSchedHelp wants an example of every command and flag, and all of them in completions and the manual page.
func TestSchedHelp(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.Vars{"cmdline": defaultCmdline})
	if err != nil {
		t.Fatal(err)
	}
	man, bash := must(t, "man"), must(t, "completion", "bash")
	for _, cmd := range parser.Model.Leaves(true) {
		if cmd.Parent == nil || cmd.Parent.Name != "sched" {
			continue
		}
		if !strings.Contains(cmd.Detail, "Example") || !strings.Contains(man, "sched "+cmd.Name) || !strings.Contains(bash, cmd.Name) {
			t.Errorf("sched %s: no example, or not in the manual page or the completion", cmd.Name)
		}
		for _, f := range cmd.Flags {
			if f.Name != "help" && !strings.Contains(f.Help, "As in: --") {
				t.Errorf("sched %s --%s has no example", cmd.Name, f.Name)
			}
		}
	}
}
