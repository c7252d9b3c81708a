package picture

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

func good() *Chart {
	return &Chart{Title: "t", Placement: &Placement{Host: host.Synthetic(1, 1, 1, 2, 1), VCPUs: []VCPU{{Name: "a", CPU: 1, Load: 0.5}}}}
}

func goodGantt() *Chart {
	return &Chart{Gantt: &Gantt{CPUs: []int{0, 1}, VCPUs: []VCPU{{Name: "a"}}, Spans: []Span{{CPU: 1, From: 1, To: 2}}}}
}

func TestCheck(t *testing.T) {
	for _, c := range []*Chart{good(), goodGantt()} {
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(p, g *Chart) *Chart{
		"nothing":   func(p, g *Chart) *Chart { return &Chart{} },
		"both":      func(p, g *Chart) *Chart { p.Gantt = g.Gantt; return p },
		"no host":   func(p, g *Chart) *Chart { p.Placement.Host = nil; return p },
		"NaN":       func(p, g *Chart) *Chart { p.Placement.VCPUs[0].Load = math.NaN(); return p },
		"infinity":  func(p, g *Chart) *Chart { p.Placement.VCPUs[0].Load = math.Inf(1); return p },
		"negative":  func(p, g *Chart) *Chart { p.Placement.VCPUs[0].Load = -1; return p },
		"no CPU":    func(p, g *Chart) *Chart { p.Placement.VCPUs[0].CPU = 2; return p },
		"CPU -1":    func(p, g *Chart) *Chart { p.Placement.VCPUs[0].CPU = -1; return p },
		"title":     func(p, g *Chart) *Chart { p.Title = strings.Repeat("x", MaxName+1); return p },
		"name":      func(p, g *Chart) *Chart { p.Placement.VCPUs[0].Name = strings.Repeat("x", MaxName+1); return p },
		"no CPUs":   func(p, g *Chart) *Chart { g.Gantt.CPUs = nil; return g },
		"backwards": func(p, g *Chart) *Chart { g.Gantt.Spans[0].To = 0; return g },
		"before":    func(p, g *Chart) *Chart { g.Gantt.Spans[0].From = -1; return g },
		"nowhere":   func(p, g *Chart) *Chart { g.Gantt.Spans[0].CPU = 2; return g },
		"nobody":    func(p, g *Chart) *Chart { g.Gantt.Spans[0].VCPU = 1; return g },
		"many":      func(p, g *Chart) *Chart { g.Gantt.Spans = make([]Span, MaxSpans+1); return g },
	} {
		if err := change(good(), goodGantt()).Check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRead(t *testing.T) {
	for _, c := range []*Chart{good(), goodGantt()} {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Read(strings.NewReader(string(b))); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
	for _, text := range []string{"", "[]", "{}", `{"gantt":{},"x":1}`, `{"gantt":`, `{"gantt":{"cpus":[0],"vcpus":null,"spans":[{"cpu":0}]}}`} {
		if _, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestShades(t *testing.T) {
	groups, shades := Shades([]VCPU{{Name: "a", Group: "g"}, {Name: "b"}, {Name: "c", Group: "g"}, {Name: "g"}})
	if !reflect.DeepEqual(groups, []string{"g", "b", "g"}) || !reflect.DeepEqual(shades, []Shade{{0, 0, 2}, {1, 0, 1}, {0, 1, 2}, {2, 0, 1}}) {
		t.Errorf("%q, %+v", groups, shades)
	}
}

// TestSave calls programs that draw, fail, and are not there.
func TestSave(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	file := filepath.Join(dir, "out.png")
	if err := good().Save(context.Background(), file); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without a program: %v", err)
	}
	program := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, Program), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program("read -r text; echo \"drawn: $text\"\n")
	if err := good().Save(context.Background(), file); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), `drawn: {"title":"t","placement":{"host":{"cpus":[{"id":0`) {
		t.Errorf("%q, %v", b, err)
	}
	program("echo broken >&2; exit 1\n")
	if err := good().Save(context.Background(), filepath.Join(dir, "none.png")); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a program that fails: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none.png")); err == nil {
		t.Error("a file is left of a picture that was not drawn")
	}
	if err := (&Chart{}).Save(context.Background(), file); err == nil {
		t.Error("a chart of nothing is drawn")
	}
}
