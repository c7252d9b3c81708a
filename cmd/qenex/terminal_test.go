package main

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/ptytest"
)

// TestTerminal runs a guest on a terminal, ends it by key, signal, panic of the guest and bad input, and wants the terminal to be as it
// was, each time.
func TestTerminal(t *testing.T) {
	kvmtest.Open(t)
	for name, tt := range map[string]struct {
		args []string
		act  func(master *os.File, cmd *exec.Cmd) error // once the guest runs
		want int
	}{
		"Ctrl-A x": {bare(t, bareguest.Chatter), func(m *os.File, _ *exec.Cmd) error { _, err := m.Write([]byte{1, 'x'}); return err }, exitQuit},
		"SIGTERM":  {bare(t, bareguest.Chatter), func(_ *os.File, c *exec.Cmd) error { return c.Process.Signal(syscall.SIGTERM) }, exitSignal + 15},
		"panic":    {bare(t, bareguest.Panic), nil, exitPanic},
		"input":    {[]string{"run", "--kernel", "/nonexistent"}, nil, exitInput},
	} {
		t.Run(name, func(t *testing.T) {
			master, tty := ptytest.Open(t)
			before, err := unix.IoctlGetTermios(tty, unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := command(tt.args...)
			own, err := unix.Dup(tty)
			if err != nil {
				t.Fatal(err)
			}
			slave := os.NewFile(uintptr(own), "terminal")
			defer slave.Close()
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			running := make(chan struct{})
			go func() { // a terminal that nobody reads would stop the guest; it ends with the pseudo-terminal
				buf := make([]byte, 4096)
				seen := false
				for {
					n, err := master.Read(buf)
					if !seen && bytes.IndexByte(buf[:n], 'x') >= 0 {
						seen = true
						close(running)
					}
					if err != nil {
						return
					}
				}
			}()
			if tt.act != nil {
				<-running
				if err := tt.act(master, cmd); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tt.want {
				t.Errorf("exit code %d, want %d", code, tt.want)
			}
			after, err := unix.IoctlGetTermios(tty, unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if *after != *before {
				t.Errorf("terminal settings %+v, were %+v", after, before)
			}
		})
	}
}
