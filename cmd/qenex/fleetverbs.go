package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/internal/process"
)

// fleetVerbs are the commands for machines that run. Those that a container has too look for a machine of that name first, and for a container
// then; with --root for a container only.
type fleetVerbs struct {
	Ps      psCmd      `cmd:"" group:"machines" help:"List machines and containers, or the processes in a container."`
	Stop    stopCmd    `cmd:"" group:"machines" help:"Let a guest power off, or a container's program end; after a deadline, end it."`
	Kill    killCmd    `cmd:"" group:"machines" help:"Switch a machine off, or send a signal to a container's program."`
	Pause   pauseCmd   `cmd:"" group:"machines" help:"Stop a machine, or all programs of a container, where they are."`
	Resume  resumeCmd  `cmd:"" group:"machines" help:"Let a paused machine or container run on."`
	Console consoleCmd `cmd:"" group:"machines" help:"Look at a machine's console, and type."`
	Logs    logsCmd    `cmd:"" group:"machines" help:"Print what a machine's command, or its console, has said."`
	Inspect inspectCmd `cmd:"" group:"machines" help:"Print what a machine or container is and does, as JSON."`
	Exec    execCmd    `cmd:"" group:"machines" help:"Run a command in a machine or a container."`
	Cp      cpCmd      `cmd:"" group:"machines" help:"Copy files into a machine or out of it."`
	Balloon balloonCmd `cmd:"" group:"machines" help:"Say how much memory a machine has given back, or ask for some."`
	Metrics metricsCmd `cmd:"" group:"machines" help:"Print counters of machines for Prometheus."`
}

// findVM finds a machine by its name. It returns nil and no error if there is none.
func findVM(name string) (*fleet.Registry, *fleet.VM, error) {
	r, err := fleet.Open("")
	if err != nil {
		return nil, nil, nil // then there are no machines
	}
	vm, err := r.Get(name)
	if errors.Is(err, fleet.ErrNotFound) || errors.Is(err, fleet.ErrName) {
		return r, nil, nil
	}
	return r, vm, err
}

// aliveVM finds a machine that can be asked something; nil: there is no machine of that name.
func aliveVM(name string) (*fleet.VM, error) {
	_, vm, err := findVM(name)
	if vm != nil && !vm.Alive() {
		if vm.Outcome != nil {
			return nil, fmt.Errorf("machine %s has ended by %s", name, vm.Outcome.Cause)
		}
		return nil, fmt.Errorf("machine %s is dead: its process was killed; qenex ps removes what is left", name)
	}
	return vm, err
}

// mustVM finds a machine for a command that is for machines only.
func mustVM(name string) (*fleet.VM, error) {
	vm, err := aliveVM(name)
	if vm == nil && err == nil {
		err = noVM(name)
	}
	return vm, err
}

func noVM(name string) error {
	return fmt.Errorf("%s: %w; qenex ps lists what runs", name, fleet.ErrNotFound)
}

// interruptible is a context that ends when the user says so.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
}

type psCmd struct {
	ociFlags `embed:"" group:"oci"`

	JSON   bool     `name:"json" help:"List machines and containers as JSON."`
	Keep   bool     `help:"Leave what is left of machines that have ended; else they are listed once and then gone."`
	Format string   `short:"f" default:"table" enum:"table,json" placeholder:"FORMAT" help:"table, or json: of a container, the process IDs on the host, which is one (default: ${default})."`
	ID     string   `arg:"" optional:"" name:"name" help:"Machine or container (default: all)."`
	Rest   []string `arg:"" optional:"" hidden:"" help:"Ignored."`
}

// Help is the text behind the flags.
func (c *psCmd) Help() string {
	return `A machine is starting, running, paused, stopping or ended; dead: its process was killed; silent: its process does not answer.

Examples:
  qenex ps
  qenex ps --json | jq -r '.[] | select(.state == "running") | .name'
  qenex ps web`
}

// Run lists machines, or processes.
func (c *psCmd) Run() error {
	if c.ID == "" {
		return c.list("")
	}
	if !c.containersOnly() {
		if _, vm, err := findVM(c.ID); vm != nil || err != nil {
			if err == nil {
				err = c.list(c.ID)
			}
			return err
		}
	}
	return c.report(c.container())
}

// psRow is one line of qenex ps.
type psRow struct {
	Kind string `json:"kind"` // machine or container
	fleet.Info
}

