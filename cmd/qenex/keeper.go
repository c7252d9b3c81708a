package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/trust"
)

// trustVerbs are the commands for evidence.
type trustVerbs struct {
	Audit  auditCmd  `cmd:"" group:"trust" help:"Look at the audit log, and check it."`
	Attest attestCmd `cmd:"" group:"trust" help:"Prove to others what this host runs, and check such proof."`
	Keeper keeperCmd `cmd:"" group:"trust" help:"Hold TPM and audit log: run --measure and run --audit start this by themselves."`
}

type keeperCmd struct {
	Idle   time.Duration `env:"QENEX_KEEPER_IDLE" default:"15m" placeholder:"TIME" help:"End when nobody needed it for so long; 0s: never (default: ${default}). The next one begins with PCRs as after a reset."`
	OnFull string        `env:"QENEX_AUDIT_ON_FULL" default:"wait" enum:"wait,drop" placeholder:"ACT" help:"When the disk does not keep up, let guests wait, or drop records, which the log counts (default: ${default})."`
	TPM    string        `name:"tpm" env:"QENEX_TPM" placeholder:"DEVICE" help:"The TPM (default: /dev/tpmrm0, or a swtpm where there is none)."`
	Ready  bool          `hidden:"" help:"Say on descriptor 3 that it is up: another command started it."`
}

// Help is the text behind the flags.
func (c *keeperCmd) Help() string {
	return "All is in /var/lib/qenex, for users other than root in ~/.local/state/qenex, or in $QENEX_STATE.\n\nExample: qenex keeper --idle 0s"
}

// Run keeps TPM and audit log until nobody needs them any more.
func (c *keeperCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	state, err := trust.DefaultState()
	if err != nil {
		return err
	}
	said := false
	say := func(up keeperUp) {
		if c.Ready && !said {
			said = true
			if b, err := json.Marshal(up); err == nil {
				f := os.NewFile(3, "ready")
				_, _ = f.Write(b) // whoever started this may be gone
				f.Close()
			}
		}
	}
	err = trust.Serve(ctx, state, trust.Options{Idle: c.Idle, Drop: c.OnFull == "drop", TPM: c.TPM, Wait: c.Ready}, func(software bool) {
		if software && !c.Ready {
			warnSoftwareTPM(state)
		}
		say(keeperUp{Software: software})
	})
	if err != nil {
		text := oneLine(err)
		say(keeperUp{Error: text[:min(len(text), maxKeeperMessage/8)]})
	}
	return err
}

// recorded runs a command and, while a keeper runs, records it: when it begins, and how it ended.
func recorded(verb, vm string, args []string, run func() error) error {
	client, err := commandLog()
	if client == nil {
		return errors.Join(err, run())
	}
	record := auditRecord(verb, vm, args)
	record.Detail = "begins"
	err = client.Record(record)
	if err == nil && verb != "run" {
		err = client.Flush()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the command could not be recorded, and was not executed: %w", err), client.Close())
	}
	if verb == "run" { // which records launch and end itself, durably, if it is to, and is shut in by then
		return errors.Join(client.Close(), run())
	}
	err = run()
	record.Detail, record.Result = "ended", int64(codeOf(err))
	if rerr := errors.Join(client.Record(record), client.Flush(), client.Close()); rerr != nil {
		complain("the end of the command could not be recorded: %s", oneLine(rerr))
	}
	return err
}

// commandLog reaches the keeper, if one runs.
func commandLog() (*trust.Client, error) {
	state, err := trust.DefaultState()
	if err != nil {
		return nil, nil // then nothing is recorded on this host
	}
	client, err := trust.Connect(state, "", nil)
	if errors.Is(err, trust.ErrNoKeeper) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return client, err
}

// unrecorded are the commands that tell something of QENEX or of the log, and change nothing.
var unrecorded = map[string]bool{"completion": true, "man": true, "version": true, "audit": true, "attest": true, "keeper": true, "sandbox": true}

// audited runs a command line, and records it where commands are recorded.
func audited(k *kong.Context, args []string, run func() error) error {
	verb := k.Command() // as in "stop <id>"
	name, _, _ := strings.Cut(verb, " ")
	if unrecorded[name] {
		return run()
	}
	var vms []string
	for _, p := range k.Path {
		if p.Positional == nil || p.Positional.Name != "id" && p.Positional.Name != "name" {
			continue
		}
		switch v := p.Positional.Target.Interface().(type) {
		case string:
			vms = append(vms, v)
		case []string:
			vms = append(vms, v...)
		}
	}
	return recorded(name, strings.Join(vms, ","), args, run)
}
