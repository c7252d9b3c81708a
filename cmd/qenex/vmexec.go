package main

import (
	"context"
	"errors"
	"net"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/fleet"
)

type execCmd struct {
	ociFlags           `embed:"" group:"oci"`
	containerExecFlags `embed:""`

	Detach      bool     `short:"d" help:"Do not wait for the program's end; of a container only."`
	Interactive bool     `short:"i" help:"Accepted, for the habit of -it: standard input is always the program's."`
	TTY         bool     `name:"tty" short:"t" help:"The program has a terminal: this one, or a new one with --console-socket."`
	Env         []string `short:"e" placeholder:"K=V" sep:"none" help:"Set an environment variable beside those of the container, or the guest's own."`
	Cwd         string   `placeholder:"DIR" help:"Working directory (default: the container's, or the user's home)."`
	User        string   `short:"u" placeholder:"USER[:GROUP]" help:"User (default: the container's, or root)."`

	ID      string   `arg:"" name:"name" help:"Machine or container."`
	Program []string `arg:"" optional:"" passthrough:"partial" help:"Program and its arguments."`
}

// Help is the text behind the flags.
func (c *execCmd) Help() string {
	return `The exit code is the program's; if the command itself fails, 125 to 127 as of qenex run. In a machine it takes QENEX's agent, which runs
with --image and --agent, and the program ends when this command does.

Examples:
  qenex exec web /bin/sh -c 'ps; exit 3'
  qenex exec -it debian bash`
}

// Run runs a program in a machine or a container.
func (c *execCmd) Run() error {
	if len(c.Program) > 0 && c.Program[0] == "--" {
		c.Program = c.Program[1:]
	}
	if !c.containersOnly() {
		if vm, err := aliveVM(c.ID); vm != nil || err != nil {
			if err == nil {
				err = c.machine(vm)
			}
			return nativeError(err)
		}
	}
	return c.report(nativeError(c.container()))
}

var (
	errNothing    = errors.New("nothing to run: give a PROGRAM")
	errDetach     = errors.New("--detach is for containers: in a machine, let a shell start the program in the background")
	errNoTerminal = errors.New("--tty: standard input is no terminal, or this is a job in its background")
)

// agentOf connects to the agent of a machine.
func agentOf(ctx context.Context, vm *fleet.VM) *agent.Client {
	return agent.New(func(port uint32) (net.Conn, error) { return vm.Connect(ctx, port) })
}

// machine runs the program in a machine.
func (c *execCmd) machine(vm *fleet.VM) error {
	switch {
	case len(c.Program) == 0:
		return &exitError{exitNative, errNothing}
	case c.Detach:
		return &exitError{exitNative, errDetach}
	case c.TTY && !inForeground(0):
		return &exitError{exitNative, errNoTerminal}
	}
	cmd := agent.Command{Args: c.Program, Dir: c.Cwd, User: c.User, TTY: c.TTY}
	for _, e := range c.Env {
		if err := setEnv(&cmd.Env, e); err != nil {
			return err
		}
	}
	ctx := context.Background()
	client := agentOf(ctx, vm)
	if c.TTY { // whoever waits for a guest to boot wants Ctrl-C to work
		if _, err := client.Ping(ctx); err != nil {
			return err
		}
	}
	code, err := follow(ctx, client, cmd, func(r *running) { go forward(catchSignals(false), r.signal) })
	if err != nil {
		return &exitError{commandCode(err), err}
	}
	return &exitError{code, nil}
}
