package terminal_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

func newReader(t *testing.T, fd int) *terminal.Reader {
	t.Helper()
	r, err := terminal.NewReader(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// readAsync reads once in another goroutine.
func readAsync(r io.Reader) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 16))
		done <- err
	}()
	return done
}

func TestReaderReads(t *testing.T) {
	master, tty := ptytest.Open(t)
	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Restore()
	r := newReader(t, tty)
	for _, s := range []string{"a", "\x03", "several bytes"} {
		write(t, master, s)
		p := make([]byte, len(s))
		if _, err := io.ReadFull(r, p); err != nil || string(p) != s {
			t.Errorf("read %q, %v, want %q", p, err, s)
		}
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("reading no bytes: %d, %v", n, err)
	}
	master.Close()
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after a hang-up: %v, want EOF", err)
	}
}

// TestReaderStops stops a Read that waits, or is about to wait, and leaves the
// descriptor usable.
func TestReaderStops(t *testing.T) {
	master, tty := ptytest.Open(t)
	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Restore()
	for range 100 {
		r := newReader(t, tty)
		done := readAsync(r)
		var wg sync.WaitGroup
		wg.Go(r.Stop)
		wg.Go(r.Stop)
		if err := <-done; err != terminal.ErrStopped {
			t.Fatalf("stopped Read: %v, want %v", err, terminal.ErrStopped)
		}
		wg.Wait()
		if _, err := r.Read(make([]byte, 1)); err != terminal.ErrStopped {
			t.Fatalf("Read after Stop: %v, want %v", err, terminal.ErrStopped)
		}
	}
	write(t, master, "x")
	p := make([]byte, 1)
	if _, err := newReader(t, tty).Read(p); err != nil || p[0] != 'x' {
		t.Errorf("another Reader read %q, %v", p, err)
	}
}

// TestReaderClose closes under a waiting Read, twice, and finds no descriptor left.
func TestReaderClose(t *testing.T) {
	_, tty := ptytest.Open(t)
	before := openFDs(t)
	for range 100 {
		r, err := terminal.NewReader(tty)
		if err != nil {
			t.Fatal(err)
		}
		done := readAsync(r)
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		r.Stop()
		if err := <-done; err != terminal.ErrStopped {
			t.Fatalf("Read under Close: %v, want %v", err, terminal.ErrStopped)
		}
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
	if _, err := unix.FcntlInt(uintptr(tty), unix.F_GETFD, 0); err != nil {
		t.Errorf("the terminal was closed: %v", err)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestReaderOfOtherFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(name, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if p, err := io.ReadAll(newReader(t, int(f.Fd()))); err != nil || string(p) != "from a file" {
		t.Errorf("file: %q, %v", p, err)
	}

	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if _, err := unix.Write(pipe[1], []byte("from a pipe")); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	if p, err := io.ReadAll(newReader(t, pipe[0])); err != nil || string(p) != "from a pipe" {
		t.Errorf("pipe: %q, %v", p, err)
	}

	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := newReader(t, int(dir.Fd())).Read(make([]byte, 1)); !errors.Is(err, unix.EISDIR) {
		t.Errorf("directory: %v, want %v", err, unix.EISDIR)
	}
	if _, err := newReader(t, 1<<20).Read(make([]byte, 1)); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: %v, want %v", err, unix.EBADF)
	}
}
