package kvmtest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a testing.TB that notes failures and skips instead of acting on them.
type recorder struct {
	testing.TB
	errors, skips, fatals []string
	cleanups              []func()
}

func (r *recorder) Helper()               {}
func (r *recorder) Setenv(string, string) {}
func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(string, ...any)   {}
func (r *recorder) Errorf(f string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(f, args...))
}

func (r *recorder) Skipf(f string, args ...any) {
	r.skips = append(r.skips, fmt.Sprintf(f, args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(f string, args ...any) {
	r.fatals = append(r.fatals, fmt.Sprintf(f, args...))
	runtime.Goexit()
}

// run calls f as the testing package would: on a goroutine that Skipf and Fatalf may end.
func (r *recorder) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for i := len(r.cleanups) - 1; i >= 0; i-- {
				r.cleanups[i]()
			}
		}()
		f()
	}()
	<-done
}

func TestOpenWithoutDevice(t *testing.T) {
	for _, c := range []struct {
		env          string
		skips, fatal int
	}{{"", 1, 0}, {"1", 0, 1}} {
		t.Setenv(RequireEnv, c.env)
		r := &recorder{TB: t}
		r.run(func() { openPath(r, t.TempDir()+"/kvm") })
		if len(r.skips) != c.skips || len(r.fatals) != c.fatal {
			t.Errorf("%s=%q: skips %q, failures %q", RequireEnv, c.env, r.skips, r.fatals)
		}
	}
}

func TestOpenClosesWithTheTest(t *testing.T) {
	NoLeaks(t)
	if s := Open(t); s == nil {
		t.Fatal("no System")
	}
}

func TestNoLeaksFindsLeaks(t *testing.T) {
	NoLeaks(t)
	release := make(chan struct{})
	var file *os.File
	var memory []byte
	r := &recorder{TB: t}
	r.run(func() {
		noLeaks(r, 50*time.Millisecond)
		var err error
		if file, err = os.Open("/dev/null"); err != nil {
			t.Error(err)
		}
		fd, err := unix.MemfdCreate("leaked", 0)
		if err != nil {
			t.Error(err)
			return
		}
		if err := unix.Ftruncate(fd, 8192); err != nil {
			t.Error(err)
		}
		if memory, err = unix.Mmap(fd, 0, 8192, unix.PROT_READ, unix.MAP_SHARED); err != nil {
			t.Error(err)
		}
		unix.Close(fd)
		go func() { <-release }()
	})
	got := strings.Join(r.errors, "\n")
	for _, want := range []string{"TestNoLeaksFindsLeaks.func", "descriptors more of /dev/null", "8192 bytes more mapped of /memfd:leaked"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	close(release)
	file.Close()
	if err := unix.Munmap(memory); err != nil {
		t.Error(err)
	}
}

func TestNoLeaksPassesWithoutLeaks(t *testing.T) {
	r := &recorder{TB: t}
	r.run(func() {
		NoLeaks(r)
		s := Open(r)
		vm, err := s.CreateVM()
		if err != nil {
			t.Error(err)
			return
		}
		r.Cleanup(func() { vm.Close() })
		c, err := vm.CreateVCPU(0)
		if err != nil {
			t.Error(err)
			return
		}
		r.Cleanup(func() { c.Close() })
	})
	if len(r.errors) > 0 {
		t.Errorf("leaks reported: %q", r.errors)
	}
}
