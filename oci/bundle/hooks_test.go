package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestHooks(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	sh := func(script string) specs.Hook {
		return specs.Hook{Path: "/bin/sh", Args: []string{"hook", "-c", script}, Env: []string{"OUT=" + out}}
	}
	state := specs.State{ID: "c1", Status: specs.StateCreated, Pid: 7}
	if err := RunHooks([]specs.Hook{sh(`cat >"$OUT"; echo "$HOME" >>"$OUT"`), sh(`echo second >>"$OUT"`)}, state); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(got), `"id":"c1"`) || !strings.HasSuffix(string(got), "}\nsecond\n") {
		t.Errorf("%q, %v", got, err)
	}
	one := 1
	slow := sh("exec sleep 100")
	slow.Timeout = &one
	for want, hooks := range map[string][]specs.Hook{
		"too bad":      {sh("echo too bad >&2; exit 3"), sh(`rm "$OUT"`)},
		"still ran":    {slow},
		"no such file": {{Path: "/nonexistent"}},
	} {
		if err := RunHooks(hooks, state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	if _, err := os.Stat(out); err != nil {
		t.Errorf("a hook ran behind one that failed: %v", err)
	}
}
