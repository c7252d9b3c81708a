package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modules is the directory of the kernel's modules in the initramfs. Its file "order" has their names, one a line, each behind
// those that it needs.
const modules = "/modules"

// loadModules loads the modules that the initramfs brings for its kernel, and frees their place.
func loadModules(c commandLine) error {
	list, err := os.ReadFile(filepath.Join(modules, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel that has everything built in
	}
	if err != nil {
		return err
	}
	var failed []error
	for name := range strings.Lines(string(list)) {
		failed = append(failed, loadModule(strings.TrimSpace(name), c))
	}
	return errors.Join(append(failed, os.RemoveAll(modules))...)
}

// loadModule loads a module. One for a device that this machine has not got may refuse.
func loadModule(name string, c commandLine) error {
	f, err := os.Open(filepath.Join(modules, name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), c.parameters(name), 0); err {
	case nil, unix.EEXIST, unix.ENODEV:
		return nil
	default:
		return fmt.Errorf("load module %s: %w; is the initramfs for this kernel?", name, err)
	}
}
