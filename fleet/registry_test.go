package fleet

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/qenex/qenex-kernel/internal/process"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "web-1_2+3.4", strings.Repeat("x", 64), newName()} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", ".new-1", "-d", "a/b", "a b", "a\x00", "ä", strings.Repeat("x", 65)} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRegistry(t *testing.T) {
	r, err := Open(filepath.Join(t.TempDir(), "new"))
	if err != nil {
		t.Fatal(err)
	}
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("a registry that was never used lists %v, %v", list, err)
	}
	if _, err := r.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get before Create: %v", err)
	}
	a, err := r.Create(Spec{Name: "a", CPUs: 3})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(a.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", info.Mode(), err)
	}
	if _, err := r.Create(Spec{Name: "a"}); !errors.Is(err, ErrExists) {
		t.Errorf("a second a: %v", err)
	}
	for _, other := range []string{"container", ".new-left"} { // of the container runtime; of a process that was killed
		if err := os.Mkdir(filepath.Join(r.dir, other), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Create(Spec{Name: "container"}); !errors.Is(err, ErrExists) {
		t.Errorf("a machine with a container's name: %v", err)
	}
	b, err := r.Create(Spec{})
	if err != nil || CheckName(b.Name) != nil {
		t.Fatalf("%v, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, ".new-left")); err == nil {
		t.Error("what a killed process left is still there")
	}
	list, err := r.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[0].CPUs != 3 || !list[0].Alive() || list[1].Name != b.Name {
		t.Errorf("list %v, %v", list, err)
	}
	if err := r.Remove(a); !errors.Is(err, ErrRunning) {
		t.Errorf("removing a machine that runs: %v", err)
	}
	if err := r.Finish(a, Outcome{Cause: "panic", Code: 11}, true); err != nil {
		t.Fatal(err)
	}
	if a, err = r.Get("a"); err != nil || a.Alive() || a.Outcome.Code != 11 {
		t.Errorf("%+v, %v", a, err)
	}
	if err := r.Remove(a); err != nil {
		t.Error(err)
	}
	if err := errors.Join(r.Remove(a), r.Finish(b, Outcome{}, false)); err != nil {
		t.Error(err)
	}
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

// TestReusedProcessID wants an entry whose process is gone not to be taken for that of a new process with its number.
func TestReusedProcessID(t *testing.T) {
	r, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	vm, err := r.Create(Spec{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	vm.Process.Birth-- // this process's number, and another's time
	if err := vm.write(); err != nil {
		t.Fatal(err)
	}
	if vm, err = r.Get("a"); err != nil || vm.Alive() {
		t.Fatalf("alive %v, %v", vm.Alive(), err)
	}
	if err := vm.Kill(); !errors.Is(err, process.ErrGone) {
		t.Fatalf("killing it: %v", err)
	}
	if info := vm.Info(t.Context()); info.State != StateDead {
		t.Errorf("state %s", info.State)
	}
	if _, err := r.Create(Spec{Name: "a"}); err != nil { // takes the dead one's place
		t.Error(err)
	}
}

// TestKilledProcess wants a machine whose process was killed to be dead, and removable.
func TestKilledProcess(t *testing.T) {
	r, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	vm, err := r.Create(Spec{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	if vm.Process, err = process.Find(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := vm.write(); err != nil {
		t.Fatal(err)
	}
	if info := vm.Info(t.Context()); info.State != StateSilent { // it has no socket
		t.Errorf("state %s", info.State)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if info := vm.Info(t.Context()); info.State != StateDead {
		t.Errorf("state %s", info.State)
	}
	if err := r.Remove(vm); err != nil {
		t.Error(err)
	}
}

// TestCreateTogether lets many want the same name.
func TestCreateTogether(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			r, err := Open(dir)
			if err == nil {
				_, err = r.Create(Spec{Name: "one"})
			}
			switch {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, ErrExists):
				t.Error(err)
			}
			if vm, err := r.Get("one"); err != nil || vm.Name != "one" {
				t.Errorf("half a machine: %v", err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d machines have one name", made.Load())
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"name":"a","process":{"pid":1,"birth":2}}`))
	f.Add([]byte(`{"name":"b","process":{"pid":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseEntry(b, "a"); err == nil && (e.Name != "a" || e.Process.PID <= 0) {
			t.Errorf("%+v", e)
		}
	})
}
