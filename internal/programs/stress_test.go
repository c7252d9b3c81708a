package programs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// TestStressPrograms runs guests side by side, what they do chosen at random, for as long as -stress says, and
// holds every result against the native one. At the end nothing may be left of them: processes, descriptors, memory.
func TestStressPrograms(t *testing.T) {
	g := guest(t)
	hostile := needC(t, "hostile", cc.Static)
	hard, conform := needC(t, "hard", cc.Static), needC(t, "conform", cc.Static)
	dir := t.TempDir()
	jobs := []stressJob{
		{Program: Program{Args: []string{needC(t, "hello", cc.Static)}}},
		{Program: Program{Args: []string{needC(t, "hello")}}},
		{Program: Program{Args: []string{needGo(t, "./internal/programs/goload")}}},
		{Program: Program{Args: []string{hard, "avx_across_signals", "avx512_across_fork", "control_words_per_thread"}}},
		{Program: Program{Args: []string{hard, "cow_through_20_generations", "cow_while_a_thread_writes", "mprotect_256_pages", "remap_seen_by_other_thread", "shared_between_processes"}}},
		{Program: Program{Args: []string{hard, "threads_300", "exec_100_times", "fork_500_times", "mutex_of_eight_threads", "signals_to_each_of_eight_threads"}}},
		{Program: Program{Args: []string{conform, "tcp_large_transfer", "unix_pass_descriptor", "sem_operations", "epoll_edge", "ptrace_peek_poke", "mmap_shared_write_reaches_file"}}},
		{Program: Program{Args: []string{hostile, "own-mappings"}, Env: hostileEnv()}, free: true},
		{Program: Program{Args: []string{hostile, "random-code"}, Env: hostileEnv()}, free: true},
		{Program: Program{Args: []string{hostile, "kernel-pages"}, Env: hostileEnv()}, free: true},
		{Program: Program{Args: []string{hostile, "threads"}, Env: hostileEnv(), Limit: 100 * time.Millisecond}, killed: true},
	}
	for _, c := range comparedPrograms {
		switch c.name {
		case "python3 threads", "python3 fork, signals, subprocess", "perl", "gcc compile and run", "git", "xz", "sh 100 children", "openssl keys and signature", "bash process substitution", "make":
			if c.missing() == "" {
				jobs = append(jobs, stressJob{Program: c.program(dir)})
			}
		}
	}
	for i := range jobs {
		if j := &jobs[i]; !j.free && !j.killed {
			d := t.TempDir()
			p := j.Program
			p.Dir = d
			j.want = run(t, Native(), p)
			j.want.Left = 0
		}
	}
	run(t, g, jobs[0].Program) // what is made once, such as caches of the host's kernel, is not the guests' leak
	before, fds := available(t), openFiles(t)
	// What a guest leaves becomes a child of this process, and not of another test's.
	mustDo(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))

	const atOnce = 4
	var wg sync.WaitGroup
	tally := newTally()
	end := time.Now().Add(*stress)
	if limit, ok := t.Deadline(); ok && limit.Before(end) {
		t.Fatalf("go test would stop this after %v, before -stress %v is over; add -timeout 0", time.Until(limit).Round(time.Second), *stress)
	}
	for n := range atOnce {
		rng := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
		wg.Go(func() {
			for first := true; first || time.Now().Before(end); first = false {
				j := jobs[rng.IntN(len(jobs))]
				r, err := g.Run(t.Context(), j.Program)
				wrong := ""
				if err != nil {
					wrong = err.Error()
				} else {
					wrong = j.wrong(r)
				}
				if tally.add(j.name(), wrong != ""); wrong != "" {
					t.Errorf("%s: %s", j.name(), wrong)
				}
			}
		})
	}
	wg.Wait()
	leaks := 0
	leak := func(format string, args ...any) {
		leaks++
		t.Errorf(format, args...)
	}
	if now := available(t); now+1<<30 < before {
		leak("%d MiB of the host's memory are gone", (before-now)>>20)
	}
	if now := openFiles(t); now > fds {
		leak("%d descriptors more than before", now-fds)
	}
	if n := children(t); n > 0 {
		leak("%d processes of guests are left", n)
	}
	if left := files(t, dir); len(left) > 0 {
		leak("files of guests reached the host: %q", left)
	}
	t.Logf("%v, %d at once: %v, %d leaks", *stress, atOnce, tally, leaks)
}

