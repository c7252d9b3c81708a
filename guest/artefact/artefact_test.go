package artefact

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("QENEX_CACHE", dir)
	if _, err := Path(Busybox); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make guest") {
		t.Errorf("missing artefact: error %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "guest"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "guest", Busybox)
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Path(Busybox); got != want || err != nil {
		t.Errorf("Path = %q, %v; want %q", got, err, want)
	}
}

func TestCacheDefault(t *testing.T) {
	t.Setenv("QENEX_CACHE", "")
	t.Setenv("HOME", "/home/somebody")
	if got, err := Cache(); got != "/home/somebody/.cache/qenex" || err != nil {
		t.Errorf("Cache = %q, %v", got, err)
	}
}
