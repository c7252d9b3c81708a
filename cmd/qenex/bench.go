package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/bench"
)

type benchCmd struct {
	Peers       []string      `placeholder:"NAME" help:"Only these: qenex, qemu-microvm, qemu-pc, gokvm; of Linux programs native, qenex, runsc-systrap, runsc-ptrace, linux-qemu."`
	Experiments []string      `placeholder:"NAME" help:"Only these: start, ports, mmio, boot, user, large, native."`
	Runs        int           `default:"7" placeholder:"N" help:"Runs of a test guest for each peer (default: ${default})."`
	BootRuns    int           `default:"3" placeholder:"N" help:"Runs of a Linux guest for each peer (default: ${default})."`
	Limit       time.Duration `default:"2m" placeholder:"TIME" help:"Time for one process to get where it should (default: ${default})."`
	QEMU        string        `name:"qemu" placeholder:"FILE" help:"QEMU's program (default: qemu-system-x86_64 in PATH)."`
	Gokvm       string        `name:"gokvm" placeholder:"FILE" help:"gokvm's program (default: gokvm in PATH)."`
	Guest       string        `placeholder:"DIR" help:"Guest artefacts made by make guest (default: in ~/.cache/qenex)."`
	JSON        bool          `name:"json" help:"Print the table as JSON."`
}

// Help is the text behind the flags.
func (c *benchCmd) Help() string {
	return `Every peer gets the same kernel and initramfs in the same run. A peer that is missing, or fails, has the reason in
its cell. Progress goes to stderr.

Example: qenex bench --experiments start,boot --runs 20`
}

// Run measures.
func (c *benchCmd) Run(k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	_, err := bench.Run(ctx, bench.Options{
		QEMU: c.QEMU, Gokvm: c.Gokvm, Guest: c.Guest,
		Peers: c.Peers, Experiments: c.Experiments,
		Runs: c.Runs, BootRuns: c.BootRuns, Limit: c.Limit,
		JSON: c.JSON, Progress: os.Stderr,
	}, k.Stdout)
	return err
}
