//go:build !kernelonly

package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
)

func TestParseMount(t *testing.T) {
	for text, want := range map[string]sentry.Mount{
		"/etc:/x":     {Type: sentry.MountBind, Source: "/etc", Target: "/x"},
		"/etc:/x/:rw": {Type: sentry.MountBind, Source: "/etc", Target: "/x"},
		"/etc/:/x:ro": {Type: sentry.MountBind, Source: "/etc", Target: "/x", ReadOnly: true},
	} {
		if m, err := parseMount(text); err != nil || m.Source != want.Source || m.Target != want.Target || m.ReadOnly != want.ReadOnly || m.Type != want.Type {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", ":", "/etc", "/etc:x", ":/x", "/etc:/x:rx", "/etc:/x:ro:ro", "/no/such/file:/x"} {
		if m, err := parseMount(text); err == nil {
			t.Errorf("%q was accepted as %+v", text, m)
		}
	}
}

func TestSetEnv(t *testing.T) {
	t.Setenv("FROM_HERE", "here")
	for text, want := range map[string][]string{
		"A=2": {"B=1", "A=2"}, "A=": {"B=1", "A="}, "C=x=y": {"A=1", "B=1", "C=x=y"}, "FROM_HERE": {"A=1", "B=1", "FROM_HERE=here"}, "A": {"B=1"},
	} {
		env := []string{"A=1", "B=1"}
		if err := setEnv(&env, text); err != nil || !slices.Equal(env, want) {
			t.Errorf("%q: %q, %v; want %q", text, env, err, want)
		}
	}
}

// FuzzFlags gives any text to the parsers of flag values.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{"/etc:/x:ro", "A=b", "SIGKILL", "64", "512M", "--root=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parseMount(s); err == nil && (!filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target)) {
			t.Errorf("%q: mount %+v", s, m)
		}
		var env []string
		if err := setEnv(&env, s); err == nil && len(env) == 1 && (env[0][0] == '=' || strings.IndexByte(env[0], 0) >= 0) {
			t.Errorf("%q: environment %q", s, env)
		}
		if sig, err := parseSignal(s); err == nil && (sig < 1 || sig > 64) {
			t.Errorf("%q: signal %d", s, sig)
		}
		if got := liftGlobals([]string{s, "create", "id"}); len(got) != 3 {
			t.Errorf("%q: %q", s, got)
		}
		var n size
		_ = n.UnmarshalText([]byte(s))
	})
}
