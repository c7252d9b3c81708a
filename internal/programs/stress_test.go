package programs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

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

	const atOnce = 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	runs := 0
	end := time.Now().Add(*stress)
	for n := range atOnce {
		rng := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
		wg.Go(func() {
			for first := true; first || time.Now().Before(end); first = false {
				j := jobs[rng.IntN(len(jobs))]
				r, err := g.Run(t.Context(), j.Program)
				if err != nil {
					t.Errorf("%q: %v", j.Args, err)
					return
				}
				j.check(t, r)
				mu.Lock()
				runs++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d runs, %d at once", runs, atOnce)
	if now := available(t); now+1<<30 < before {
		t.Errorf("%d MiB of the host's memory are gone", (before-now)>>20)
	}
	if now := openFiles(t); now > fds {
		t.Errorf("%d descriptors more than before", now-fds)
	}
	if n := processesOf(t, hostile, hard, conform); n > 0 {
		t.Errorf("%d processes of guests are left", n)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files of guests reached the host: %q", left)
	}
}

// stressJob is a program and what must come of it.
type stressJob struct {
	Program
	want   Result
	free   bool // only contained, not compared
	killed bool // exceeds its limit
}

func (j stressJob) check(t *testing.T, r Result) {
	t.Helper()
	switch {
	case j.killed:
		if r.Left > 0 {
			t.Errorf("%q: %d processes are left", j.Args, r.Left)
		}
	case j.free:
		contained(t, strings.Join(j.Args, " "), r)
	case r != j.want:
		t.Errorf("%q\nnative: %v\nguest: %v", j.Args, j.want, r)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	mustDo(t, err)
	return len(entries)
}

// processesOf counts living processes that have one of the words in their command line.
func processesOf(t *testing.T, words ...string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	mustDo(t, err)
	n := 0
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue
		}
		for _, w := range words {
			if bytes.Contains(line, []byte(w)) {
				n++
				break
			}
		}
	}
	return n
}
