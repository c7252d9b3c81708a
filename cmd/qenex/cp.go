package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/agent/tree"
	"github.com/qenex/qenex-kernel/fleet"
)

type cpCmd struct {
	Archive bool   `short:"a" help:"Into the guest, keep numeric owners; else root owns what is copied."`
	Src     string `arg:"" name:"src" help:"PATH here or NAME:PATH, or - for a tar on standard input."`
	Dst     string `arg:"" name:"dst" help:"NAME:PATH or PATH here, or - for a tar on standard output."`
}

// Help is the text behind the flags.
func (c *cpCmd) Help() string {
	return `Files and directories are copied whole. DST is the copy's name, or, if it ends with / or is a directory here, where the copy goes; with -
as SRC, DST is the directory to unpack in. In the guest it takes QENEX's agent, and paths there are absolute. A path here with a colon
begins with / or ./.

Examples:
  qenex cp web:/var/log/messages .
  qenex cp site web:/srv/
  tar -c src | qenex cp - web:/root/src
  qenex cp web:/etc - | tar -t`
}

// guestFile splits NAME:PATH.
func guestFile(text string) (name, file string, ok bool) {
	name, file, ok = strings.Cut(text, ":")
	return name, file, ok && fleet.CheckName(name) == nil
}

// Run copies.
func (c *cpCmd) Run() error {
	from, src, out := guestFile(c.Src)
	to, dst, in := guestFile(c.Dst)
	if in == out {
		return usageError("cp %q %q: one of them is NAME:PATH, and one is not", c.Src, c.Dst)
	}
	name, file := from, src
	if in {
		name, file = to, dst
	}
	if !path.IsAbs(file) {
		return usageError("cp: %q: a path in a guest is absolute", file)
	}
	vm, err := mustVM(name)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	client := agentOf(ctx, vm)
	switch {
	case in && c.Src == "-":
		err = client.CopyIn(ctx, dst, os.Stdin)
	case in:
		err = client.Upload(ctx, c.Src, uploadPath(c.Src, dst), c.Archive)
	case c.Dst == "-":
		err = client.CopyOut(ctx, src, os.Stdout)
	default:
		err = client.Download(ctx, src, downloadPath(src, c.Dst), tree.Options{Skipped: func(name string) {
			fmt.Fprintf(os.Stderr, "qenex: warning: %q is no file or directory, and was left out\n", name)
		}})
	}
	var refused *agent.Error
	if errors.As(err, &refused) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// uploadPath is what a copy of src is called in the guest.
func uploadPath(src, dst string) string {
	if !strings.HasSuffix(dst, "/") {
		return dst
	}
	if abs, err := filepath.Abs(src); err == nil { // . has a name too
		src = abs
	}
	return path.Join(dst, filepath.Base(src))
}

// downloadPath is what a copy of the guest's src is called here.
func downloadPath(src, dst string) string {
	info, err := os.Stat(dst)
	if strings.HasSuffix(dst, "/") || err == nil && info.IsDir() {
		return filepath.Join(dst, tree.Base(src))
	}
	return dst
}
