package process

import (
	"errors"
	"os/exec"
	"testing"
)

func TestKill(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Find(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("alive %v, %v", id.Alive(), err)
	}
	other := ID{id.PID, id.Birth + 1}
	if other.Alive() {
		t.Error("another process with the same ID counts as alive")
	}
	if err := other.Kill(); !errors.Is(err, ErrGone) || !id.Alive() {
		t.Errorf("killing an earlier owner of the ID: %v; the present one is alive: %v", err, id.Alive())
	}
	if err := id.Kill(); err != nil || id.Alive() {
		t.Errorf("alive %v after Kill: %v", id.Alive(), err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if err := id.Kill(); !errors.Is(err, ErrGone) {
		t.Errorf("a second Kill: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1 (a) b) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 7 1 1")
	f.Add("1 (a")
	f.Fuzz(func(t *testing.T, text string) {
		if birth, state, err := parse(text); err != nil && birth != 0 && state == 0 {
			t.Errorf("%d %d %v", birth, state, err)
		}
	})
}
