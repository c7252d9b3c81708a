package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/fleet"
)

// registered is what the fleet knows of this process's machine.
type registered struct {
	name    string
	console *fleet.Console

	// The rest is nil if there is no place to register machines.
	r      *fleet.Registry
	vm     *fleet.VM
	log    *fleet.Log // of the console
	output *fleet.Log // of the command of a detached machine
	server *fleet.Server
	keep   bool // leave an entry behind that says how the machine ended
}

// register makes the machine known to the fleet, and its console.
func (c *runCmd) register(g *guest, p *plan) (reg *registered, err error) {
	var out io.Writer
	switch {
	case c.Detach || p.command != nil: // standard output is the command's, or nobody's
	case c.JSON:
		out = os.Stderr
	default:
		out = os.Stdout
	}
	reg = &registered{name: c.Name}
	if reg.r, err = fleet.Open(""); err == nil {
		reg.vm, err = reg.r.Create(c.describe(g, p))
	}
	if err != nil && (c.Name != "" || c.Detach) {
		return nil, inputError("%w", err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "qenex: warning: qenex ps will not know this machine: %v\n", oneLine(err))
		reg.console = fleet.NewConsole(out, nil)
		return reg, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, reg.close(fleet.Outcome{Cause: "error"}))
		}
	}()
	reg.name = reg.vm.Name
	if reg.log, err = fleet.NewLog(reg.vm.Path("console.log"), fleet.LogLimit); err != nil {
		return reg, err
	}
	reg.console = fleet.NewConsole(out, reg.log)
	if c.Detach {
		if reg.output, err = fleet.NewLog(reg.vm.Path("output.log"), fleet.LogLimit); err != nil {
			return reg, err
		}
		if err := ownErrors(reg.vm.Path("errors.log")); err != nil {
			return reg, err
		}
	}
	reg.server, err = fleet.NewServer(reg.vm, g, reg.console, reg.log, reg.output)
	return reg, err
}

// ownErrors makes path this process's standard error.
func ownErrors(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Dup3(int(f.Fd()), 2, 0)
}

// describe is the machine's entry in the registry.
func (c *runCmd) describe(g *guest, p *plan) fleet.Spec {
	s := fleet.Spec{
		Name: c.Name, Created: time.Now(), Version: version, Kernel: p.cfg.Kernel, Image: p.image, CPUs: p.cfg.CPUs, Memory: p.cfg.Memory,
		Disks: c.Disk, Net: c.Net, Shares: c.Share, Detached: c.Detach,
	}
	if p.command != nil {
		s.Command = p.command.Args
	}
	if g.dev.tap != "" {
		s.Net = "tap=" + g.dev.tap
	}
	if c.Vsock != "" {
		s.Vsock, _ = filepath.Abs(c.Vsock) // it was opened by this path
	}
	if g.dev.net != nil {
		for _, f := range g.dev.net.Forwards() {
			s.Publish = append(s.Publish, fmt.Sprintf("%s:%d/%s", f.Host, f.Guest, f.Proto))
		}
	}
	return s
}

// lastWords is the last line that the console said, for an error.
func (reg *registered) lastWords() string {
	if reg.log == nil {
		return ""
	}
	var end tail
	if reg.log.Copy(context.Background(), &end, false) != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(end.b), "\r", "")), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return fmt.Sprintf("; the last line of its console: %.300q", last)
	}
	return ""
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 4 << 10
	t.b = append(t.b, p...)
	if len(t.b) > keep {
		t.b = bytes.Clone(t.b[len(t.b)-keep:])
	}
	return len(p), nil
}

// close ends what the fleet sees of the machine.
func (reg *registered) close(o fleet.Outcome) error {
	if reg.console != nil {
		reg.console.Close()
	}
	var errs []error
	for _, l := range []*fleet.Log{reg.log, reg.output} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if reg.server != nil {
		reg.server.Close()
	}
	if reg.vm != nil {
		errs = append(errs, reg.r.Finish(reg.vm, o, reg.keep))
	}
	return errors.Join(errs...)
}
