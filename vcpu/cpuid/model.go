package cpuid

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of Parse and Build, wrapped with what was asked and why it cannot be had.
var (
	ErrModel       = errors.New("bad CPU model")
	ErrUnsupported = errors.New("this host cannot give the guest that CPU feature")
)

// Model is a CPU as the user asks for it: a base and changes to it. Parse makes one; the
// zero Model is "host". A Model is immutable and may be shared.
type Model struct {
	spec     string
	baseline bool
	patches  []patch
	tweaks   []tweak
}

// tweak turns one named feature on or off.
type tweak struct {
	name string
	on   bool
}

// String returns the specification that the model was parsed from.
func (m Model) String() string {
	if m.spec == "" {
		return "host"
	}
	return m.spec
}

// Parse reads a model: "host" (all that KVM supports), "baseline" (the same features on
// every x86-64-v2 host, for snapshots that travel) or the path of a JSON file of leaf
// changes upon "host" (see ParseFile); then, each behind a comma, features to add or
// remove by their name in /proc/cpuinfo: "host,-avx,+popcnt".
//
// The features vmx, svm, monitor, mwaitx and pmu are off unless they are added.
func Parse(spec string) (Model, error) {
	base, rest, more := strings.Cut(spec, ",")
	m := Model{spec: spec}
	switch base {
	case "":
		return Model{}, fmt.Errorf("%w %q: it must start with host, baseline or the path of a model file", ErrModel, spec)
	case "host":
	case "baseline":
		m.baseline = true
	default:
		var err error
		if m.patches, err = readFile(base); err != nil {
			return Model{}, fmt.Errorf("%w %q: %w", ErrModel, spec, err)
		}
	}
	for more {
		var item string
		item, rest, more = strings.Cut(rest, ",")
		name := strings.TrimLeft(item, "+-")
		if len(item) != len(name)+1 {
			return Model{}, fmt.Errorf("%w %q: %q is no feature change; write +name or -name", ErrModel, spec, item)
		}
		if _, ok := features[name]; !ok && name != pmu {
			return Model{}, fmt.Errorf("%w %q: no CPU feature is called %q; names are those of the flags line in /proc/cpuinfo", ErrModel, spec, name)
		}
		m.tweaks = append(m.tweaks, tweak{name, item[0] == '+'})
	}
	return m, nil
}

// tweaked says what the last change to a feature was, if there was one.
func (m Model) tweaked(name string) (on, ok bool) {
	for _, t := range m.tweaks {
		if t.name == name {
			on, ok = t.on, true
		}
	}
	return on, ok
}
