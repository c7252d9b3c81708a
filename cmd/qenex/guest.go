package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/gdbstub"
	"github.com/qenex/qenex-kernel/vmm"
)

// guest is a machine as the fleet sees it: one vmm.Machine, and after a reboot the next. It implements fleet.Machine.
type guest struct {
	dev    *devices
	cancel context.CancelCauseFunc // ends the machine
	began  time.Time
	client *agent.Client // nil: no socket device
	trace  *evidence     // nil: none
	done   chan struct{} // closed by end

	mu      sync.Mutex
	m       *vmm.Machine  // protected by mu; nil before the first, between two, and after the last
	paused  bool          // protected by mu
	boots   int           // protected by mu
	started chan struct{} // closed when the first machine runs
	ready   chan struct{} // protected by mu; closed when the agent of this boot answers
	running *running      // protected by mu; the command in the foreground
	ended   *commandEnd   // protected by mu; how the command has ended
	over    bool          // protected by mu
}

// errNoAgent says what a machine lacks.
var errNoAgent = fmt.Errorf("%w: it has no agent; start it with --agent or --image", fleet.ErrUnsupported)

var (
	errBetween = errors.New("the machine is being built, or has ended")
	errKilled  = signalError(syscall.SIGKILL)
)

func newGuest(dev *devices, cancel context.CancelCauseFunc) *guest {
	g := &guest{dev: dev, cancel: cancel, began: time.Now(), done: make(chan struct{}), started: make(chan struct{}), ready: make(chan struct{})}
	if dev.vsock != nil {
		g.client = agent.New(dev.vsock.Dial)
	}
	return g
}

// boot builds a machine, measures it, runs it to its end, or ctx's, and frees it.
func (g *guest) boot(ctx context.Context, c *runCmd, cfg vmm.Config, root string, console *fleet.Console) (o vmm.Outcome, r *vmm.Report, err error) {
	life, stop := context.WithCancel(context.Background())
	defer stop()
	if g.dev.console == nil {
		cfg.Input = console.Input(life)
	}
	launch, err := g.trace.beginBoot(cfg, root)
	if err != nil {
		return o, nil, err
	}
	defer func() { err = errors.Join(err, launch.close()) }()
	if launch.vtpm != nil {
		cfg.TPM = launch.vtpm
	}
	m, err := vmm.New(cfg)
	if err != nil {
		return o, nil, err
	}
	defer func() {
		stop() // Close waits for the reader of input
		g.set(nil)
		err = errors.Join(err, m.Close())
	}()
	if err := g.listen(life); err != nil {
		return o, nil, err
	}
	events, unsubscribe := m.Subscribe(eventBuffer)
	defer unsubscribe()
	go g.watch(events)
	if err := launch.launch(m, c.machineConfig(cfg)); err != nil {
		return o, nil, err
	}
	if c.GDB == "" {
		err = g.start(m)
	} else {
		err = g.debug(life, m, c.GDB)
	}
	if err != nil {
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
	if g.dev.console != nil {
		last, cancel := context.WithTimeout(context.Background(), lastWords)
		_ = g.dev.console.Flush(last) // whoever does not read gets no more
		cancel()
	}
	r, err = m.Report()
	return o, r, err
}

// lastWords is how long the reader of a virtio console may take to read what a guest wrote at its end.
const lastWords = time.Second

// eventBuffer is how many events of a machine may wait to be looked at.
const eventBuffer = 64

// watch tells of devices that the guest has broken, and records what happens.
func (g *guest) watch(events <-chan vmm.Event) {
	for e := range events {
		g.trace.event(e)
		if e.Kind == vmm.EventDevice {
			complain("%s", e.Text)
		}
	}
}

// start lets the guest run.
func (g *guest) start(m *vmm.Machine) error {
	err := m.Start()
	if err == nil {
		g.set(m)
	}
	return err
}

// debug leaves it to gdb to let the guest run, until ctx is done.
func (g *guest) debug(ctx context.Context, m *vmm.Machine, addr string) error {
	network := "tcp"
	if strings.Contains(addr, "/") {
		network = "unix"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return inputError("--gdb: %w", err)
	}
	fmt.Fprintf(os.Stderr, "qenex: the guest waits for gdb: target remote %s\n", l.Addr())
	go func() {
		err := gdbstub.Serve(ctx, l, debugged{m, g}, func(err error) { complain("gdb: %s", oneLine(err)) })
		if err != nil && ctx.Err() == nil {
			complain("gdb: %s", oneLine(err))
		}
	}()
	return nil
}

// debugged is a machine as gdb sees it.
type debugged struct {
	*vmm.Machine
	g *guest
}

// Start implements gdbstub.Target.
func (d debugged) Start() error { return d.g.start(d.Machine) }

// set makes m the machine.
func (g *guest) set(m *vmm.Machine) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m, g.paused = m, false; m == nil {
		return
	}
	if g.boots++; g.boots == 1 {
		close(g.started)
	}
}

