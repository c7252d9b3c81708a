package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device/terminal"
	"github.com/qenex/qenex-kernel/vmm/doctor"
)

type doctorCmd struct {
	JSON bool `name:"json" help:"Print the report as JSON."`
}

// Help is the text behind the flags.
func (c *doctorCmd) Help() string {
	return `The exit code is 0 when guests can run here, else 4.

Example: qenex doctor --json | jq .verdict`
}

// Run examines the host.
func (c *doctorCmd) Run(k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	r, err := doctor.Run(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(k.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		colour := terminal.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && !strings.HasPrefix(os.Getenv("TERM"), "dumb")
		err = r.Text(k.Stdout, colour)
	}
	if err == nil && !r.Verdict.CanRun {
		err = &exitError{code: exitHost}
	}
	return err
}
