// Command mkmodules writes the part of an initramfs that has kernel modules for the guest agent, as a spec for mkinitramfs, and the
// file that says in which order they are loaded:
//
//	mkmodules -spec modules.spec -order order DIRECTORY MODULE...
//
// The modules that those named need come along; a name with ? before it may be missing.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/qenex/qenex-kernel/guest/modules"
)

func main() {
	spec := flag.String("spec", "", "write the spec to this `file`")
	order := flag.String("order", "", "write the order to this `file`")
	flag.Parse()
	if *spec == "" || *order == "" || flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: mkmodules -spec FILE -order FILE DIRECTORY MODULE...")
		os.Exit(2)
	}
	if err := run(*spec, *order, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkmodules:", err)
		os.Exit(1)
	}
}

func run(spec, order, dir string, names []string) error {
	list, err := modules.Order(dir, names...)
	if err != nil {
		return err
	}
	order, err = filepath.Abs(order)
	if err != nil {
		return err
	}
	var lines, loads strings.Builder
	fmt.Fprintf(&lines, "file /modules/order %s 0644 0 0\n", order)
	for _, m := range list {
		fmt.Fprintf(&lines, "file /modules/%s.ko %s 0644 0 0\n", m.Name, m.Path)
		fmt.Fprintln(&loads, m.Name)
	}
	if err := os.WriteFile(order, []byte(loads.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(spec, []byte(lines.String()), 0o644)
}
