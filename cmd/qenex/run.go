package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// runCmd is `qenex run`, for all kinds of guest.
type runCmd struct {
	sharedFlags  `embed:"" group:"shared"`
	trustFlags   `embed:"" group:"shared"`
	programFlags `embed:"" group:"program"`
	nativeFlags  `embed:"" group:"native"`
	legacyFlags  `embed:"" group:"legacy"`
	deviceFlags  `embed:"" group:"devices"`

	Program []string `arg:"" optional:"" passthrough:"partial" placeholder:"PROGRAM" help:"Program and its arguments. What stands behind the program's name is the program's."`

	Ready bool `hidden:"" help:"Say on descriptor 3 that the machine is up: it was started by --detach."`
}

// sharedFlags fit all kinds of guest.
type sharedFlags struct {
	Mem     *size         `placeholder:"SIZE" help:"Memory: of a machine 32M up to what the host has (default: 256M, with --image 512M), of a program at most this (default: what the host has)."`
	CPUs    *int          `name:"cpus" placeholder:"N" help:"CPUs: of a machine 1 to 64 (default: 1), of a program as many as it is to see (default: the host's)."`
	Net     string        `default:"none" placeholder:"KIND" help:"Network: none, user (through the host, as an ordinary program), host-loopback (that, and the host's 127.0.0.1 as 10.0.2.2); of a machine also user+host-loopback, which is the same, and tap or tap=NAME (default: ${default})."`
	Timeout time.Duration `placeholder:"TIME" help:"End the guest after this time, as in 30s: with code 14 a kernel, with 124 a program."`
	JSON    bool          `name:"json" help:"Of a machine, print the run report as JSON on stdout, and the console on stderr; of a program, --stats as JSON."`
	KVM     string        `name:"kvm" default:"/dev/kvm" placeholder:"PATH" help:"KVM device (default: ${default})."`
}

// programFlags fit a program, be it on this host's kernel's or on one of its own.
type programFlags struct {
	Env     []string `short:"e" placeholder:"K=V" sep:"none" help:"Set an environment variable; K alone takes the value it has here. The rest of the environment is this one for the host's files, the image's for an image."`
	Workdir string   `short:"w" placeholder:"DIR" help:"Working directory (default: this one if it exists inside, or the image's)."`
	User    string   `short:"u" placeholder:"NAME|UID[:GROUP|GID]" help:"Who the program runs as (default: you, or the image's user)."`
	TTY     *bool    `name:"tty" negatable:"" short:"t" help:"Standard input is the program's terminal, with job control (default: if it is a terminal)."`
}

// flagGroups are the headings that --help puts above the flags.
var flagGroups = []kong.Group{
	{Key: "native", Title: "Flags for a program without a kernel of its own (qenex run PROGRAM):"},
	{Key: "program", Title: "Flags for a program, also with --image:"},
	{Key: "legacy", Title: "Flags for a machine's kernel (qenex run --kernel FILE, qenex run --image IMAGE):"},
	{Key: "devices", Title: "Flags for a machine:"},
	{Key: "shared", Title: "Flags for all:"},
	{Key: "containers", Title: "OCI runtime, for containerd, Podman and Docker:"},
	{Key: "machines", Title: "Machines that run, and containers:"},
	{Key: "trust", Title: "Evidence:"},
	{Key: "oci", Title: "Flags that all container commands have, before or behind the command's name:"},
}

// Help is the text behind the flags.
func (c *runCmd) Help() string {
	return `With PROGRAM, a Linux program runs in a virtual machine of its own, without a kernel to boot. Its files are the host's,
read-only, with all that it writes kept in memory and thrown away; or an image given with --rootfs. Standard input and output, signals
and the exit code are the program's: 128+N if signal N killed it. Codes of QENEX itself are 124 (--timeout), 125 (QENEX cannot do what was
asked), 126 (PROGRAM cannot be run) and 127 (there is no PROGRAM). Without PROGRAM an image runs what it was made to run.

With --image, a Linux kernel boots on the image, and runs PROGRAM in it, or what the image was made to run, with the same codes. An OCI
layout, docker archive, tar or directory is turned into a disk once; what the guest writes is thrown away. A raw or qcow2 disk is used
as it is, and what the guest writes stays; without PROGRAM its own init starts, and the terminal is its console.

With --kernel alone, that kernel boots. The terminal is its console. Ctrl-A x ends the machine, Ctrl-A h shows the other keys. If
standard input is no terminal, its bytes are the console's input, and its end is not the guest's.

Every machine has a name, under which qenex ps, stop, exec, cp, console, logs and the others find it. With --detach it runs in the background.

Examples:
  qenex run -- /bin/sh -c 'echo hi; exit 7'
  qenex run --rootfs alpine.tar --net user --mount $PWD:/src:ro --workdir /src sh
  qenex run --image oci:alpine --net user -- apk --version
  qenex run --image debian.img --name deb --net user --publish 2222:22 --detach && qenex exec -it deb bash
  qenex run --kernel bzImage --initrd initramfs.cpio --disk data.img --share $PWD:src:ro
  qenex run --kernel vmlinux --boot pvh --cpus 4 --mem 2G --cmdline "console=ttyS0 quiet" --timeout 1m
  qenex run --kernel bzImage --initrd initramfs.cpio --json 2>console.log | jq .milestones`
}

// Run runs the kind of guest that the flags ask for.
func (c *runCmd) Run(k *kong.Context) error {
	if len(c.Program) > 0 && c.Program[0] == "--" {
		c.Program = c.Program[1:]
	}
	switch {
	case c.Image != "":
		if bad := flagsOf(k, "native"); bad != "" {
			return &exitError{exitNative, fmt.Errorf("%s: for programs without a kernel only, not with --image; see qenex run --help", bad)}
		}
		return nativeError(c.machine())
	case c.Kernel != "":
		if len(c.Program) > 0 {
			return &exitError{exitUsage, fmt.Errorf("%q with --kernel: give either a program or a kernel, or --image too", c.Program[0])}
		}
		for _, group := range []string{"native", "program"} {
			if bad := flagsOf(k, group); bad != "" {
				return &exitError{exitUsage, fmt.Errorf("%s: for programs only, not with --kernel; see qenex run --help", bad)}
			}
		}
		return c.machine()
	}
	for _, group := range []string{"legacy", "devices"} {
		if bad := flagsOf(k, group); bad != "" {
			return &exitError{exitNative, fmt.Errorf("%s: for kernels only; give --kernel FILE or --image IMAGE; see qenex run --help", bad)}
		}
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
