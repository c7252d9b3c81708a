// Command svmtest is `go test` in the svm lane: it builds the packages' tests, runs them one after the other in one outer
// machine, and reports as go test does.
//
//	go run ./internal/svmlane/svmtest [-v] [-run regexp] [-timeout 4m] [-artefacts a,b] [-disks a,b] [-extra dir] [-programs a,b] [-cpus n] [package ...]
//
// The programs find QENEX_LANE=svm and QENEX_REQUIRE_KVM=1 in their environment, the asked-for guest artefacts under
// $QENEX_CACHE, the artefacts of -disks as disks named in $QENEX_DISKS, the files of -extra in $QENEX_EXTRA, the programs of -programs in their
// PATH with the libraries that they are linked with, and their package's testdata. The exit code is 0 only if every package passed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/svmlane"
)

// options are the command line.
type options struct {
	verbose   bool
	run       string
	timeout   time.Duration
	artefacts string
	disks     string
	extra     string
	programs  string
	cpus      int
	patterns  []string
}

func main() {
	var o options
	flag.BoolVar(&o.verbose, "v", false, "print every test's name and output")
	flag.StringVar(&o.run, "run", "", "run only tests that match this `regexp`")
	flag.DurationVar(&o.timeout, "timeout", 4*time.Minute, "stop a package's tests after this `time`, with every goroutine's stack")
	flag.StringVar(&o.artefacts, "artefacts", "", "hand in these guest artefacts (`names`, separated by commas)")
	flag.StringVar(&o.disks, "disks", "", "hand in these guest artefacts as disks of the machine (`names`, separated by commas)")
	flag.StringVar(&o.extra, "extra", "", "hand in the regular files of this `directory`")
	flag.StringVar(&o.programs, "programs", "", "hand in these programs of this host (`names`, separated by commas)")
	flag.IntVar(&o.cpus, "cpus", 0, "give the outer machine this `number` of CPUs")
	flag.Parse()
	if o.patterns = flag.Args(); len(o.patterns) == 0 {
		o.patterns = []string{"./..."}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ok, err := test(ctx, o)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "svmtest:", err)
	}
	if err != nil || !ok {
		fmt.Println("FAIL")
		os.Exit(1)
	}
}

// test builds, runs and reports; ok: every package passed.
func test(ctx context.Context, o options) (ok bool, err error) {
	if err := svmlane.Available(); err != nil {
		if os.Getenv(svmlane.SkipEnv) == "1" {
			fmt.Printf("NOT TESTED in the svm lane, %s=1: %v\n", svmlane.SkipEnv, err)
			return true, nil
		}
		return false, err
	}
	packages, err := list(ctx, o.patterns)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "qenex-svmtest")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	spec := svmlane.Spec{Timeout: time.Minute + time.Duration(len(packages))*o.timeout}
	spec.CPUs = o.cpus
	if o.artefacts != "" {
		spec.Artefacts = strings.Split(o.artefacts, ",")
	}
	if spec.Files, err = extraFiles(o.extra); err != nil {
		return false, err
	}
	if err := addPrograms(ctx, &spec, o.programs); err != nil {
		return false, err
	}
	var disks []string
	if o.disks != "" {
		for i, name := range strings.Split(o.disks, ",") {
			path, err := artefact.Path(name)
			if err != nil {
				return false, err
			}
			spec.Disks = append(spec.Disks, path)
			disks = append(disks, svmlane.DiskPath(i))
		}
	}
	for i, p := range packages {
		b, err := build(ctx, o, p, filepath.Join(dir, strconv.Itoa(i)+".test"))
		if err != nil {
			return false, err
		}
		if disks != nil {
			b.Env = append(b.Env, "QENEX_DISKS="+strings.Join(disks, ","))
		}
		spec.Binaries = append(spec.Binaries, b)
	}
	ok, err = runOnce(ctx, spec)
	if err != nil && ctx.Err() == nil {
		// QEMU's emulation of SVM hangs once in a while. A test that hangs ends by its own timeout, inside the machine.
		fmt.Fprintf(os.Stderr, "svmtest: the outer machine failed: %v; once more with a new one\n", err)
		ok, err = runOnce(ctx, spec)
	}
	return ok, err
}

// extraDir is where the tests find the files of -extra.
const extraDir = "/extra"

// extraFiles lists the regular files of dir, if there is one, by their paths in the machine.
func extraFiles(dir string) (map[string]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("files to hand in: %w", err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		if e.Type().IsRegular() {
			files[extraDir+"/"+e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	return files, nil
}

// addPrograms hands in programs and their libraries.
func addPrograms(ctx context.Context, spec *svmlane.Spec, names string) error {
	if names == "" {
		return nil
	}
	if spec.Files == nil {
		spec.Files = make(map[string]string)
	}
	for name := range strings.SplitSeq(names, ",") {
		path, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("program to hand in: %w", err)
		}
		if err := svmlane.Linked(ctx, spec.Files, path); err != nil {
			return err
		}
		spec.Files["/bin/"+name] = path // the machine's PATH
	}
	return nil
}

// runOnce runs the tests in a new machine and reports; an error means that the machine failed.
func runOnce(ctx context.Context, spec svmlane.Spec) (ok bool, err error) {
	reporter := reporter{spec: spec, last: -1}
	results, err := svmlane.Exec(ctx, spec, reporter.line)
	return reporter.summary(results), err
}

// pkg is one package that has tests.
type pkg struct{ path, dir string }

// list resolves package patterns; packages without tests are left out and named.
func list(ctx context.Context, patterns []string) ([]pkg, error) {
	c := exec.CommandContext(ctx, "go", append([]string{"list", "-f",
		"{{.ImportPath}}\t{{.Dir}}\t{{len .TestGoFiles}}\t{{len .XTestGoFiles}}"}, patterns...)...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(patterns, " "), err)
	}
	var packages []pkg
	for l := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(l, "\n"), "\t")
		if f[2] == "0" && f[3] == "0" {
			fmt.Printf("?   \t%s\t[no test files]\n", f[0])
			continue
		}
		packages = append(packages, pkg{f[0], f[1]})
	}
	return packages, nil
}

// build compiles one package's tests to the file out.
func build(ctx context.Context, o options, p pkg, out string) (svmlane.Binary, error) {
	c := exec.CommandContext(ctx, "go", "test", "-c", "-o", out, p.path)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return svmlane.Binary{}, fmt.Errorf("build the tests of %s: %w", p.path, err)
	}
	b := svmlane.Binary{Name: p.path, Path: out, Env: []string{"QENEX_LANE=svm"}}
	if o.extra != "" {
		b.Env = append(b.Env, "QENEX_EXTRA="+extraDir)
	}
	if o.verbose {
		b.Args = append(b.Args, "-test.v")
	}
	if o.run != "" {
		b.Args = append(b.Args, "-test.run="+o.run)
	}
	b.Args = append(b.Args, "-test.timeout="+o.timeout.String())
	if st, err := os.Stat(filepath.Join(p.dir, "testdata")); err == nil && st.IsDir() {
		b.TestData = filepath.Join(p.dir, "testdata")
	}
	return b, nil
}
