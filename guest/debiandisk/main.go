// Command debiandisk writes an ext4 file system with the files of a directory, for guest/build.sh.
//
//	go run ./guest/debiandisk -o FILE [-free MIB] DIRECTORY
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/qenex/qenex-kernel/rootdisk"
)

func main() {
	out := flag.String("o", "", "write the file system to this `file`")
	free := flag.Int64("free", 1024, "leave this many `MiB` free in it")
	flag.Parse()
	if *out == "" || flag.NArg() != 1 || *free <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*out, flag.Arg(0), *free<<20); err != nil {
		fmt.Fprintln(os.Stderr, "debiandisk:", err)
		os.Exit(1)
	}
}

// write makes the file whole or not at all.
func write(name, dir string, free int64) error {
	part := name + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	err = rootdisk.WriteDirectory(context.Background(), f, dir, free)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}
