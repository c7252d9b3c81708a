package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/svmlane"
)

// capture returns what f prints.
func capture(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	f()
	os.Stdout = stdout
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestListAndBuild(t *testing.T) {
	const root = "github.com/qenex/qenex-kernel/"
	var packages []pkg
	out := capture(t, func() {
		var err error
		if packages, err = list(t.Context(), []string{root + "guest/initramfs", root + "guest/mkinitramfs"}); err != nil {
			t.Fatal(err)
		}
	})
	if len(packages) != 1 || packages[0].path != root+"guest/initramfs" || !strings.Contains(out, "mkinitramfs\t[no test files]") {
		t.Fatalf("packages %v, printed %q", packages, out)
	}
	o := options{run: "^TestImage$", timeout: time.Minute}
	b, err := build(t.Context(), o, packages[0], filepath.Join(t.TempDir(), "x.test"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(b.Args, "-test.run=^TestImage$") || !slices.Contains(b.Args, "-test.timeout=1m0s") || b.TestData != "" {
		t.Errorf("%+v", b)
	}
	if st, err := os.Stat(b.Path); err != nil || st.Mode()&0o100 == 0 {
		t.Errorf("no program was built: %v", err)
	}
	if _, err := build(t.Context(), o, pkg{path: root + "nowhere"}, b.Path); err == nil {
		t.Error("a missing package was built")
	}
}

func TestExtraFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := extraFiles(dir)
	if err != nil || len(files) != 1 || files["/extra/hello"] != filepath.Join(dir, "hello") {
		t.Errorf("files %v, error %v", files, err)
	}
	if files, err := extraFiles(""); err != nil || len(files) != 0 {
		t.Errorf("no directory: files %v, error %v", files, err)
	}
	if _, err := extraFiles(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a missing directory was accepted")
	}
}

func TestReporter(t *testing.T) {
	r := reporter{spec: svmlane.Spec{Binaries: []svmlane.Binary{{Name: "a"}, {Name: "b"}}}, last: -1}
	results := []svmlane.Result{{Name: "a", Ran: true}, {Name: "b", Ran: true, ExitCode: 2}, {Name: "c"}}
	for _, c := range []struct {
		upTo int
		ok   bool
	}{{1, true}, {2, false}, {3, false}} {
		out := capture(t, func() {
			if ok := r.summary(results[:c.upTo]); ok != c.ok {
				t.Errorf("%d packages: ok %v, want %v", c.upTo, ok, c.ok)
			}
		})
		if n := strings.Count(out, "\n"); n != c.upTo {
			t.Errorf("%d packages: %d lines", c.upTo, n)
		}
	}
	out := capture(t, func() {
		r.line(0, "PASS")
		r.line(1, "panic: x")
		r.line(1, "FAIL")
	})
	if out != "# b\npanic: x\nFAIL\n" {
		t.Errorf("printed %q", out)
	}
}