// listen waits for the word of this boot's agent, until ctx is done.
func (g *guest) listen(ctx context.Context) error {
	if g.client == nil {
		return nil
	}
	ready := make(chan struct{})
	g.mu.Lock()
	g.ready = ready
	g.mu.Unlock()
	l, err := g.dev.vsock.Listen(agent.Port)
	if err != nil {
		return err
	}
	go func() {
		if _, err := agent.Ready(ctx, l); err == nil {
			l.Close()
			close(ready)
		}
	}()
	return nil
}

// end says that there will be no further machine.
func (g *guest) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.over = true
		close(g.done)
	}
}

// await waits until the machine runs, or, if agent is set, until the agent answers.
func (g *guest) await(ctx context.Context, agent bool) error {
	wait := func(ch <-chan struct{}) error {
		select {
		case <-ch:
			return nil
		case <-g.done:
			return errors.New("the machine has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(g.started); err != nil || !agent {
		return err
	}
	g.mu.Lock()
	ready := g.ready
	g.mu.Unlock()
	return wait(ready)
}

// process returns the command in the foreground that takes this process's signals; nil: none.
func (g *guest) process() *running {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

func (g *guest) setProcess(r *running) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = r
}

func (g *guest) commandEnd() *commandEnd {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

func (g *guest) setCommandEnd(e *commandEnd) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = e
}

// Status implements fleet.Machine.
func (g *guest) Status() fleet.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := fleet.Status{State: fleet.StateRunning, Agent: "none", Boots: g.boots, Uptime: time.Since(g.began)}
	isReady := false
	select {
	case <-g.ready:
		isReady = true
	default:
	}
	switch {
	case g.dev.agent && isReady:
		s.Agent = "ready"
	case g.dev.agent:
		s.Agent = "waiting"
	}
	switch {
	case g.over:
		s.State = fleet.StateEnded
	case g.paused:
		s.State = fleet.StatePaused
	case g.m == nil || g.dev.agent && !isReady:
		s.State = fleet.StateStarting
	}
	if g.ended != nil {
		s.CommandCode = &g.ended.code
	}
	if g.m != nil {
		s.MemoryUsed, _ = g.m.Memory().Touched() // 0 if the host does not say
	}
	return s
}

// Pause implements fleet.Machine.
func (g *guest) Pause(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		return errBetween
	}
	if g.paused {
		return nil
	}
	err := g.m.Pause(ctx)
	g.paused = err == nil
	return err
}

// Resume implements fleet.Machine.
func (g *guest) Resume() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		return errBetween
	}
	if !g.paused {
		return nil
	}
	err := g.m.Resume()
	g.paused = err != nil
	return err
}

// shutdownGrace is how long an agent that is the guest's init lets its processes end.
const shutdownGrace = 2 * time.Second

// Shutdown implements fleet.Machine: it asks the agent, if that answers, and else presses the power button.
func (g *guest) Shutdown(ctx context.Context) error {
	if g.Status().Agent == "ready" {
		if err := g.client.Shutdown(ctx, false, shutdownGrace); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		return errBetween
	}
	return g.m.PowerButton()
}

// Kill implements fleet.Machine.
func (g *guest) Kill() { g.cancel(errKilled) }

// Done implements fleet.Machine.
func (g *guest) Done() <-chan struct{} { return g.done }

// Dial implements fleet.Machine.
func (g *guest) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if g.client == nil {
		return nil, fmt.Errorf("%w: it has no socket device; start it with --vsock, --agent or --image", fleet.ErrUnsupported)
	}
	if port == agent.Port {
		if !g.dev.agent {
			return nil, errNoAgent
		}
		if err := g.await(ctx, true); err != nil {
			return nil, err
		}
	}
	return g.dev.vsock.DialContext(ctx, port)
}

// Guest implements fleet.Machine.
func (g *guest) Guest(ctx context.Context) (fleet.Guest, error) {
	if !g.dev.agent {
		return nil, errNoAgent
	}
	return agentGuest{g.client}, g.await(ctx, true)
}

// agentGuest is the agent as the fleet's server calls it.
type agentGuest struct{ *agent.Client }

// Exec implements fleet.Guest.
func (a agentGuest) Exec(ctx context.Context, c fleet.Command, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return a.Client.Exec(ctx, agent.Command{Args: c.Args, Env: c.Env, Dir: c.Dir, User: c.User, Stdin: stdin, Stdout: stdout, Stderr: stderr})
}
