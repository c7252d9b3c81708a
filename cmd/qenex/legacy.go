package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/vcpu/cpuid"
	"github.com/qenex/qenex-kernel/vmm"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// legacyFlags are those of a machine's kernel.
type legacyFlags struct {
	Kernel   string            `placeholder:"FILE" help:"Kernel: a bzImage, or a vmlinux, also compressed (default with --image: the one that make guest made, lean on a software KVM, else stock)."`
	Initrd   []string          `placeholder:"FILE" sep:"none" help:"Initial RAM disk; may be given several times, they are joined in order."`
	Cmdline  string            `placeholder:"TEXT" default:"${cmdline}" help:"Kernel command line (default: ${default})."`
	RawLine  bool              `name:"raw-cmdline" help:"Pass --cmdline as it is: no hints are put before it on a software KVM."`
	CPU      string            `name:"cpu" default:"host" placeholder:"MODEL" help:"CPU model: host, baseline or a JSON file, with +name,-name to change features, as in host,-avx2 (default: ${default})."`
	Boot     string            `default:"auto" enum:"auto,linux64,pvh,direct" placeholder:"HOW" help:"Way into the kernel: auto, linux64 (bzImage), pvh, direct (vmlinux entry, unpacked on the host)."`
	Tables   string            `default:"acpi" enum:"acpi,mp,none" placeholder:"KIND" help:"Firmware tables: acpi, mp or none. Kernels without ACPI boot faster with mp or none."`
	NoHeal   bool              `help:"Do not complete instructions that this KVM cannot emulate, and do not arm the SYSCALL shim."`
	OnReboot string            `default:"exit" enum:"exit,restart" placeholder:"ACT" help:"What a guest's reboot does: exit (code 10), or restart the machine."`
	Mark     map[string]string `placeholder:"NAME=TEXT" mapsep:"none" help:"Milestone NAME is reached when TEXT first appears on the console."`
	Report   string            `placeholder:"FILE" help:"Write the run report as JSON to FILE."`
	Verbose  bool              `short:"v" help:"Print the run report for people on stderr at the end."`
}

// defaultCmdline is the kernel command line if no other is given.
const defaultCmdline = serialConsole + " panic=-1"

// hasAgent says whether the guest runs QENEX's agent.
func (c *runCmd) hasAgent() bool { return c.Agent || c.Image != "" }

// machine runs a machine to its end, or, with --detach, starts one.
func (c *runCmd) machine() error {
	err := c.checkMachine()
	switch {
	case err != nil:
	case c.Ready:
		return c.detached()
	case c.Detach:
		return c.detach()
	default:
		err = c.run(func(string) error { return nil })
	}
	return c.machineError(err)
}

// checkMachine refuses flags that do not go together.
func (c *runCmd) checkMachine() error {
	if c.Detach && c.JSON {
		return usageError("--json with --detach: nobody reads it; give --report FILE, or use qenex inspect")
	}
	if c.Wait == "agent" && !c.hasAgent() {
		return usageError("--wait agent: this machine has no agent; give --agent or --image")
	}
	return nil
}

// machineError gives what QENEX itself fails at a code that no program's can be taken for.
func (c *runCmd) machineError(err error) error {
	var e *exitError
	if c.Image == "" || err == nil || errors.As(err, &e) && (e.err == nil || e.code >= exitReboot) {
		return err
	}
	return &exitError{exitNative, err}
}

// run builds machines and runs them until one ends for good. It calls up with the machine's name, from another goroutine, when it is as far as --wait
// wants; an error of up ends the machine.
func (c *runCmd) run(up func(name string) error) (err error) {
	started := time.Now()
	plan, err := c.plan()
	if err != nil {
		return err
	}
	cfg := plan.cfg
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// A closed stdout must not end the process with the terminal still raw.
	signal.Ignore(unix.SIGPIPE)
	if c.Timeout > 0 {
		timer := time.AfterFunc(c.Timeout, func() { cancel(errTimeout) })
		defer timer.Stop()
	}

	// A vCPU's thread, and each that waits in a system call, holds one of the runtime's processors until the runtime notices. With few others
	// a device's goroutine waits for that: in the svm lane random reads of a disk were six times as slow with 3 as with 8 or 16.
	runtime.GOMAXPROCS(cfg.CPUs + max(runtime.NumCPU(), 8))

	dev, err := c.openDevices(plan)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.close()) }()
	g := newGuest(dev, cancel)
	reg, err := c.register(g, plan)
	if err != nil {
		return err
	}
	ending := fleet.Outcome{Cause: "error"}
	defer func() {
		if ending.Code, ending.Ended = codeOf(err), time.Now(); err != nil && ending.Text == "" {
			ending.Text = oneLine(err)
		}
		reg.keep = c.Detach && g.Status().Boots > 0 // who started it has been told of what went wrong before
		err = errors.Join(err, reg.close(ending))
	}()
	defer g.end()
	if g.trace, err = c.machineEvidence(reg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.trace.close()) }()
	defer func() { err = errors.Join(err, g.trace.stopped(codeOf(err), ending.Cause+": "+ending.Text)) }()
	go func() {
		select {
		case <-g.trace.lost():
			cancel(errAuditLost)
		case <-g.done:
		}
	}()
	foreground := plan.command != nil && !c.Detach
	defer onSignals(cancel, g, foreground)()
	keys, err := openKeyboard(reg.console, !c.Detach && plan.command == nil, cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.close()) }()
	c.addConsole(dev, &cfg, reg.console)
	cfg.Virtio, cfg.Console = dev.list, reg.console
	cfg.Cmdline = strings.Join(append([]string{cfg.Cmdline}, dev.words...), " ")
	if c.Transport == "pci" || c.Transport == "auto" && plan.pci {
		cfg.Transport = vmm.PCI
	}
	if plan.command != nil {
		go c.command(ctx, g, reg, plan.command)
	}
	go func() {
		if g.await(ctx, c.Wait != "start" && c.hasAgent()) == nil {
			if err := up(reg.name); err != nil {
				cancel(err)
			}
		}
	}()
	for {
		outcome, report, err := g.boot(ctx, c, cfg, plan.rootPath(), reg.console)
		if err != nil {
			return err
		}
		if outcome.Cause == vmm.Reboot && c.OnReboot == "restart" {
			continue
		}
		g.end()
		if err := keys.close(); err != nil {
			return err
		}
		report.Boots, report.TotalNS = g.Status().Boots, time.Since(started)
		ending.Cause, ending.Text = outcome.Cause.String(), outcome.Detail
		code, why := c.verdict(outcome, context.Cause(ctx), foreground, g, reg)
		return c.finish(code, why, report)
	}
}

