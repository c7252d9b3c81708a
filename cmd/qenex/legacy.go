package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/vcpu/cpuid"
	"github.com/qenex/qenex-kernel/vmm"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// legacyFlags are those of qenex run --kernel.
type legacyFlags struct {
	Kernel   string            `placeholder:"FILE" help:"Kernel: a bzImage, or a vmlinux, also compressed."`
	Initrd   []string          `placeholder:"FILE" sep:"none" help:"Initial RAM disk; may be given several times, they are joined in order."`
	Cmdline  string            `placeholder:"TEXT" default:"console=ttyS0 panic=-1" help:"Kernel command line (default: ${default})."`
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

// legacy boots machines until one ends for good.
func (c *runCmd) legacy() (err error) {
	started := time.Now()
	cfg, err := c.config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// A closed stdout must not end the process with the terminal still raw.
	signal.Ignore(unix.SIGPIPE)
	defer onSignals(cancel)()
	if c.Timeout > 0 {
		timer := time.AfterFunc(c.Timeout, func() { cancel(errTimeout) })
		defer timer.Stop()
	}

	// A vCPU's thread holds one of the runtime's processors until it notices: consoles and signals need others.
	runtime.GOMAXPROCS(max(runtime.NumCPU(), cfg.CPUs+2))

	console, err := openConsole(cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, console.close()) }()
	cfg.Console = os.Stdout
	if c.JSON {
		cfg.Console = os.Stderr
	}
	for boots := 1; ; boots++ {
		outcome, report, err := oneMachine(ctx, cfg, console)
		if err != nil {
			return err
		}
		if outcome.Cause == vmm.Reboot && c.OnReboot == "restart" {
			continue
		}
		if err := console.close(); err != nil {
			return err
		}
		report.Boots, report.TotalNS = boots, time.Since(started)
		return c.finish(outcome, report, context.Cause(ctx))
	}
}

func (c *runCmd) config() (vmm.Config, error) {
	cfg := vmm.Config{
		Kernel: c.Kernel, Initrds: c.Initrd, Cmdline: c.Cmdline, Hints: !c.RawLine,
		Memory: 256 << 20, CPUs: 1, Heal: !c.NoHeal, KVM: c.KVM, Marks: c.Mark,
	}
	if c.Mem != nil {
		cfg.Memory = uint64(*c.Mem)
	}
	if c.CPUs != nil {
		cfg.CPUs = *c.CPUs
	}
	var err error
	if cfg.CPU, err = cpuid.Parse(c.CPU); err != nil {
		return cfg, &exitError{exitInput, fmt.Errorf("--cpu: %w", err)}
	}
	if cfg.Boot, err = boot.ParseMode(c.Boot); err != nil {
		return cfg, err
	}
	cfg.Tables, err = vmm.ParseTables(c.Tables)
	return cfg, err
}

// oneMachine builds a machine, runs it to its end, or ctx's, and frees it.
func oneMachine(ctx context.Context, cfg vmm.Config, console *console) (o vmm.Outcome, r *vmm.Report, err error) {
	input, stop := console.forMachine()
	defer stop()
	cfg.Input = input
	m, err := vmm.New(cfg)
	if err != nil {
		return o, nil, err
	}
	defer func() {
		stop() // Close waits for the reader of input
		err = errors.Join(err, m.Close())
	}()
	if err := m.Start(); err != nil {
		return o, nil, err
	}
	o, err = m.Wait(ctx)
	if ctx.Err() != nil {
		if err := m.Stop(context.Background()); err != nil {
			return o, nil, err
		}
		o, err = m.Wait(context.Background())
	}
	if err != nil {
		return o, nil, err
	}
	r, err = m.Report()
	return o, r, err
}

// finish writes the reports and returns what the exit code is to be.
func (c *runCmd) finish(o vmm.Outcome, r *vmm.Report, cause error) error {
	code, why := outcomeCode(o), error(nil)
	var sig signalError
	switch {
	case o.Cause != vmm.Ended:
		if code != exitOK && code != exitReboot {
			why = fmt.Errorf("guest ended by %v", o)
		}
	case errors.As(cause, &sig):
		code = exitSignal + int(sig)
	case errors.Is(cause, errQuit):
		code = exitQuit
	case errors.Is(cause, errTimeout):
		code, why = exitTimeout, fmt.Errorf("guest still ran after --timeout %v", c.Timeout)
	}
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

// onSignals cancels with a signalError when the process is told to end, until stop is called.
func onSignals(cancel context.CancelCauseFunc) (stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-ch:
			cancel(signalError(s.(syscall.Signal)))
		case <-done:
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}
