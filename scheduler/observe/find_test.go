package observe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// far is a process ID that no process of this machine has.
const far = 1 << 23

// fake is a made-up /proc.
type fake struct {
	t   *testing.T
	dir string
}

func newFake(t *testing.T) *fake { return &fake{t, t.TempDir()} }

func (f *fake) write(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	// In place: an open file of /proc shows what is new.
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// process makes a process with descriptors and threads, all of which have run for run nanoseconds.
func (f *fake) process(pid int, birth uint64, cmdline string, fds []string, threads ...string) {
	dir := strconv.Itoa(pid)
	f.t.Helper()
	f.write(dir+"/cmdline", strings.ReplaceAll(cmdline, " ", "\x00")+"\x00")
	f.write(dir+"/comm", "comm\n")
	f.write(dir+"/stat", statLine(pid, 'S', birth, 0))
	if err := os.MkdirAll(filepath.Join(f.dir, dir, "fd"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	for i, to := range fds {
		if err := os.Symlink(to, filepath.Join(f.dir, dir, "fd", strconv.Itoa(i))); err != nil {
			f.t.Fatal(err)
		}
	}
	for i, name := range threads {
		f.thread(pid, pid+i, name, 'S', 1000, 2000, 10, 7, 1)
	}
}

func (f *fake) thread(pid, tid int, name string, state byte, run, wait, slices, voluntary, cpu int) {
	f.t.Helper()
	dir := fmt.Sprintf("%d/task/%d/", pid, tid)
	f.write(dir+"comm", name+"\n")
	f.write(dir+"stat", statLine(tid, state, 5, cpu))
	f.write(dir+"schedstat", fmt.Sprintf("%d %d %d\n", run, wait, slices))
	f.write(dir+"status", fmt.Sprintf("Name:\tx\nvoluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t%d\n", voluntary, slices-voluntary))
}

func (f *fake) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func statLine(pid int, state byte, birth uint64, cpu int) string {
	return fmt.Sprintf("%d (a ) b) %c 1 1 1 0 -1 4194560 1 1 1 1 70 30 1 1 20 0 1 0 %d 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 17 %d 0 0 0 0 0\n",
		pid, state, birth, cpu)
}

func names(items []Item) []string {
	var s []string
	for _, it := range items {
		s = append(s, strings.ReplaceAll(it.Name, strconv.Itoa(it.PID), "P"))
	}
	return s
}

func find(t *testing.T, w *Watcher) []Item {
	t.Helper()
	items, err := w.Find()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func TestFind(t *testing.T) {
	f := newFake(t)
	kvm := []string{"/dev/null", "/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"}
	f.process(far, 1, "/bin/sh", []string{"/dev/null"}, "vcpu0")
	f.process(far+100, 2, "/usr/bin/qemu-system-x86_64 -smp 2", kvm, "qemu", "CPU 1/KVM", "CPU 0/KVM", "CPU 2/TCG")
	f.process(far+200, 3, "/usr/bin/firecracker", kvm, "firecracker", "fc_api", "fc_vcpu 0")
	f.process(far+300, 4, "qenex run --mem 1G /proc/self/exe spin", kvm, "qenex", "qenex")
	f.process(far+400, 5, "/usr/bin/manager", []string{"anon_inode:kvm-vm"}, "vcpu0")
	f.process(far+500, 6, "two VMs", kvm, "vcpu0", "vcpu1", "vcpu0")
	f.process(far+600, 7, "/bin/late", []string{"/dev/null"}, "late")
	f.write("uptime", "not a process")
	w := newWatcher(f.dir)
	items := find(t, w)
	want := []string{"comm[P]/vcpu0", "comm[P]/vcpu1", "comm[P]/vcpu0", "exe[P]", "comm[P]/vcpu0", "comm[P]/vcpu0.8389110", "comm[P]/vcpu1"}
	if !slices.Equal(names(items), want) {
		t.Fatalf("found %q, must be %q", names(items), want)
	}
	tenant := strconv.Itoa(os.Getuid())
	if want := (Item{Name: items[1].Name, PID: far + 100, Birth: 2, TIDs: []int{far + 101}, VM: strconv.Itoa(far + 100), Tenant: tenant,
		Gang: far + 100}); !reflect.DeepEqual(items[1], want) {
		t.Errorf("got %+v, must be %+v", items[1], want)
	}
	if want := (Item{Name: items[3].Name, PID: far + 300, Birth: 4, TIDs: []int{far + 300, far + 301}, Whole: true, VM: strconv.Itoa(far + 300),
		Tenant: tenant}); !reflect.DeepEqual(items[3], want) {
		t.Errorf("got %+v, must be %+v", items[3], want)
	}
	if items[2].Gang != 0 {
		t.Error("the only vCPU of a VM is in a gang")
	}

	// A process gets a vCPU; another loses its own; a third ends and its ID is used again; threads come.
	if err := os.Symlink("anon_inode:kvm-vcpu:0", filepath.Join(f.dir, strconv.Itoa(far+600), "fd", "9")); err != nil {
		t.Fatal(err)
	}
	f.remove(fmt.Sprintf("%d/fd/3", far+100))
	f.remove(strconv.Itoa(far + 200))
	f.process(far+200, 30, "/bin/other", []string{"/dev/null", "/dev/null", "/dev/null", "/dev/null"}, "vcpu0")
	f.thread(far+300, far+309, "new", 'S', 1, 1, 1, 1, 0)
	f.remove(strconv.Itoa(far + 500))
	items = find(t, w)
	if want := []string{"exe[P]", "comm[P]"}; !slices.Equal(names(items), want) {
		t.Fatalf("found %q, must be %q", names(items), want)
	}
	if want := []int{far + 300, far + 301, far + 309}; !slices.Equal(items[0].TIDs, want) {
		t.Errorf("threads %d, must be %d", items[0].TIDs, want)
	}
	f.remove("")
	if _, err := w.Find(); err == nil || !strings.Contains(err.Error(), f.dir) {
		t.Errorf("without /proc: %v", err)
	}
}

func TestRead(t *testing.T) {
	f := newFake(t)
	kvm := []string{"anon_inode:kvm-vcpu:0"}
	f.process(far, 1, "whole", kvm, "a", "b")
	f.process(far+100, 2, "threads", kvm, "main", "vcpu0")
	w := newWatcher(f.dir)
	defer w.Close()
	items := find(t, w)
	whole, vcpu := items[0], items[1]
	read := func(it Item, want Sample) Sample {
		t.Helper()
		got, err := w.Read(it)
		if err != nil {
			t.Fatal(err)
		}
		if got.At.IsZero() {
			t.Error("a sample without a time")
		}
		at := got.At
		got.At = want.At
		if got != want {
			t.Errorf("%s: %+v, must be %+v", it.Name, got, want)
		}
		got.At = at
		return got
	}
	read(whole, Sample{Run: 2000, Wait: 4000, Slices: 20, Voluntary: 14, Involuntary: 6, CPU: 1, Threads: 2})
	first := read(vcpu, Sample{Run: 1000, Wait: 2000, Slices: 10, Voluntary: 7, Involuntary: 3, CPU: 1, Threads: 1})

	f.thread(far+100, far+101, "vcpu0", 'R', 51000, 2500, 15, 10, 3)
	second := read(vcpu, Sample{Run: 51000, Wait: 2500, Slices: 15, Voluntary: 10, Involuntary: 5, CPU: 3, Threads: 1})
	delta, dt := second.Since(first)
	if delta.Run != 50000 || delta.Wait != 500 || delta.Slices != 5 || delta.Voluntary != 3 || delta.Involuntary != 2 || dt <= 0 {
		t.Errorf("in between: %+v in %v", delta, dt)
	}
	if back, _ := first.Since(second); back.Run != 0 || back.Slices != 0 {
		t.Errorf("less than nothing was done: %+v", back)
	}

	// What ended threads have done still counts. The fake directory has no link for each thread: look again.
	f.thread(far, far+1, "b", 'Z', 9000, 2000, 11, 8, 1)
	f.thread(far, far+2, "c", 'R', 7000, 0, 1, 0, 2)
	w.readings[place{pid: far}].links = 0
	read(whole, Sample{Run: 9000, Wait: 4000, Slices: 21, Voluntary: 14, Involuntary: 7, CPU: 2, Threads: 2})

	// A kernel without scheduling statistics: 100 ticks of 10 ms.
	f.write(fmt.Sprintf("%d/task/%d/schedstat", far+100, far+101), "0 0 0\n")
	read(vcpu, Sample{Run: 1e9, Slices: 15, Voluntary: 10, Involuntary: 5, CPU: 3, Threads: 1})

	for _, c := range []struct{ file, content string }{
		{"schedstat", "1 2"}, {"schedstat", "-1 2 3"}, {"stat", "1 (a) R 1"}, {"status", "Name: x\n"},
	} {
		name := fmt.Sprintf("%d/task/%d/%s", far+100, far+101, c.file)
		before, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		f.write(name, c.content)
		if _, err := w.Read(vcpu); err == nil || !strings.Contains(err.Error(), c.file) || errors.Is(err, ErrGone) {
			t.Errorf("%s is %q: %v", c.file, c.content, err)
		}
		f.write(name, string(before))
	}

	// The same ID, another process.
	f.write(fmt.Sprintf("%d/stat", far+100), statLine(far+100, 'S', 99, 0))
	w.Close()
	if _, err := w.Read(vcpu); !errors.Is(err, ErrGone) {
		t.Errorf("reading another process of the same ID: %v", err)
	}
	f.remove(strconv.Itoa(far))
	if _, err := w.Read(whole); !errors.Is(err, ErrGone) {
		t.Errorf("reading a process that is gone: %v", err)
	}
	if _, err := w.Read(Item{Name: "nothing"}); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("reading an item without threads: %v", err)
	}
	if w.kept != 0 || len(w.readings) != 0 {
		t.Errorf("%d files and %d readings are kept of what is gone", w.kept, len(w.readings))
	}
}

// A virtual machine of this very process is found, first as a whole, then by the name of its vCPU's thread.
func TestFindLive(t *testing.T) {
	sys := kvmtest.Open(t)
	vm, err := sys.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	mine := func(w *Watcher) []Item {
		return slices.DeleteFunc(find(t, w), func(it Item) bool { return it.PID != os.Getpid() })
	}
	w := NewWatcher()
	defer w.Close()
	if items := mine(w); len(items) != 0 {
		t.Fatalf("found before it has a vCPU: %+v", items)
	}
	vcpu, err := vm.CreateVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	defer vcpu.Close()
	items := mine(w)
	if len(items) != 1 || !items[0].Whole || !slices.Contains(items[0].TIDs, unix.Gettid()) || items[0].Birth == 0 {
		t.Fatalf("found %+v", items)
	}
	before, err := w.Read(items[0])
	if err != nil || before.Run <= 0 || before.CPU < 0 || before.Threads < 1 {
		t.Fatalf("%+v, %v", before, err)
	}
	named, end := make(chan int), make(chan bool)
	go func() {
		defer close(named)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid := unix.Gettid()
		comm := fmt.Sprintf("/proc/self/task/%d/comm", tid)
		before, err := os.ReadFile(comm)
		if err == nil {
			err = os.WriteFile(comm, []byte("vcpu3"), 0)
		}
		if err != nil {
			t.Error(err)
		}
		named <- tid
		<-end
		if err := os.WriteFile(comm, before, 0); err != nil {
			t.Error(err)
		}
	}()
	thread := <-named
	items = mine(w)
	if len(items) != 1 || items[0].Whole || !slices.Equal(items[0].TIDs, []int{thread}) || !strings.HasSuffix(items[0].Name, "/vcpu3") {
		t.Errorf("thread %d: found %+v", thread, items)
	}
	if s, err := w.Read(items[0]); err != nil || s.Run <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	end <- true
	<-named
}

func TestGuestProgram(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"/bin/sh -c true", "/bin/sh"},
		{"--json prog a b", "a"}, // prog may be the flag's value
		{"--json /bin/sh a b", "/bin/sh"},
		{"--mem 1G --net=none /opt/app x", "/opt/app"},
		{"--mem 1G app x", "app"},
		{"--kernel vmlinux", ""},
		{"", ""},
	} {
		if got := guestProgram(strings.Fields(c.args), func(s string) bool { return s == "/bin/sh" }); got != c.want {
			t.Errorf("%q: %q, must be %q", c.args, got, c.want)
		}
	}
	for name, want := range map[string]string{"": "process", "a\x1b[2Jb/c\n": "a_[2Jb_c_", strings.Repeat("é", 40): strings.Repeat("é", 32), "\xff": "_"} {
		if got := tidy(name); got != want {
			t.Errorf("%q: %q, must be %q", name, got, want)
		}
	}
}

func TestVCPUNumber(t *testing.T) {
	for name, want := range map[string]int{"CPU 0/KVM": 0, "CPU 17/KVM": 17, "fc_vcpu 3": 3, "vcpu0": 0, "crosvm_vcpu2": 2, "kvm-vcpu-1": 1,
		"CPU 0/TCG": -1, "vcpu": -1, "vcpu-1": -1, "vcpu0x": -1, "xvcpu0": -1, "": -1, "vcpu99999999999": -1} {
		n, ok := vcpuNumber(name)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, must be %d", name, n, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(statLine(1, 'R', 7, 1)))
	f.Add([]byte("1 2 3\n"))
	f.Add([]byte("x\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t5\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err == nil && (s.cpu < 0 || time.Duration(s.ticks)*tick < 0) {
			t.Errorf("%q: %+v", b, s)
		}
		if run, wait, _, err := parseSchedstat(b); err == nil && (run < 0 || wait < 0) {
			t.Errorf("%q: run %v, wait %v", b, run, wait)
		}
		if _, _, err := parseStatus(b); err == nil && !strings.Contains(string(b), "nonvoluntary_ctxt_switches:") {
			t.Errorf("%q has no switches, and no error", b)
		}
	})
}

// BenchmarkObserve is what a scheduler does in an epoch with 64 threads that all run: find them, read them, learn, predict, find links.
func BenchmarkObserve(b *testing.B) {
	const n = 64
	stop, started := make(chan bool), make(chan int)
	for range n {
		go func() {
			runtime.LockOSThread()
			started <- unix.Gettid()
			for {
				select {
				case <-stop:
					return
				default:
					unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
				}
			}
		}()
	}
	var items []Item
	for range n {
		tid := <-started
		items = append(items, Item{Name: strconv.Itoa(tid), PID: os.Getpid(), TIDs: []int{tid}})
	}
	defer close(stop)
	w := NewWatcher()
	defer w.Close()
	var p Predictor
	var pairs Pairs
	last := make([]Sample, n)
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.Find(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read, predict and pair 64", func(b *testing.B) {
		for b.Loop() {
			deltas := make(map[string]Sample, n)
			for i, it := range items {
				s, err := w.Read(it)
				if err != nil {
					b.Fatal(err)
				}
				delta, dt := s.Since(last[i])
				last[i] = s
				deltas[it.Name] = delta
				p.Observe(it.Name, dt, delta)
				p.Predict(it.Name)
			}
			pairs.Observe(1e8, deltas)
			pairs.Links()
		}
	})
}
