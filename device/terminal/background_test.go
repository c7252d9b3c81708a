package terminal_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

// TestBackground runs itself as the leader of a session whose terminal is a pty, which
// runs itself again in a process group of its own: in the background.
func TestBackground(t *testing.T) {
	const key = "QENEX_TEST_BACKGROUND"
	self := func(next string, attr *syscall.SysProcAttr, tty *os.File) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestBackground$", "-test.v")
		cmd.Env = append(os.Environ(), key+"="+next)
		cmd.SysProcAttr = attr
		cmd.Stdin = tty
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s process: %v\n%s", next, err, out)
		}
	}
	switch os.Getenv(key) {
	case "":
		_, fd := ptytest.Open(t)
		dup, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		tty := os.NewFile(uintptr(dup), "tty")
		defer tty.Close()
		self("foreground", &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}, tty)
	case "foreground":
		raw, err := terminal.MakeRaw(0)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Restore(); err != nil {
			t.Fatal(err)
		}
		self("background", &syscall.SysProcAttr{Setpgid: true}, os.Stdin)
	case "background":
		before := termios(t, 0)
		if _, err := terminal.MakeRaw(0); !errors.Is(err, terminal.ErrBackground) {
			t.Errorf("MakeRaw: %v, want %v", err, terminal.ErrBackground)
		}
		if termios(t, 0) != before {
			t.Error("the terminal was changed")
		}
	}
}
