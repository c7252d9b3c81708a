package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// runCmd is `qenex run`, for both kinds of guest.
type runCmd struct {
	sharedFlags `embed:"" group:"shared"`
	nativeFlags `embed:"" group:"native"`
	legacyFlags `embed:"" group:"legacy"`

	Program []string `arg:"" optional:"" passthrough:"partial" placeholder:"PROGRAM" help:"Program and its arguments. What stands behind the program's name is the program's."`
}

// sharedFlags fit both kinds of guest.
type sharedFlags struct {
	Mem     *size         `placeholder:"SIZE" help:"Memory: of a Linux kernel 32M up to what the host has (default: 256M), of a program at most this (default: what the host has)."`
	CPUs    *int          `name:"cpus" placeholder:"N" help:"CPUs: of a Linux kernel 1 to 64 (default: 1), of a program as many as it is to see (default: the host's)."`
	Timeout time.Duration `placeholder:"TIME" help:"End the guest after this time, as in 30s: with code 14 a kernel, with 124 a program."`
	JSON    bool          `name:"json" help:"Of a kernel, print the run report as JSON on stdout, and the console on stderr; of a program, --stats as JSON."`
	KVM     string        `name:"kvm" default:"/dev/kvm" placeholder:"PATH" help:"KVM device (default: ${default})."`
}

// flagGroups are the headings that --help puts above the flags.
var flagGroups = []kong.Group{
	{Key: "native", Title: "Flags for a program (qenex run PROGRAM):"},
	{Key: "legacy", Title: "Flags for a Linux kernel (qenex run --kernel FILE):"},
	{Key: "shared", Title: "Flags for both:"},
	{Key: "containers", Title: "OCI runtime, for containerd, Podman and Docker:"},
	{Key: "oci", Title: "Flags that all container commands have, before or behind the command's name:"},
}

// Help is the text behind the flags.
func (c *runCmd) Help() string {
	return `With PROGRAM, a Linux program runs in a virtual machine of its own, without a kernel to boot. Its files are the host's,
read-only, with all that it writes kept in memory and thrown away; or an image given with --rootfs. Standard input and output, signals
and the exit code are the program's: 128+N if signal N killed it. Codes of QENEX itself are 124 (--timeout), 125 (QENEX cannot do what was
asked), 126 (PROGRAM cannot be run) and 127 (there is no PROGRAM). Without PROGRAM an image runs what it was made to run.

With --kernel, a Linux kernel boots. The terminal is its serial console. Ctrl-A x ends the machine, Ctrl-A h shows the other keys. If
standard input is no terminal, its bytes are the console's input, and its end is not the guest's.

Examples:
  qenex run -- /bin/sh -c 'echo hi; exit 7'
  qenex run --rootfs alpine.tar --net user --mount $PWD:/src:ro --workdir /src sh
  qenex run --kernel bzImage --initrd initramfs.cpio
  qenex run --kernel vmlinux --boot pvh --cpus 4 --mem 2G --cmdline "console=ttyS0 quiet" --timeout 1m
  qenex run --kernel bzImage --initrd initramfs.cpio --json 2>console.log | jq .milestones`
}

// Run runs the kind of guest that the flags ask for.
func (c *runCmd) Run(k *kong.Context) error {
	if len(c.Program) > 0 && c.Program[0] == "--" {
		c.Program = c.Program[1:]
	}
	if c.Kernel != "" {
		if len(c.Program) > 0 {
			return &exitError{exitUsage, fmt.Errorf("%q with --kernel: give either a program or a kernel", c.Program[0])}
		}
		if bad := flagsOf(k, "native"); bad != "" {
			return &exitError{exitUsage, fmt.Errorf("%s: for programs only, not with --kernel; see qenex run --help", bad)}
		}
		return c.legacy()
	}
	if bad := flagsOf(k, "legacy"); bad != "" {
		return &exitError{exitNative, fmt.Errorf("%s: for kernels only; give --kernel FILE; see qenex run --help", bad)}
	}
	return nativeError(c.native())
}

// flagsOf names the flags of a group that were given.
func flagsOf(k *kong.Context, group string) string {
	var names []string
	for _, p := range k.Path {
		if p.Flag != nil && p.Flag.Group != nil && p.Flag.Group.Key == group {
			names = append(names, "--"+p.Flag.Name)
		}
	}
	return strings.Join(names, ", ")
}