// stressJob is a program and what must come of it.
type stressJob struct {
	Program
	want   Result
	free   bool // only contained, not compared
	killed bool // exceeds its limit
}

// name is the program's name and first arguments, on one line.
func (j stressJob) name() string {
	s := strings.Join(append([]string{filepath.Base(j.Args[0])}, j.Args[1:]...), " ")
	if line, _, more := strings.Cut(strings.TrimSpace(s), "\n"); more || len(line) > 70 {
		s = fmt.Sprintf("%.70s...", line)
	}
	return s
}

// wrong says what is wrong with a result, or nothing.
func (j stressJob) wrong(r Result) string {
	switch {
	case j.killed && r.Left > 0:
		return fmt.Sprintf("%d processes are left", r.Left)
	case j.killed:
		return ""
	case j.free:
		return uncontained(r)
	}
	return difference(j.want, r)
}

// tally counts runs and wrong results of several goroutines by what was run.
type tally struct {
	mu          sync.Mutex
	runs, wrong map[string]int
}

func newTally() *tally { return &tally{runs: make(map[string]int), wrong: make(map[string]int)} }

func (y *tally) add(name string, wrong bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.runs[name]++
	if wrong {
		y.wrong[name]++
	}
}

// String is the sums, then a line for each program.
func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	runs, wrong, lines := 0, 0, ""
	for _, name := range slices.Sorted(maps.Keys(y.runs)) {
		runs, wrong = runs+y.runs[name], wrong+y.wrong[name]
		lines += fmt.Sprintf("\n%6d runs, %d wrong: %s", y.runs[name], y.wrong[name], name)
	}
	return fmt.Sprintf("%d runs, %d wrong results", runs, wrong) + lines
}

func TestStressTellsWrongResults(t *testing.T) {
	good := Result{Stdout: "one\ntwo\n"}
	j := stressJob{Program: Program{Args: []string{"/x/program", "argument"}}, want: good}
	if w := j.wrong(good); w != "" {
		t.Errorf("a good result: %s", w)
	}
	for _, c := range []struct {
		job  stressJob
		got  Result
		want string
	}{
		{j, Result{Stdout: "one\n2\n"}, `stdout, line 2: native "two\n", guest "2\n"`},
		{j, Result{Stdout: "one\n"}, `stdout, line 2: native "two\n", guest ""`},
		{j, Result{Stdout: "one\ntwo\nthree\n"}, `guest "three\n"`},
		{j, Result{Stdout: good.Stdout, Stderr: "x"}, `stderr, line 1: native "", guest "x"`},
		{j, Result{Stdout: good.Stdout, Code: 3}, "exit code: native 0, guest 3"},
		{j, Result{Stdout: good.Stdout, Late: true}, "killed after its time"},
		{j, Result{Stdout: good.Stdout, Left: 2}, "2 processes left"},
		{stressJob{free: true}, Result{Stderr: "panic: x"}, "QENEX itself failed"},
		{stressJob{killed: true}, Result{Left: 1}, "1 processes are left"},
	} {
		if w := c.job.wrong(c.got); !strings.Contains(w, c.want) {
			t.Errorf("%v: said %q, want %q in it", c.got, w, c.want)
		}
	}
	y := newTally()
	y.add(j.name(), false)
	y.add(j.name(), true)
	if got := y.String(); got != "2 runs, 1 wrong results\n     2 runs, 1 wrong: program argument" {
		t.Errorf("counted %q", got)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	mustDo(t, err)
	return len(entries)
}

// children counts living children of this process.
func children(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	mustDo(t, err)
	n := 0
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(stat, []byte(") ")) // behind the name: state, parent
		var state string
		var parent int
		if _, err := fmt.Sscan(string(rest), &state, &parent); err == nil && parent == os.Getpid() && state != "Z" {
			n++
		}
	}
	return n
}
