package modules

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/guest/artefact"
)

func TestParse(t *testing.T) {
	for info, want := range map[string][]string{
		"":                            nil,
		"license=GPL\x00depends=\x00": nil,
		"depends=a,b-c\x00name=d\x00": {"a", "b_c"},
		"xdepends=a\x00":              nil,
		"depends=a\x00depends=b":      {"a", "b"},
		"depends=,a,\x00":             {"a"},
	} {
		if got := parse([]byte(info)); !slices.Equal(got, want) {
			t.Errorf("parse(%q) = %q, want %q", info, got, want)
		}
	}
}

// TestOrder takes the stock kernel's modules that make a KVM host: kvm-amd needs kvm, which needs irqbypass.
func TestOrder(t *testing.T) {
	dir, err := artefact.Path(artefact.Modules)
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	list, err := Order(dir, "kvm-amd", "?no-such-module", "kvm")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
		if filepath.Dir(m.Path) != dir || !strings.HasSuffix(m.Path, ".ko") {
			t.Errorf("%s is %s", m.Name, m.Path)
		}
	}
	if want := []string{"irqbypass", "kvm", "kvm_amd"}; !slices.Equal(names, want) {
		t.Errorf("order %q, want %q", names, want)
	}
	if _, err := Order(dir, "no-such-module"); !errors.Is(err, ErrMissing) {
		t.Errorf("a module that is missing: %v", err)
	}
	if _, err := Needs("modules.go"); err == nil {
		t.Error("a file that is no module: no error")
	}
}
