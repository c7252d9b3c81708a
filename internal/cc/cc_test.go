package cc

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
)

func source(text string) fstest.MapFS {
	return fstest.MapFS{"c/p.c": {Data: []byte(text)}, "c/two/a.c": {Data: []byte("int f(void);\nint main(void) { return f(); }\n")}, "c/two/b.c": {Data: []byte("int f(void);\nint f(void) { return 5; }\n")}}
}

func TestBuild(t *testing.T) {
	t.Setenv("QENEX_CACHE", t.TempDir())
	three, err := Build(t.Context(), source("int main(void) { return 3; }\n"), "p")
	if errors.Is(err, ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(t.Context(), source("int main(void) { return 3; }\n"), "p")
	if again != three || err != nil {
		t.Errorf("built again as %s, %v", again, err)
	}
	four, err := Build(t.Context(), source("int main(void) { return 4; }\n"), "p", Static)
	if err != nil {
		t.Fatal(err)
	}
	five, err := Build(t.Context(), source(""), "two")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{three: 3, four: 4, five: 5} {
		var exit *exec.ExitError
		if err := exec.Command(path).Run(); !errors.As(err, &exit) || exit.ExitCode() != want {
			t.Errorf("%s: %v, want code %d", path, err, want)
		}
	}
	if _, err := Build(t.Context(), source("int main(void) { return x; }\n"), "p"); err == nil || !strings.Contains(err.Error(), "undeclared") {
		t.Errorf("a program that is none: %v", err)
	}
	dir, err := CacheDir("programs")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("in the cache: %v, %v", entries, err)
	}
}
