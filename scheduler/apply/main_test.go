package apply

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// self is this test binary, also for a user who cannot read the directory it is in.
const self = "/proc/self/exe"

func init() { runtime.LockOSThread() } // so that no worker of a guest is its first thread

// TestMain is also the other processes of the tests: a guard, a program with threads, and an applier that is to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "guard":
			err = Guard(os.Stdin)
		case "guest":
			err = guest()
		case "applier":
			err = applier()
		default:
			os.Exit(kvmtest.Main(m))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(kvmtest.Main(m))
}

// guest is a program whose threads sleep. It says the ID of its worker. A line on its standard input, "thread" or "child", makes another
// thread, or a child process; it answers with the new ID. The end of the input ends it.
func guest() error {
	first := make(chan string)
	told := make(chan int)
	worker := func() {
		runtime.LockOSThread()
		told <- unix.Gettid()
		for range first {
			told <- bornHere()
		}
	}
	go worker()
	fmt.Println(<-told)
	var others []*exec.Cmd
	defer func() {
		for _, c := range others {
			c.Process.Kill()
			c.Wait()
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "thread":
			first <- ""
			fmt.Println(<-told)
		case "child":
			cmd := exec.Command(self, "guest")
			if _, err := cmd.StdinPipe(); err != nil {
				return err
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				return err
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			others = append(others, cmd)
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				return err
			}
			fmt.Println(cmd.Process.Pid)
		}
	}
	return nil
}

// bornHere makes a thread that has what this one has. The Go runtime makes threads from a clean one while this one is locked, so the new
// one takes itself what it would inherit in a program in C.
func bornHere() int {
	set := unix.NewCPUSet(maxCPUs)
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || unix.SchedGetaffinityDynamic(0, set) != nil {
		return -1
	}
	tid := make(chan int)
	go func() {
		runtime.LockOSThread()
		if unix.SchedSetaffinityDynamic(0, set) != nil || unix.SchedSetAttr(0, attr, 0) != nil {
			tid <- -1
		}
		tid <- unix.Gettid()
		select {}
	}()
	return <-tid
}

// order is what an applier process is to do.
type order struct {
	Options  Options
	Targets  []Target
	Settings []plan.Setting
}

// applier applies an order, prints the report and the limits, and waits to be killed.
func applier() error {
	signal.Ignore(unix.SIGPIPE)
	var o order
	if err := json.Unmarshal([]byte(os.Args[2]), &o); err != nil {
		return err
	}
	a, err := New(o.Options)
	if err != nil {
		return err
	}
	r, err := a.Apply(o.Targets, o.Settings)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer{r, a.Limits(), a.guardPID()}); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	return a.Close()
}

type answer struct {
	Report Report
	Limits []string
	Guard  int
}

func (a *Applier) guardPID() int {
	if a.guard == nil {
		return 0
	}
	return a.guard.cmd.Process.Pid
}

// proc is another process of a test.
type proc struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	tid int // of its worker
}

func start(t *testing.T, uid int, args ...string) *proc {
	t.Helper()
	p := &proc{cmd: exec.Command(self, args...)}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	t.Cleanup(func() { p.end() })
	return p
}

// newGuest starts a program with threads.
func newGuest(t *testing.T, uid int) *proc {
	t.Helper()
	p := start(t, uid, "guest")
	p.tid = p.number(t)
	return p
}

func (p *proc) number(t *testing.T) int {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || n <= 0 {
		t.Fatalf("%q: %v", line, err)
	}
	return n
}

// more asks a guest for another "thread" or "child".
func (p *proc) more(t *testing.T, what string) int {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, what); err != nil {
		t.Fatal(err)
	}
	return p.number(t)
}

func (p *proc) end() error {
	p.in.Close()
	return p.cmd.Wait()
}

func (p *proc) worker() Target {
	return Target{PID: p.cmd.Process.Pid, TIDs: []int{p.tid}, Name: "guest/vcpu0"}
}

func (p *proc) all() Target { return Target{PID: p.cmd.Process.Pid, Whole: true, Name: "guest"} }

// newApplier is one for this test, closed at its end.
func newApplier(t *testing.T, o Options) *Applier {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return a
}

func (a *Applier) must(t *testing.T, targets []Target, settings []plan.Setting) Report {
	t.Helper()
	r, err := a.Apply(targets, settings)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stateOf(t *testing.T, tid int) state {
	t.Helper()
	k := probeKernel()
	s, err := k.read(tid)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func probeKernel() kernel {
	base := make(chan time.Duration)
	go func() {
		runtime.LockOSThread()
		base <- baseSlice()
	}()
	return kernel{Base: <-base, Groups: findCgroups("/sys/fs/cgroup", osFiles{})}
}

func equal(a, b state) bool { return same(a, b) && a.Fair == b.Fair }

// cpus is those of this process, two at least.
func cpus(t *testing.T) []int {
	t.Helper()
	ids, err := getCPUs(0)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) < 2 {
		t.Skip("needs two CPUs")
	}
	return ids
}

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func one(id int) []int { return []int{id} }

func contains(texts []string, part string) bool {
	return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, part) })
}
