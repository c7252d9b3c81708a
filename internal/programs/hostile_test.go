package programs

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// hostileEnv is what tells the hostile program that it may begin.
func hostileEnv(more ...string) []string { return append(append(more, "HOSTILE_IN_GUEST=1"), Env...) }

// witness is a second guest that computes, allocates and forks on demand: what is done to another must not touch it.
type witness struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	n   int
}

func startWitness(t *testing.T, g Runner) *witness {
	t.Helper()
	argv := g.argv(Program{Args: []string{needC(t, "hostile", cc.Static), "witness"}})
	w := &witness{cmd: exec.Command(argv[0], argv[1:]...)}
	w.cmd.Env = hostileEnv()
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.in.Close()
		if err := w.cmd.Wait(); err != nil {
			t.Errorf("the other guest did not end well: %v", err)
		}
		unix.Kill(-w.cmd.Process.Pid, unix.SIGKILL)
	})
	w.check(t)
	return w
}

// check has the witness look at itself.
func (w *witness) check(t *testing.T) {
	t.Helper()
	w.n++
	if _, err := fmt.Fprintf(w.in, "%d\n", w.n); err != nil {
		t.Fatalf("the other guest is gone: %v", err)
	}
	overdue := time.AfterFunc(2*time.Minute, func() { unix.Kill(-w.cmd.Process.Pid, unix.SIGKILL) })
	defer overdue.Stop()
	if line, err := w.out.ReadString('\n'); err != nil || line != fmt.Sprintf("fine %d\n", w.n) {
		t.Fatalf("the other guest answers %q, %v", line, err)
	}
}

// contained fails the test if a guest's end shows that QENEX itself was hurt.
func contained(t *testing.T, what string, r Result) {
	t.Helper()
	if wrong := uncontained(r); wrong != "" {
		t.Errorf("%s: %s", what, wrong)
	}
}

// uncontained says by what a guest's end shows that QENEX itself was hurt, or nothing.
func uncontained(r Result) string {
	if r.Late {
		return fmt.Sprintf("did not end: %v", r)
	}
	if r.Left > 0 {
		return fmt.Sprintf("%d processes are left", r.Left)
	}
	for _, bad := range []string{"panic", "fatal error", "goroutine ", "runtime error", "SIGSEGV: ", "unexpected fault"} {
		if strings.Contains(r.Stderr, bad) {
			return fmt.Sprintf("QENEX itself failed: %v", r)
		}
	}
	return ""
}

// TestHostilePrograms runs programs that attack what is under them; each must end as its own error, and a guest beside
// it must not notice.
func TestHostilePrograms(t *testing.T) {
	g := guest(t)
	path := needC(t, "hostile", cc.Static)
	other := startWitness(t, g)
	ownEnd := map[string]int{"stack": 128 + int(unix.SIGSEGV)} // what is not 0 is the program's own death
	for _, what := range []string{
		"kernel-pages", "kernel-pointers", "kernel-jumps", "own-mappings", "random-code", "random-calls", "threads", "spinning-threads",
		"forks", "maps", "descriptors", "arguments", "links", "stack", "signals",
	} {
		t.Run(what, func(t *testing.T) {
			if testing.Short() && (what == "kernel-jumps" || what == "random-calls") {
				t.Skip("NOT TESTED with -short: takes more than 10 seconds")
			}
			r := run(t, g, Program{Args: []string{path, what}, Env: hostileEnv()})
			contained(t, what, r)
			if r.Code != ownEnd[what] {
				t.Errorf("ended differently: %v", r)
			}
			if ownEnd[what] == 0 && !strings.HasSuffix(r.Stdout, "survived\n") {
				t.Errorf("did not come to its end: %v", r)
			}
			if strings.Contains(r.Stdout, "wrong answers") {
				t.Errorf("the guest's own kernel gave wrong answers: %v", r)
			}
			other.check(t)
		})
	}
}

// TestHostileMemory has a guest take more memory than it was given.
func TestHostileMemory(t *testing.T) {
	g := onlyQenex(t)
	path := needC(t, "hostile", cc.Static)
	other := startWitness(t, g)
	before := available(t)
	r := run(t, g, Program{Args: []string{path, "memory"}, Env: hostileEnv(), Flags: []string{"--mem", "96M"}})
	contained(t, "memory", r)
	if r.Code == 0 && !strings.Contains(r.Stdout, "ENOMEM") {
		t.Errorf("took all it wanted of 96 MiB: %v", r)
	}
	if now := available(t); now+512<<20 < before {
		t.Errorf("%d MiB of the host's memory are gone", (before-now)>>20)
	}
	other.check(t)
}

// available returns the bytes of memory that the host could give.
func available(t *testing.T) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		var kib uint64
		if n, _ := fmt.Sscanf(l, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no MemAvailable in /proc/meminfo")
	return 0
}

// TestHostileForksWithoutEnd ends a fork bomb by the guest's time limit.
func TestHostileForksWithoutEnd(t *testing.T) {
	g := onlyQenex(t)
	path := needC(t, "hostile", cc.Static)
	other := startWitness(t, g)
	r := run(t, g, Program{Args: []string{path, "forks-without-end"}, Env: hostileEnv(), Flags: []string{"--timeout", "2s", "--mem", "1G"}})
	contained(t, "forks without end", r)
	if r.Code == 0 {
		t.Errorf("ended as if nothing had been: %v", r)
	}
	other.check(t)
}

// TestMalformedELF has a guest start broken ELF files, and starts some as the guest's first program.
func TestMalformedELF(t *testing.T) {
	g := guest(t)
	dir, paths := makeMutants(t)
	r := run(t, g, Program{Args: []string{needC(t, "hostile", cc.Static), "execs"}, Env: hostileEnv("HOSTILE_DIR=" + dir), Limit: 5 * time.Minute})
	contained(t, "execs", r)
	if want := fmt.Sprintf("%d tried\nsurvived\n", len(paths)); r.Stdout != want || r.Code != 0 {
		t.Errorf("want %q, got %v", want, r)
	}
	step := 6
	if testing.Short() {
		step = 25
	}
	for i := 0; i < len(paths); i += step {
		r := run(t, g, Program{Args: []string{paths[i]}, Limit: time.Minute})
		contained(t, paths[i], r)
		if r.Code != 0 && r.Stderr == "" && r.Code < 128 {
			t.Errorf("%s: code %d and no word why", paths[i], r.Code)
		}
	}
	t.Logf("%d malformed files, %d of them also as first program", len(paths), (len(paths)+step-1)/step)
}

// TestKilledAtRandomMoments kills QENEX with SIGKILL while its guest works: nothing may stay, and the next guest starts.
func TestKilledAtRandomMoments(t *testing.T) {
	g := guest(t)
	path := needC(t, "hostile", cc.Static)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 12 {
		what := []string{"forks", "threads", "own-mappings", "maps"}[i%4]
		limit := time.Duration(1+rng.IntN(150)) * time.Millisecond
		// The group is killed at the limit; what outlives that is left behind.
		r := run(t, g, Program{Args: []string{path, what}, Env: hostileEnv(), Limit: limit})
		if r.Left > 0 {
			t.Errorf("%s killed after %v: %d processes are left", what, limit, r.Left)
		}
	}
	if r := run(t, g, Program{Args: []string{needC(t, "hello", cc.Static)}}); r != (Result{Stdout: "hello\n"}) {
		t.Errorf("after all that, hello: %v", r)
	}
}