func (c *psCmd) list(only string) error {
	rows := []psRow{}
	var gone []*fleet.VM
	r, err := fleet.Open("")
	if err == nil {
		vms, err := r.List()
		if err != nil {
			return err
		}
		infos := make([]fleet.Info, len(vms))
		var all sync.WaitGroup
		for i, vm := range vms {
			all.Go(func() { infos[i] = vm.Info(context.Background()) })
		}
		all.Wait()
		for i, info := range infos {
			if only != "" && info.Name != only {
				continue
			}
			rows = append(rows, psRow{"machine", info})
			if info.State == fleet.StateEnded || info.State == fleet.StateDead {
				gone = append(gone, vms[i])
			}
		}
	}
	if only == "" {
		more, err := c.containers()
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	if c.JSON || c.Format == "json" {
		err = printJSON(rows)
	} else {
		err = printRows(rows)
	}
	for _, vm := range gone {
		if !c.Keep {
			err = errors.Join(err, r.Remove(vm))
		}
	}
	return err
}

func printRows(rows []psRow) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tSTATE\tPID\tCPUS\tMEMORY\tUPTIME\tRUNS")
	for _, r := range rows {
		cpus, memory, uptime, runs := "-", "-", "-", r.Image
		if r.Kind == "machine" {
			cpus, memory = fmt.Sprint(r.CPUs), fmt.Sprintf("%dM", r.Memory>>20)
			if runs == "" {
				runs = r.Kernel
			}
			if len(r.Command) > 0 {
				runs += " " + strings.Join(r.Command, " ")
			}
		}
		if r.Uptime > 0 {
			uptime = r.Uptime.Round(time.Second).String()
		}
		state := r.State
		if r.Outcome != nil {
			state += fmt.Sprintf(" (%s, code %d)", r.Outcome.Cause, r.Outcome.Code)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", r.Name, r.Kind, state, r.PID, cpus, memory, uptime, plain(runs))
	}
	return w.Flush()
}

// plain makes text from elsewhere fit for a terminal.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return s
}

type stopCmd struct {
	ociFlags `embed:"" group:"oci"`

	Deadline time.Duration `default:"30s" placeholder:"TIME" help:"How long the guest, or the program, may take (default: ${default})."`
	Names    []string      `arg:"" name:"name" help:"Machines or containers."`
}

// Help is the text behind the flags.
func (c *stopCmd) Help() string {
	return `A guest is asked by QENEX's agent, or else by the power button. A container's program gets SIGTERM.

Example: qenex stop --deadline 10s web db`
}

// Run stops machines.
func (c *stopCmd) Run() error {
	if c.Deadline < 0 || c.Deadline > time.Hour {
		return usageError("--deadline %v: it is 0 to 1h", c.Deadline)
	}
	errs := make([]error, len(c.Names))
	var all sync.WaitGroup
	for i, name := range c.Names {
		all.Go(func() { errs[i] = c.stop(name) })
	}
	all.Wait()
	return c.report(errors.Join(errs...))
}

func (c *stopCmd) stop(name string) error {
	if !c.containersOnly() {
		vm, err := aliveVM(name)
		if err != nil {
			return err
		}
		if vm != nil {
			reply, err := vm.Stop(context.Background(), c.Deadline)
			if err == nil && reply.How == "killed" {
				fmt.Fprintf(os.Stderr, "qenex: warning: machine %s was switched off: %s\n", name, reply.Reason)
			}
			return err
		}
	}
	return c.container(name)
}

type killCmd struct {
	ociFlags `embed:"" group:"oci"`

	All    bool   `short:"a" help:"To every process of the container."`
	ID     string `arg:"" name:"name" help:"Machine or container."`
	Signal string `arg:"" optional:"" default:"SIGTERM" help:"Signal for a container, by name or number (default: ${default})."`
}

// Help is the text behind the flags.
func (c *killCmd) Help() string {
	return `A machine is switched off at once, even if its process does not answer; what it has not written to its disks is lost.

Examples:
  qenex kill vm1
  qenex kill web SIGKILL`
}

// Run switches a machine off, or sends a signal.
func (c *killCmd) Run() error {
	if !c.containersOnly() {
		r, vm, err := findVM(c.ID)
		if vm != nil || err != nil {
			if err == nil {
				err = c.machine(r, vm)
			}
			return err
		}
	}
	return c.report(c.container())
}

// answerTime is how long a machine's process has to answer before it is killed itself.
const answerTime = 5 * time.Second

func (c *killCmd) machine(r *fleet.Registry, vm *fleet.VM) error {
	if s := strings.TrimPrefix(strings.ToUpper(c.Signal), "SIG"); c.All || s != "TERM" && s != "KILL" && s != "9" && s != "15" {
		return usageError("%s is a machine, which can only be switched off; for signals there is: qenex exec %s kill", c.ID, c.ID)
	}
	if vm.Alive() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		if vm.PowerOff(ctx) == nil {
			return nil // its process tidies up
		}
		if err := vm.Kill(); err != nil && !errors.Is(err, process.ErrGone) {
			return err
		}
	}
	return r.Remove(vm)
}

