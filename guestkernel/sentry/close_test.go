package sentry

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

func init() {
	scenarios["close"] = func(s *Sandbox, _ *os.File) error {
		if err := untilRunning(s, 3); err != nil {
			return err
		}
		if err := s.Start(); !errors.Is(err, ErrStarted) {
			return fmt.Errorf("a second Start: %v", err)
		}
		if err := s.Pause(); err != nil {
			return err
		}
		return errors.Join(s.Close(), s.Close())
	}
}

// TestClose ends a paused sandbox whose programs would run on.
func TestClose(t *testing.T) {
	if got := run(t, shell(twoSleeps), "", scenarioEnv+"=close"); got != (result{code: 137}) {
		t.Fatalf("%+v", got)
	}
}

// TestBeforeStart checks that a sandbox that was never started refuses requests and closes.
func TestBeforeStart(t *testing.T) {
	needPlatform(t)
	s, err := New(shell("exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	_, waitErr := s.Wait()
	_, listErr := s.PIDs()
	_, _, execErr := s.Exec(ExecSpec{Args: []string{"/bin/true"}})
	for name, err := range map[string]error{
		"Wait": waitErr, "PIDs": listErr, "Exec": execErr, "Pause": s.Pause(), "Resume": s.Resume(), "Save": s.Save(nil, false),
		"Signal": s.Signal(0, syscall.SIGTERM, false), "Resize": s.Resize(0, 80, 25),
	} {
		if !errors.Is(err, ErrNotStarted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st := s.Stats(); st.Processes != 0 {
		t.Errorf("stats %+v", st)
	}
	if s.PID() != 0 {
		t.Errorf("PID %d", s.PID())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestShellStatus(t *testing.T) {
	for st, want := range map[Status]int{{}: 0, {Code: 7}: 7, {Signal: syscall.SIGKILL}: 137, {Code: 255}: 255} {
		if got := st.Shell(); got != want {
			t.Errorf("%+v is %d, want %d", st, got, want)
		}
	}
}
