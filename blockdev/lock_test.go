package blockdev

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLocks opens an image twice, in all ways.
func TestLocks(t *testing.T) {
	type way struct {
		name string
		spec func(path string) Spec
	}
	rw := way{"writing", func(p string) Spec { return Spec{Path: p, Format: Raw} }}
	ro := way{"reading", func(p string) Spec { return Spec{Path: p, ReadOnly: true} }}
	cow := way{"overlay", func(p string) Spec { return Spec{Path: p, Throwaway: true, Dir: filepath.Dir(p)} }}
	for _, c := range []struct {
		first, second way
		ok            bool
	}{
		{rw, rw, false}, {rw, ro, false}, {ro, rw, false}, {cow, rw, false}, {rw, cow, false},
		{ro, ro, true}, {cow, cow, true}, {ro, cow, true},
	} {
		t.Run(c.first.name+", "+c.second.name, func(t *testing.T) {
			path := writeImage(t, make([]byte, 4096))
			first, err := Open(c.first.spec(path))
			if err != nil {
				t.Fatal(err)
			}
			second, err := Open(c.second.spec(path))
			if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrLocked) {
				t.Errorf("%v", err)
			}
			if err == nil {
				second.Close()
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			mustOpen(t, rw.spec(path))
		})
	}
	t.Run("one overlay, two machines", func(t *testing.T) {
		path := writeImage(t, make([]byte, 4096))
		s := Spec{Path: path, Overlay: path + ".overlay"}
		mustOpen(t, s)
		if _, err := Open(s); !errors.Is(err, ErrLocked) {
			t.Errorf("%v", err)
		}
	})
}

// TestLocksQEMU wants QEMU to respect our locks, and us QEMU's.
func TestLocksQEMU(t *testing.T) {
	qemuIO, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is not installed (package qemu-utils)")
	}
	path := writeImage(t, make([]byte, 64<<10))
	try := func(args ...string) string {
		out, _ := exec.Command(qemuIO, append(args, "-f", "raw", "-c", "read 0 512", path)...).CombinedOutput()
		return string(out)
	}
	d, err := Open(Spec{Path: path, Format: Raw})
	if err != nil {
		t.Fatal(err)
	}
	if out := try(); !strings.Contains(out, "lock") {
		t.Errorf("qemu-io writes an image that we write: %s", out)
	}
	d.Close()
	d = mustOpen(t, Spec{Path: path, ReadOnly: true})
	if out := try("-r"); !strings.Contains(out, "read 512/512") {
		t.Errorf("qemu-io cannot read beside us: %s", out)
	}
	if out := try(); !strings.Contains(out, "lock") {
		t.Errorf("qemu-io writes an image that we read: %s", out)
	}
	d.Close()

	// The other way round: qemu-io keeps the image open until its standard input ends.
	cmd := exec.Command(qemuIO, "-f", "raw", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("length\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 64)); err != nil { // it has answered, so it is open
		t.Fatal(err)
	}
	for _, s := range []Spec{{Path: path, Format: Raw}, {Path: path, ReadOnly: true}} {
		if d, err := Open(s); !errors.Is(err, ErrLocked) {
			t.Errorf("beside qemu-io that writes: %+v: %v", s, err)
			if err == nil {
				d.Close()
			}
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
