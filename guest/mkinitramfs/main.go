// Command mkinitramfs writes an initramfs from a spec file in the format of Linux's usr/gen_init_cpio.c:
//
//	mkinitramfs -o image.cpio spec [NAME=VALUE ...]
//
// $NAME in the spec's host paths is replaced by VALUE.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/qenex/qenex-kernel/guest/initramfs"
)

func main() {
	out := flag.String("o", "", "write the archive to this `file`")
	flag.Parse()
	if *out == "" || flag.NArg() < 1 {
		fmt.Fprintln(os.Stderr, "usage: mkinitramfs -o image.cpio spec [NAME=VALUE ...]")
		os.Exit(2)
	}
	if err := run(*out, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		os.Exit(1)
	}
}

func run(out, spec string, vars []string) error {
	values := make(map[string]string)
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("%q: want NAME=VALUE", v)
		}
		values[name] = value
	}
	f, err := os.Open(spec)
	if err != nil {
		return err
	}
	defer f.Close()
	image, err := initramfs.FromSpec(f, func(name string) string { return values[name] })
	if err != nil {
		return fmt.Errorf("%s: %w", spec, err)
	}
	return image.WriteFile(out)
}
