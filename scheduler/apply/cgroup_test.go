package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/scheduler/plan"
	"golang.org/x/sys/unix"
)

// unified is a kernel's cgroup v2 hierarchy as far as appliers see it: groups by path, and where threads are.
type unified struct {
	groups  map[string]*unit
	members map[int]string
	writes  int
}

type unit struct {
	threaded bool
	control  bool // "cpu" in cgroup.subtree_control
	weight   string
	max      string
}

const mountV2 = "/cg"

func newUnified(dirs ...string) *unified {
	u := &unified{groups: map[string]*unit{mountV2: {control: true}}, members: map[int]string{}}
	for _, d := range dirs {
		u.groups[mountV2+d] = &unit{}
	}
	return u
}

func (u *unified) at(tid int) string {
	if dir, ok := u.members[tid]; ok {
		return dir
	}
	return mountV2 + "/guests"
}

func (u *unified) ReadFile(name string) ([]byte, error) {
	if strings.HasPrefix(name, "/proc/") {
		tid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "12:cpuset:/other\n0::%s\n", strings.TrimPrefix(u.at(tid), mountV2)), nil
	}
	g := u.groups[filepath.Dir(name)]
	if g == nil {
		return nil, fs.ErrNotExist
	}
	switch filepath.Base(name) {
	case "cgroup.controllers":
		return []byte("cpuset cpu io memory\n"), nil
	case "cgroup.subtree_control":
		if g.control {
			return []byte("memory cpu\n"), nil
		}
		return []byte("memory\n"), nil
	case "cgroup.threads":
		var b []byte
		for tid, dir := range u.members {
			if dir == filepath.Dir(name) {
				b = fmt.Appendln(b, tid)
			}
		}
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (u *unified) WriteFile(name, text string) error {
	u.writes++
	dir := filepath.Dir(name)
	g, parent := u.groups[dir], u.groups[filepath.Dir(dir)]
	if g == nil {
		return fs.ErrNotExist
	}
	has := parent != nil && parent.control
	switch file := filepath.Base(name); {
	case file == "cgroup.type" && text == "threaded":
		g.threaded = true
	case file == "cgroup.subtree_control" && (text == "+cpu" || text == "-cpu"):
		g.control = text == "+cpu"
	case file == "cpu.weight" && has:
		g.weight = text
	case file == "cpu.max" && has:
		g.max = text
	case file == "cgroup.threads":
		tid, err := strconv.Atoi(text)
		from := u.at(tid)
		// A thread may go only within its domain: to a threaded group below its process's, and back.
		if err != nil || !(g.threaded && filepath.Dir(dir) == from || filepath.Dir(from) == dir) {
			return unix.EOPNOTSUPP
		}
		u.members[tid] = dir
	default:
		return fs.ErrNotExist
	}
	return nil
}

func (u *unified) Mkdir(name string) error {
	if u.groups[name] != nil {
		return fs.ErrExist
	}
	if u.groups[filepath.Dir(name)] == nil {
		return fs.ErrNotExist
	}
	u.groups[name] = &unit{}
	return nil
}

func (u *unified) Remove(name string) error {
	if u.groups[name] == nil {
		return fs.ErrNotExist
	}
	for _, dir := range u.members {
		if dir == name {
			return unix.EBUSY
		}
	}
	delete(u.groups, name)
	return nil
}

func (u *unified) below(dir string) (names []string) {
	for name := range u.groups {
		if filepath.Dir(name) == mountV2+dir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestUnified(t *testing.T) {
	g, h := newGuest(t, 0), newGuest(t, 0)
	u := newUnified("/guests")
	a, err := open(Options{}, findCgroups(mountV2, u))
	if err != nil {
		t.Fatal(err)
	}
	targets := []Target{g.worker(), h.worker()}
	settings := []plan.Setting{{Weight: 250, Quota: 1.5}, {Weight: 50, Quota: 1}}
	if r := a.must(t, targets, settings); r.Changed != 2 || len(r.Warnings) != 0 {
		t.Errorf("%+v", r)
	}
	dirs := u.below("/guests")
	if len(dirs) != 2 || !u.groups[mountV2+"/guests"].control {
		t.Fatalf("%q", dirs)
	}
	if first := *u.groups[u.at(g.tid)]; first != (unit{true, false, "250", "150000 100000"}) {
		t.Errorf("%+v", first)
	}
	if second := *u.groups[u.at(h.tid)]; second != (unit{true, false, "50", "100000 100000"}) {
		t.Errorf("%+v", second)
	}
	writes := u.writes
	if r := a.must(t, targets, settings); r.Changed != 0 || u.writes != writes {
		t.Errorf("the same plan: %+v, %d writes", r, u.writes-writes)
	}
	// The first leaves; what was changed of the parent is not forgotten with its group.
	if r := a.must(t, targets[1:], settings[1:]); r.Returned != 1 {
		t.Errorf("%+v", r)
	}
	if dirs := u.below("/guests"); len(dirs) != 1 || u.at(g.tid) != mountV2+"/guests" || !u.groups[mountV2+"/guests"].control {
		t.Errorf("%q", dirs)
	}
	// A thread born in the group goes to its parent.
	u.members[1<<22+1] = u.at(h.tid)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if dirs := u.below("/guests"); len(dirs) != 0 || u.at(h.tid) != mountV2+"/guests" || u.groups[mountV2+"/guests"].control {
		t.Errorf("after Close: %q, %+v", dirs, *u.groups[mountV2+"/guests"])
	}
}

// refuses is a hierarchy that was not delegated to this user.
type refuses struct{ *unified }

func (refuses) Mkdir(string) error { return unix.EACCES }

func TestNotDelegated(t *testing.T) {
	g := newGuest(t, 0)
	was := stateOf(t, g.tid)
	u := newUnified("/guests")
	a, err := open(Options{}, findCgroups(mountV2, refuses{u}))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.must(t, []Target{g.worker()}, []plan.Setting{{Weight: 50, Quota: 1}})
	}
	if now := stateOf(t, g.tid); os.Geteuid() == 0 && now.Nice != min(was.Nice+3, 19) {
		t.Errorf("nice %d, and %d before", now.Nice, was.Nice)
	}
	if !contains(a.Limits(), "permission denied") || !contains(a.Limits(), "no quotas") {
		t.Errorf("%q", a.Limits())
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if now := stateOf(t, g.tid); now.Nice != was.Nice {
		t.Errorf("nice %d after Close, %d before", now.Nice, was.Nice)
	}
}

// TestUnifiedKernel moves a thread in this kernel's own hierarchy, which may lack the cpu controller.
func TestUnifiedKernel(t *testing.T) {
	root(t)
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(mount + "/cgroup.subtree_control"); err != nil {
			continue
		}
		c := cgroups{Mount: mount, V2: true, proc: "/proc", files: osFiles{}}
		g := newGuest(t, 0)
		parent, err := c.of(g.tid)
		if err != nil {
			t.Fatal(err)
		}
		dir := fmt.Sprintf("%s/qenex-test-%d", parent, os.Getpid())
		if err := c.create(dir, false); err != nil {
			t.Fatal(err)
		}
		if err := c.join(dir, g.tid); err != nil {
			t.Error(err)
		}
		if now, err := c.of(g.tid); now != dir {
			t.Errorf("in %s, %v", now, err)
		}
		if now, err := c.of(g.cmd.Process.Pid); now != parent {
			t.Errorf("the other threads are in %s, %v", now, err)
		}
		if err := c.remove(dir); err != nil { // with the thread in it
			t.Error(err)
		}
		if now, err := c.of(g.tid); now != parent {
			t.Errorf("in %s, %v", now, err)
		}
		return
	}
	t.Skip("needs cgroup v2")
}

func TestFindCgroups(t *testing.T) {
	for _, c := range []struct{ files, mount, sets string }{
		{"", "", ""},
		{"cgroup.controllers=memory pids", "", ""},
		{"cgroup.controllers=cpuset cpu", ".", "."},
		{"unified/cgroup.controllers= cpu/tasks= cpuset/tasks=", "cpu", "cpuset"},
		{"unified/cgroup.controllers=cpu cpuset/tasks=", "unified", "cpuset"},
		{"cpu,cpuacct/tasks=", "cpu,cpuacct", ""},
	} {
		dir := t.TempDir()
		for _, f := range strings.SplitAfter(strings.ReplaceAll(c.files, "cpuset cpu", "cpuset\tcpu"), " ") {
			name, text, ok := strings.Cut(f, "=")
			if !ok {
				continue
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		place := func(name string) string {
			if name == "" {
				return ""
			}
			return filepath.Join(dir, name)
		}
		if got := findCgroups(dir, osFiles{}); got.Mount != place(c.mount) || got.Sets != place(c.sets) {
			t.Errorf("%q: CPUs at %q, cpusets at %q", c.files, got.Mount, got.Sets)
		}
	}
}

// text is a file system in which every file says the same.
type text string

func (b text) ReadFile(string) ([]byte, error) { return []byte(b), nil }
func (text) WriteFile(string, string) error    { return fs.ErrPermission }
func (text) Mkdir(string) error                { return fs.ErrPermission }
func (text) Remove(string) error               { return fs.ErrPermission }

func FuzzCgroupOfThread(f *testing.F) {
	for _, s := range []string{"0::/", "0::/a.slice/b:c\n", "1:cpu:/\n0::/x\n", "4:cpuacct,cpu:/docker/1\n", "0::/../other\n", "1:cpu:x", "1:cpu", "0::/a/../../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, v2 := range []bool{false, true} {
			c := cgroups{Mount: mountV2, V2: v2, Sets: mountV2, Sets2: v2, proc: "/proc", files: text(s)}
			dir, err := c.of(1)
			if err != nil || dir != "" && dir != mountV2 && !strings.HasPrefix(dir, mountV2+"/") {
				t.Errorf("%q: %q, %v", s, dir, err)
			}
			if left := c.left(1, []int{0}); len(left) > 1 {
				t.Errorf("%q: CPUs %v", s, left)
			}
		}
	})
}

func BenchmarkApplySame(b *testing.B) {
	a, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ids, err := getCPUs(0)
	if err != nil {
		b.Fatal(err)
	}
	targets, settings := []Target{{PID: os.Getpid(), TIDs: []int{unix.Gettid()}}}, []plan.Setting{{CPUs: ids[:1]}}
	for b.Loop() {
		if _, err := a.Apply(targets, settings); err != nil {
			b.Fatal(err)
		}
	}
}
