// Command qenex runs virtual machines.
//
// This package is flags, output and exit codes, and puts machines together: vmm with virtio's devices and what is behind these, known to
// others by fleet, with agent for what is to be done in the guest. It calls guestkernel/sentry for programs, oci for images and containers,
// doctor for what the host can do and bench for measurements, and knows no ioctl.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "development"

// runVerb is apart because its grammar alone is built when a guest is to start soon.
type runVerb struct {
	Run runCmd `cmd:"" help:"Run a Linux program, or boot a Linux kernel, in a virtual machine."`
}

// cli is the whole command line.
type cli struct {
	runVerb    `embed:""`
	Doctor     doctorCmd     `cmd:"" help:"Say whether this host can run guests, how well, and what to do about it."`
	Bench      benchCmd      `cmd:"" help:"Measure QENEX beside QEMU and gokvm on this host."`
	Completion completionCmd `cmd:"" help:"Print a shell completion script."`
	Man        manCmd        `cmd:"" help:"Print the manual page."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	fleetVerbs `embed:""`
	trustVerbs `embed:""`
	schedVerbs `embed:""`
	ociVerbs   `embed:""`
}

const description = `QENEX, a KVM-based microkernel hypervisor.

Examples:
  qenex run -- /bin/sh -c 'echo hello from a virtual machine'
  qenex run --image debian.img --name deb --net user -d && qenex exec -it deb bash
  qenex run --kernel bzImage --initrd initramfs.cpio --mem 256M`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run parses and executes one command line and returns the process's exit code.
func run(args []string) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	args = liftGlobals(args)
	if args[0] == "--version" {
		args[0] = "version" // as runc
	}
	var grammar any = &cli{}
	if args[0] == "run" {
		grammar = &runVerb{}
	}
	code := -1
	parser, err := kong.New(grammar,
		kong.Name("qenex"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Help(helpWithExitCodes),
		kong.Vars{"cmdline": defaultCmdline},
		kong.Exit(func(n int) { code = n }),
		kong.ExplicitGroups(flagGroups),
	)
	if err != nil {
		panic(err) // the cli type itself is wrong: no user can cause it
	}
	ctx, err := parser.Parse(args)
	if code >= 0 {
		return code // --help was printed
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "qenex: %v; see qenex --help\n", err)
		return usageCode(args)
	}
	return exitCode(audited(ctx, args, func() error { return ctx.Run(parser) }))
}

// usageCode returns the code for a command line that is wrong: the codes below 124 may be a program's.
func usageCode(args []string) int {
	if args[0] != "run" {
		return exitUsage
	}
	code := exitNative
	for _, a := range args {
		switch name, _, _ := strings.Cut(a, "="); name {
		case "--kernel":
			code = exitUsage
		case "--image":
			return exitNative
		}
	}
	return code
}

// exitCode prints err, if any, as one line and returns the code that stands for it.
func exitCode(err error) int {
	var e *exitError
	if err != nil && !(errors.As(err, &e) && e.err == nil) {
		fmt.Fprintln(os.Stderr, "qenex:", oneLine(err))
	}
	return codeOf(err)
}