// plan is what the flags ask for, before anything of it is opened.
type plan struct {
	cfg     vmm.Config
	root    *diskSpec      // the first disk, of --image
	command *agent.Command // what the agent is to run; nil: nothing
	image   string         // for the registry
	pci     bool           // the default transport is PCI
}

func (c *runCmd) plan() (*plan, error) {
	p := &plan{cfg: vmm.Config{
		Kernel: c.Kernel, Initrds: c.Initrd, Cmdline: c.Cmdline, Hints: !c.RawLine,
		Memory: 256 << 20, CPUs: 1, Heal: !c.NoHeal, KVM: c.KVM, Marks: c.Mark,
	}}
	cfg := &p.cfg
	if c.CPUs != nil {
		cfg.CPUs = *c.CPUs
	}
	var err error
	if cfg.CPU, err = cpuid.Parse(c.CPU); err != nil {
		return nil, inputError("--cpu: %w", err)
	}
	if cfg.Boot, err = boot.ParseMode(c.Boot); err != nil {
		return nil, err
	}
	if cfg.Tables, err = vmm.ParseTables(c.Tables); err != nil {
		return nil, err
	}
	if c.hasAgent() {
		if err := c.planAgent(p); err != nil {
			return nil, err
		}
	}
	if c.Mem != nil {
		cfg.Memory = uint64(*c.Mem)
	}
	return p, nil
}

// verdict says what the exit code is to be, and why.
func (c *runCmd) verdict(o vmm.Outcome, cause error, foreground bool, g *guest, reg *registered) (code int, why error) {
	if foreground {
		if end := g.commandEnd(); end != nil {
			return end.code, end.err
		}
	}
	var sig signalError
	code = outcomeCode(o)
	switch {
	case o.Cause != vmm.Ended && foreground:
		return exitNative, fmt.Errorf("the guest ended by %v before its command did%s", o, reg.lastWords())
	case o.Cause != vmm.Ended:
		if code != exitOK && code != exitReboot {
			why = fmt.Errorf("guest ended by %v", o)
		}
	case errors.As(cause, &sig):
		code = exitSignal + int(sig)
	case errors.Is(cause, errQuit):
		code = exitQuit
	case errors.Is(cause, errTimeout):
		code, why = exitTimeout, fmt.Errorf("guest still ran after --timeout %v%s", c.Timeout, reg.lastWords())
		if c.Image != "" {
			code = exitProgramTimeout
		}
	default:
		why = cause
	}
	return code, why
}

// finish writes the reports and returns what this process is to end with.
func (c *runCmd) finish(code int, why error, r *vmm.Report) error {
	r.ExitCode = code
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if c.JSON {
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
	}
	if c.Report != "" {
		if err := os.WriteFile(c.Report, text, 0o644); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	if c.Verbose {
		r.Text(os.Stderr)
	}
	return &exitError{code, why}
}

var (
	errQuit    = errors.New("Ctrl-A x was typed")
	errTimeout = errors.New("the time is over")
)

// signalError is a signal that ends the machine.
type signalError syscall.Signal

func (s signalError) Error() string { return fmt.Sprintf("signal %v", syscall.Signal(s)) }

// onSignals cancels with a signalError when the process is told to end, until stop is called. With a command in the foreground, signals are that
// command's once it runs.
func onSignals(cancel context.CancelCauseFunc, g *guest, foreground bool) (stop func()) {
	ending := []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}
	caught := ending
	if foreground {
		caught = programSignals(false)
	}
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, caught...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-ch:
				if p := g.process(); p != nil {
					p.signal(s.(syscall.Signal))
				} else if slices.Contains(ending, s) {
					cancel(signalError(s.(syscall.Signal)))
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}
