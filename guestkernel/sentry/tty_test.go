package sentry

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/qenex/qenex-kernel/internal/ptytest"
)

func init() { scenarios["tty"] = scenarioTTY }

// scenarioTTY waits until the program has put its child in the foreground, resizes the terminal and interrupts.
func scenarioTTY(s *Sandbox, _ *os.File) error {
	p, err := s.started()
	if err != nil {
		return err
	}
	if err := until(func() (bool, error) {
		pg := foreground(p)
		return pg != nil && pg != p.tg.ProcessGroup(), nil
	}); err != nil {
		return err
	}
	if err := s.Resize(0, 100, 40); err != nil {
		return err
	}
	if err := s.Resize(4711, 1, 1); err == nil {
		return fmt.Errorf("a program that does not exist has a terminal")
	}
	return s.Signal(0, syscall.SIGINT, false)
}

// TestTerminal runs a program that uses job control on a terminal.
func TestTerminal(t *testing.T) {
	needPlatform(t)
	master, slave := ptytest.Open(t)
	n, err := syscall.Dup(slave)
	if err != nil {
		t.Fatal(err)
	}
	tty := os.NewFile(uintptr(n), "tty")
	defer tty.Close()
	spec := native("python3", "-c", `
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
print(sys.stdin.isatty(), sys.stdout.isatty(), os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL); os.setpgid(0, 0); signal.pause()
while os.getpgid(pid) != pid: pass
os.tcsetpgrp(0, pid)
status = os.waitpid(pid, 0)[1]
os.tcsetpgrp(0, os.getpgrp())
print("child ended by", status, tuple(os.get_terminal_size()), flush=True)
open("/dev/tty", "w").write("by name\n")
print("read", input(), flush=True)
sys.exit(6)
`)
	spec.TTY = true
	cmd := command(t, spec, scenarioEnv+"=tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(master)
	for _, want := range []string{"True True True True", "child ended by 2 (100, 40)", "by name"} {
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimRight(line, "\r\n") != want {
			t.Fatalf("%q, %v; want %q", line, err, want)
		}
	}
	fmt.Fprintln(master, "typed")
	for _, want := range []string{"typed", "read typed"} { // the first is the terminal's echo
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimRight(line, "\r\n") != want {
			t.Fatalf("%q, %v; want %q", line, err, want)
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 6 {
		t.Fatal(err)
	}
}

// TestTerminalNeeded checks that TTY without a terminal is refused.
func TestTerminalNeeded(t *testing.T) {
	needPlatform(t)
	spec := shell("true")
	spec.TTY = true
	out, err := command(t, spec).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not a terminal") {
		t.Fatalf("%v, %q", err, out)
	}
}