type pauseCmd struct {
	ociFlags `embed:"" group:"oci"`

	ID string `arg:"" name:"name" help:"Machine or container."`
}

// Help is the text behind the flags.
func (c *pauseCmd) Help() string { return "Example: qenex pause web" }

// Run pauses a machine or container.
func (c *pauseCmd) Run() error {
	if !c.containersOnly() {
		if vm, err := aliveVM(c.ID); vm != nil || err != nil {
			if err == nil {
				err = vm.Pause(context.Background())
			}
			return err
		}
	}
	return c.report(c.container())
}

type resumeCmd struct {
	ociFlags `embed:"" group:"oci"`

	ID string `arg:"" name:"name" help:"Machine or container."`
}

// Help is the text behind the flags.
func (c *resumeCmd) Help() string { return "Example: qenex resume web" }

// Run resumes a machine or container.
func (c *resumeCmd) Run() error {
	if !c.containersOnly() {
		if vm, err := aliveVM(c.ID); vm != nil || err != nil {
			if err == nil {
				err = vm.Resume(context.Background())
			}
			return err
		}
	}
	return c.report(c.container())
}

type logsCmd struct {
	Follow  bool   `short:"f" help:"Go on until the machine ends."`
	Console bool   `help:"What the console said, also if the machine has a command."`
	Name    string `arg:"" name:"name" help:"Machine."`
}

// Help is the text behind the flags.
func (c *logsCmd) Help() string {
	return `Of a detached machine with a command it is that command's output, else the console's. The last 4 to 8 MiB are kept, until qenex ps
has listed the machine as ended.

Example: qenex logs --follow web`
}

// Run prints a log.
func (c *logsCmd) Run() error {
	_, vm, err := findVM(c.Name)
	if vm == nil {
		if err == nil {
			err = noVM(c.Name)
		}
		return err
	}
	stream := "console"
	if len(vm.Command) > 0 && vm.Detached && !c.Console {
		stream = "output"
	}
	if !vm.Alive() {
		return vm.CopyLog(stream, os.Stdout)
	}
	ctx, stop := interruptible()
	defer stop()
	err = vm.Logs(ctx, stream, c.Follow, os.Stdout)
	if ctx.Err() != nil {
		return nil // the user has seen enough
	}
	return err
}

type inspectCmd struct {
	ociFlags `embed:"" group:"oci"`

	ID string `arg:"" name:"name" help:"Machine or container."`
}

// Help is the text behind the flags.
func (c *inspectCmd) Help() string { return "Example: qenex inspect web | jq -r .state" }

// Run prints what a machine is.
func (c *inspectCmd) Run() error {
	if !c.containersOnly() {
		if _, vm, err := findVM(c.ID); vm != nil || err != nil {
			if err == nil {
				err = printJSON(vm.Info(context.Background()))
			}
			return err
		}
	}
	return c.report(c.container())
}

type balloonCmd struct {
	Name string `arg:"" name:"name" help:"Machine."`
	Size *size  `arg:"" optional:"" name:"size" help:"Memory that the guest is to give back; 0 takes none."`
}

// Help is the text behind the flags.
func (c *balloonCmd) Help() string {
	return `The machine must have been started with --balloon.

Example: qenex balloon web 64M`
}

// Run prints the balloon, after setting it.
func (c *balloonCmd) Run() error {
	vm, err := mustVM(c.Name)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	var b fleet.Balloon
	if c.Size == nil {
		b, err = vm.Balloon(ctx)
	} else {
		b, err = vm.SetBalloon(ctx, uint64(*c.Size))
	}
	if err != nil {
		return err
	}
	return printJSON(b)
}

type metricsCmd struct {
	Names []string `arg:"" optional:"" name:"name" help:"Machines (default: all)."`
}

// Help is the text behind the flags.
func (c *metricsCmd) Help() string {
	return "Example: qenex metrics > /var/lib/prometheus/node-exporter/qenex.prom"
}

// Run prints metrics.
func (c *metricsCmd) Run() error {
	r, err := fleet.Open("")
	if err != nil {
		return err
	}
	vms, err := r.List()
	if err != nil {
		return err
	}
	if len(c.Names) > 0 {
		vms = nil
		for _, name := range c.Names {
			vm, err := mustVM(name)
			if err != nil {
				return err
			}
			vms = append(vms, vm)
		}
	}
	return printMetrics(vms)
}

// printMetrics joins the metrics of several machines: Prometheus wants samples of one name to stand together.
func printMetrics(vms []*fleet.VM) error {
	var j fleet.MetricsJoiner
	for _, vm := range vms {
		if vm.Alive() {
			var text strings.Builder
			if err := vm.Metrics(context.Background(), &text); err != nil && vm.Alive() {
				return err
			}
			j.Add(text.String())
		}
	}
	_, err := os.Stdout.WriteString(j.String())
	return err
}
