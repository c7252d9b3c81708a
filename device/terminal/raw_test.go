package terminal_test

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

func TestRawAndRestore(t *testing.T) {
	master, tty := ptytest.Open(t)
	// Settings that a user may have and that must come back exactly.
	mine := termios(t, tty)
	mine.Iflag |= unix.IXANY | unix.IUTF8
	mine.Lflag ^= unix.ECHOE
	mine.Cc[unix.VINTR] = 'k'
	mine.Cc[unix.VMIN], mine.Cc[unix.VTIME] = 3, 7
	if err := unix.IoctlSetTermios(tty, unix.TCSETS, &mine); err != nil {
		t.Fatal(err)
	}
	before := termios(t, tty)

	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	// Every byte comes through as it is, at once, without an echo.
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	write(t, master, string(all))
	var got []byte
	for len(got) < len(all) {
		p := make([]byte, 256)
		n, err := unix.Read(tty, p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	if string(got) != string(all) {
		t.Errorf("read % x, want all byte values", got)
	}
	if n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCINQ); err != nil || n != 0 {
		t.Errorf("%d bytes were echoed, %v", n, err)
	}
	if termios(t, tty).Oflag != before.Oflag {
		t.Error("output processing was changed")
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := raw.Restore(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if after := termios(t, tty); after != before {
		t.Errorf("restored %+v, want %+v", after, before)
	}

	// A later Restore leaves alone what others have set since.
	mine.Cc[unix.VINTR] = 'q'
	if err := unix.IoctlSetTermios(tty, unix.TCSETS, &mine); err != nil {
		t.Fatal(err)
	}
	if err := raw.Restore(); err != nil || termios(t, tty).Cc[unix.VINTR] != 'q' {
		t.Errorf("the second Restore changed the terminal (%v)", err)
	}
}

func TestGuard(t *testing.T) {
	_, tty := ptytest.Open(t)
	before := termios(t, tty)
	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	func() { defer raw.Guard() }()
	if termios(t, tty) == before {
		t.Error("Guard restored without a panic")
	}
	func() {
		defer func() {
			if v := recover(); v != "bug" {
				t.Errorf("the panic arrives as %v", v)
			}
		}()
		defer raw.Guard()
		panic("bug")
	}()
	if termios(t, tty) != before {
		t.Error("Guard did not restore on a panic")
	}
}

func TestRawOfNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, fd := range []int{int(f.Fd()), -1} {
		if terminal.IsTerminal(fd) {
			t.Errorf("fd %d is taken for a terminal", fd)
		}
		raw, err := terminal.MakeRaw(fd)
		if err != nil {
			t.Fatalf("fd %d: %v", fd, err)
		}
		if err := raw.Restore(); err != nil {
			t.Errorf("fd %d: %v", fd, err)
		}
	}
	_, tty := ptytest.Open(t)
	if !terminal.IsTerminal(tty) {
		t.Error("a pseudo-terminal is not taken for a terminal")
	}
}

func TestRestoreOfClosedTerminal(t *testing.T) {
	_, tty := ptytest.Open(t)
	fd, err := unix.FcntlInt(uintptr(tty), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := terminal.MakeRaw(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if err := raw.Restore(); err == nil {
		t.Error("restoring a closed descriptor succeeds")
	}
}
