// Package modules finds what a Linux kernel's modules need: which others, and in which order all of them are loaded. It reads
// the modules themselves, as depmod would; it loads nothing.
package modules

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// ErrMissing is a module that is wanted and not there.
var ErrMissing = errors.New("no such kernel module")

// Module is a module's name, with underscores, and its file.
type Module struct{ Name, Path string }

// Order returns the wanted modules below dir and all that they need, each behind those that it needs. A name with ? before it may
// be missing.
func Order(dir string, wanted ...string) ([]Module, error) {
	o := order{files: make(map[string]string), seen: make(map[string]bool)}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			o.files[underscored(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		name, optional := strings.CutPrefix(w, "?")
		if _, ok := o.files[underscored(name)]; !ok && optional {
			continue
		}
		if err := o.add(underscored(name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return o.list, nil
}

type order struct {
	files map[string]string
	seen  map[string]bool
	list  []Module
}

// add appends a module behind what it needs.
func (o *order) add(name string) error {
	if o.seen[name] {
		return nil
	}
	o.seen[name] = true
	path, ok := o.files[name]
	if !ok {
		return fmt.Errorf("%w: %s", ErrMissing, name)
	}
	needs, err := Needs(path)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if err := o.add(n); err != nil {
			return err
		}
	}
	o.list = append(o.list, Module{name, path})
	return nil
}

// Needs are the modules that the module at path says it depends on.
func Needs(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", path, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("%s is not a kernel module: it has no section .modinfo", path)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", path, err)
	}
	return parse(info), nil
}

// parse finds the dependencies in a section .modinfo: NAME=VALUE, each ended by a NUL.
func parse(info []byte) (needs []string) {
	for field := range bytes.SplitSeq(info, []byte{0}) {
		value, ok := strings.CutPrefix(string(field), "depends=")
		if !ok {
			continue
		}
		for n := range strings.SplitSeq(value, ",") {
			if n != "" {
				needs = append(needs, underscored(n))
			}
		}
	}
	return needs
}

func underscored(name string) string { return strings.ReplaceAll(name, "-", "_") }
