package bench

import (
	"bytes"
	"context"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// Every experiment with programs, by a QENEX that only starts them, beside runners that are missing.
func TestPrograms(t *testing.T) {
	kvmtest.Open(t)
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip(err)
	}
	t.Setenv(fakeEnv, "1")
	table, err := Run(context.Background(), Options{
		Guest: t.TempDir(), QEMU: "no-qemu-here", Runsc: "no-runsc-here", Runs: 2, BootRuns: 1, Experiments: []string{"native"},
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 14 {
		t.Fatalf("%d rows", len(table.Rows))
	}
	names := []string{nativeName, qenexName, systrapName, ptraceName, linuxName}
	for n, r := range table.Rows {
		if len(r.Cells) != len(names) {
			t.Fatalf("%s: cells %+v", r.Title, r.Cells)
		}
		for i, c := range r.Cells {
			switch {
			case c.Peer != names[i]:
				t.Errorf("%s: cell %d is of %s", r.Title, i, c.Peer)
			case n >= 11 && i == 0: // the core's own figures
				if !strings.HasPrefix(c.Why, "not run: it has no such core") {
					t.Errorf("%s: %+v", r.Title, c)
				}
			case i < 2 && (c.Median <= 0 || c.Why != "") && !strings.HasPrefix(c.Why, "not run: no python3"):
				t.Errorf("%s: %+v", r.Title, c)
			case i >= 2 && !strings.HasPrefix(c.Why, "not run: no "):
				t.Errorf("%s: %+v", r.Title, c)
			}
		}
		if c := r.Cells[0]; c.Median > 0 && c.Ratio <= 0 {
			t.Errorf("%s: no ratio to native: %+v", r.Title, c)
		}
	}
}

func TestFigures(t *testing.T) {
	got, err := figures("noise\nfigure: 2.5\r\n[ 1.0] figure: 9\nfigure: 4\n", 2, 10)
	if err != nil || !slices.Equal(got, []float64{25, 40}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, out := range []string{"", "figure: 1\n", "figure: 1\nfigure: x\n", "figure: 1\nfigure: -1\n", "figure: 1\nfigure: NaN\n", "figure: 1\nfigure: Inf\n", "figure: 1\nfigure: 2\nfigure: 3\n"} {
		if got, err := figures(out, 2, 1); err == nil {
			t.Errorf("%q: %v", out, got)
		}
	}
}

func TestTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", "cat | cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pids, err := tree(os.Getpid())
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) || pids[0] != os.Getpid() {
		t.Errorf("%v, %v: no %d", pids, err, cmd.Process.Pid)
	}
	if n, err := proportional(cmd.Process.Pid); err != nil || n == 0 || n > 1<<30 {
		t.Errorf("%d bytes, %v", n, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := proportional(cmd.Process.Pid); err == nil {
		t.Error("memory of a process that has ended")
	}
}

// Whatever a guest prints, figures come back positive, finite and as many as asked for, or not at all.
func FuzzFigures(f *testing.F) {
	for _, seed := range []string{"", "figure: 1\nfigure: 2\n", "figure: 1e308\nfigure: 1e-308\n", "figure: 0x1p-2\nfigure: +3\r\n", "figure: \x00\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, out string) {
		got, err := figures(out, 2, 1)
		if err == nil && len(got) != 2 {
			t.Fatalf("%v", got)
		}
		for _, v := range got {
			if !(v > 0 && v <= math.MaxFloat64) {
				t.Fatalf("%v", got)
			}
		}
	})
}
