package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

func TestCell(t *testing.T) {
	for _, c := range []struct {
		values           []float64
		median, min, max float64
	}{
		{nil, 0, 0, 0},
		{[]float64{3}, 3, 3, 3},
		{[]float64{9, 1}, 5, 1, 9},
		{[]float64{9, 1, 2}, 2, 1, 9},
	} {
		before := slices.Clone(c.values)
		got := cell("p", c.values, "")
		if got.Median != c.median || got.Min != c.min || got.Max != c.max || !slices.Equal(got.Values, before) {
			t.Errorf("%v: %+v", c.values, got)
		}
	}
}

func TestCompareAndMarkdown(t *testing.T) {
	r := Row{Title: "time", Unit: "ms", Goal: "less", Cells: []Cell{
		cell(qenexName, []float64{5}, ""), cell(pcName, []float64{20}, ""), cell(microvmName, nil, "not here"), cell(gokvmName, []float64{-1}, "died"),
	}}
	r.compare()
	var b bytes.Buffer
	table := Table{Rows: []Row{r}}
	if err := table.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"**time** (ms, less is better; goal: less)\n",
		"| qenex | 5.00 | 5.00 | 5.00 | 1 |  |\n",
		"| qemu-pc | 20.0 | 20.0 | 20.0 | 1 | 0.250 |\n",
		"| qemu-microvm | not here | | | 0 | |\n",
		"| gokvm | -1.00 | -1.00 | -1.00 | 1, then: died |  |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	kvmtest.Open(t)
	for says, o := range map[string]Options{
		"no experiment is called": {Experiments: []string{"sleep"}},
		"no peer is called":       {Peers: []string{"vmware"}},
		"must be positive":        {Runs: -1},
	} {
		if _, err := Run(context.Background(), o, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v, want one that says %q", o, err, says)
		}
	}
}

// Every experiment of monitors with one that only pretends, beside monitors that are missing.
func TestRun(t *testing.T) {
	kvmtest.Open(t)
	t.Setenv(fakeEnv, "1")
	guest := t.TempDir()
	if err := os.Mkdir(filepath.Join(guest, "lean"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"lean/vmlinux": object(selfTest, 0x1004), "initramfs-tiny.cpio": {0}, "initramfs-bench.cpio": {0}, "busybox": {0}} {
		if err := os.WriteFile(filepath.Join(guest, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(guest, "iperf3"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", guest+":"+os.Getenv("PATH"))
	var out, progress bytes.Buffer
	o := Options{Guest: guest, QEMU: "no-qemu-here", Gokvm: "no-gokvm-here", Runs: 2, BootRuns: 1, JSON: true, Progress: &progress,
		Experiments: ExperimentNames[:slices.Index(ExperimentNames, "native")]}
	table, err := Run(context.Background(), o, &out)
	if err != nil {
		t.Fatal(err)
	}
	var written Table
	if err := json.Unmarshal(out.Bytes(), &written); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 20 || len(written.Rows) != len(table.Rows) || written.Host.Versions[qenexName] != "fake 1" {
		t.Fatalf("%d rows, %d written, host %+v", len(table.Rows), len(written.Rows), written.Host)
	}
	for _, r := range table.Rows {
		if len(r.Cells) != slices.Index(PeerNames, nativeName) {
			t.Fatalf("%s: cells %+v", r.Title, r.Cells)
		}
		if c := r.Cells[0]; c.Why != "" || len(c.Values) == 0 || r.Unit != "MiB" && r.Experiment != "idle" && c.Median <= 0 {
			t.Errorf("%s: %+v", r.Title, c)
		}
		if c := r.Cells[0]; strings.HasPrefix(r.Title, "disk: sequential") && c.Median != 2 || r.Experiment == "net" && c.Median != 2048 {
			t.Errorf("%s: %+v", r.Title, c)
		}
		for _, c := range r.Cells[1:] {
			if !strings.HasPrefix(c.Why, "not run: ") {
				t.Errorf("%s: %+v", r.Title, c)
			}
		}
	}
	if !strings.Contains(progress.String(), "bench: large, run 1, qenex") {
		t.Errorf("progress:\n%s", progress.String())
	}
}

func TestRunEndsWithContext(t *testing.T) {
	kvmtest.Open(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{Guest: t.TempDir()}, &bytes.Buffer{}); err == nil {
		t.Error("no error")
	}
}

// A real monitor takes the test guests.
func TestQEMU(t *testing.T) {
	kvmtest.Open(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip(err)
	}
	table, err := Run(context.Background(), Options{
		Guest: t.TempDir(), Peers: []string{microvmName}, Experiments: []string{"start", "ports", "mmio", "boot"}, Runs: 1, BootRuns: 1, Exits: 2000,
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		switch c := r.Cells[0]; {
		case r.Experiment == "boot" && c.Why != errNoGuest.Error():
			t.Errorf("%s without a kernel: %+v", r.Title, c)
		case r.Experiment != "boot" && c.Median <= 0:
			t.Errorf("%s: %+v", r.Title, c)
		}
	}
}
