package bench

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guest/initramfs"
	"github.com/qenex/qenex-kernel/internal/cc"
)

//go:embed c
var sources embed.FS

// programTest is a program that every runner runs. What a program's own clock says is scaled to the
// row's unit.
type programTest struct {
	name  string
	runs  int
	rows  []Row
	scale float64  // of the program's figures; 0: the row is the whole run in milliseconds
	args  []string // "measure" stands for the program of c/measure.c
	linux []string // the same for a Linux guest, whose system calls are dear on a software KVM; nil: not there
	needs string   // program of the host
}

const cSource = `#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) { for (int i = 0; i < argc; i++) printf("%s %d\n", argv[i], atoi(argv[i])); return 0; }
`

func programTests(o *Options) []programTest {
	measure := func(args ...string) []string { return append([]string{"measure"}, args...) }
	sh := func(text string) []string { return []string{"/bin/sh", "-c", text} }
	return []programTest{
		{name: "hello", runs: o.Runs, args: measure("hello", "1"), linux: measure("hello", "1"),
			rows: []Row{{Title: "static hello, start to exit (Linux guest: to its line)", Unit: "ms", Goal: "under 15 ms, 1/5 of runsc-systrap or less"}}},
		{name: "getpid", runs: o.BootRuns, scale: 1, args: measure("getpid", "200000"), linux: measure("getpid", "1000"),
			rows: []Row{{Title: "getpid in a loop, per call", Unit: "ns", Goal: "below runsc-systrap"}}},
		{name: "touch", runs: o.BootRuns, scale: 1, args: measure("touch", "64"), linux: measure("touch", "4"),
			rows: []Row{{Title: "first touch of fresh memory, per page", Unit: "ns", Goal: "1.5 of runsc-systrap or less"}, {Title: "the same pages again", Unit: "ns"}}},
		{name: "pipe", runs: o.BootRuns, scale: 1e-3, args: measure("pipe", "3000"), linux: measure("pipe", "100"),
			rows: []Row{{Title: "a byte to another process and back through pipes", Unit: "us", Goal: "at or below runsc-systrap"}}},
		{name: "forks", runs: o.BootRuns, args: sh("i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i + 1)); done"),
			rows: []Row{{Title: "200 times /bin/true from sh, whole run", Unit: "ms", Goal: "at or below runsc-systrap"}}},
		{name: "python", runs: o.BootRuns, needs: "python3", args: []string{"python3", "-c", "import json, re, subprocess"},
			rows: []Row{{Title: "python3 -c 'import json, re, subprocess', whole run", Unit: "ms", Goal: "at or below runsc-systrap"}}},
		{name: "gcc", runs: o.BootRuns, needs: "gcc", args: sh("cat >/tmp/qenex-bench.c <<'E'\n" + cSource + "E\nexec gcc -O2 -static -o /tmp/qenex-bench /tmp/qenex-bench.c"),
			rows: []Row{{Title: "gcc -O2 -static of one file, whole run", Unit: "ms", Goal: "at or below runsc-systrap"}}},
		{name: "sha256", runs: o.BootRuns, scale: 1, args: measure("sha256", "256"), linux: measure("sha256", "256"),
			rows: []Row{{Title: "SHA-256 of 256 MiB in C", Unit: "ms", Goal: "0.97 of native's speed or more"}}},
		{name: "threads", runs: o.BootRuns, scale: 1e-3, args: measure("threads", "300"), linux: measure("threads", "30"),
			rows: []Row{{Title: "300 threads made, alive at once, joined; per thread", Unit: "us"}}},
		{name: "idle", runs: o.BootRuns, args: measure("idle", "1"),
			rows: []Row{{Title: "resident memory (Pss) of all processes while the program sleeps", Unit: "MiB"}}},
	}
}

// programExperiments makes experiments of the programs, and the runners they are for.
func (m *meter) programExperiments(ctx context.Context, o *Options, dir string) ([]experiment, []runner, error) {
	runners := o.runners(ctx)
	path, err := cc.Build(ctx, sources, "measure", cc.Static)
	if err != nil {
		return nil, nil, err
	}
	if m.files.program, err = programImage(dir, path); err != nil {
		return nil, nil, err
	}
	var all []experiment
	for _, p := range programTests(o) {
		if p.args[0] == "measure" {
			p.args = append([]string{path}, p.args[1:]...)
		}
		all = append(all, experiment{nativePrefix + p.name, p.runs, p.rows, func(ctx context.Context, q peer) ([]float64, error) {
			i := slices.IndexFunc(runners, func(r runner) bool { return r.name == q.name })
			return m.program(ctx, runners[i], p)
		}})
	}
	rows := []Row{{Title: "context switch between two contexts in a guest, median of a million", Unit: "ns", Goal: "under 100 ns"},
		{Title: "system call of a program with nothing behind it, without an exit", Unit: "ns"}, {Title: "the same with an exit", Unit: "ns"}}
	all = append(all, experiment{nativePrefix + "switch", o.BootRuns, rows, m.coreFigures})
	return all, runners, nil
}

// coreFigures asks QENEX what the core of its native guests can do; no peer has one.
func (m *meter) coreFigures(ctx context.Context, p peer) ([]float64, error) {
	if p.name != qenexName {
		return nil, errors.New("not run: it has no such core")
	}
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.path, "doctor", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("%s doctor: %w", p.path, err)
	}
	var report struct {
		Native *struct {
			Switch   float64 `json:"context_switch_ns"`
			Exitless float64 `json:"exitless_call_ns"`
			Call     float64 `json:"call_ns"`
		}
		Error string `json:"native_error"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("%s doctor --json: %w", p.path, err)
	}
	if report.Native == nil {
		return nil, fmt.Errorf("native guests do not run here: %s", report.Error)
	}
	return []float64{report.Native.Switch, report.Native.Exitless, report.Native.Call}, nil
}

// programImage makes an initramfs whose first process is the measuring program.
func programImage(dir, program string) (string, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "program.cpio")
	var image initramfs.Image
	image.Dir("dev", 0o755)
	image.CharDev("dev/console", 0o600, 5, 1)
	image.Text("init", string(text), 0o755)
	return path, image.WriteFile(path)
}

var errNotThere = errors.New("not run: the Linux guest has only the measuring program")

func (m *meter) program(ctx context.Context, r runner, p programTest) ([]float64, error) {
	if p.needs != "" {
		if _, err := exec.LookPath(p.needs); err != nil {
			return nil, fmt.Errorf("not run: no %s here", p.needs)
		}
	}
	switch {
	case r.argv == nil && p.linux == nil:
		return nil, errNotThere
	case r.argv == nil:
		return m.programInLinux(ctx, r, p)
	case p.name == "idle":
		return m.idle(ctx, r, p)
	}
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	argv := r.argv(p.args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	from := time.Now()
	out, err := cmd.Output()
	took := time.Since(from)
	if err != nil {
		line, _ := telling(stderr.String())
		return nil, fmt.Errorf("%w: %s", err, line)
	}
	if p.scale == 0 {
		return []float64{ms(took)}, nil
	}
	return figures(string(out), len(p.rows), p.scale)
}

// figures reads n lines of "figure: v" and scales the values.
func figures(out string, n int, scale float64) ([]float64, error) {
	var all []float64
	s := bufio.NewScanner(strings.NewReader(out))
	for s.Scan() {
		text, ok := strings.CutPrefix(strings.TrimSpace(s.Text()), "figure: ")
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || v <= 0 || math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, fmt.Errorf("%q is no figure", s.Text())
		}
		all = append(all, v*scale)
	}
	if len(all) != n {
		return nil, fmt.Errorf("%d figures in the output, not %d", len(all), n)
	}
	return all, nil
}

// programInLinux boots a kernel in QEMU with the program as its first process.
func (m *meter) programInLinux(ctx context.Context, r runner, p programTest) ([]float64, error) {
	if m.files.patched == "" {
		return nil, errNoGuest
	}
	cpu := "host"
	j := job{kernel: m.files.patched, initrd: m.files.program, cmdline: cmdline, memory: memory}
	if m.soft {
		j.cmdline, cpu = softCmdline, softCPU
	}
	j.cmdline += " -- stay " + strings.Join(p.linux[1:], " ")
	q, err := start(ctx, append([]string{r.path}, qemuArgs(microvmMachine, cpu, j)...), kvmError)
	if err != nil {
		return nil, err
	}
	defer q.stop()
	if p.scale == 0 {
		at, err := q.await([]byte("hello"), m.limit)
		return []float64{ms(at.Sub(q.started))}, err
	}
	if _, err := q.await([]byte("measured"), m.limit); err != nil {
		return nil, err
	}
	return figures(string(q.console), len(p.rows), p.scale)
}

// idle measures the memory of a sleeping program and of all that runs it.
func (m *meter) idle(ctx context.Context, r runner, p programTest) ([]float64, error) {
	q, err := start(ctx, r.argv(p.args), nil)
	if err != nil {
		return nil, err
	}
	pids := []int{q.cmd.Process.Pid}
	defer func() {
		for _, pid := range pids { // runsc's children outlive it
			unix.Kill(pid, unix.SIGKILL)
		}
		q.stop()
	}()
	if _, err := q.await([]byte("ready"), m.limit); err != nil {
		return nil, err
	}
	if pids, err = tree(q.cmd.Process.Pid); err != nil {
		return nil, err
	}
	var sum uint64
	for _, pid := range pids {
		n, err := proportional(pid)
		if err != nil {
			return nil, err
		}
		sum += n
	}
	return []float64{float64(sum) / mib}, nil
}
