//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/qenex/qenex-kernel/oci/bundle"
	"github.com/qenex/qenex-kernel/oci/container"
	"github.com/qenex/qenex-kernel/oci/image"
)

// containerExecFlags are those of exec that containers only have.
type containerExecFlags struct {
	Process       string `short:"p" placeholder:"FILE" help:"What to run in a container, as the process of a config.json; instead of PROGRAM and the flags for it."`
	PidFile       string `placeholder:"FILE" help:"Write the ID of a process to FILE that ends as the container's program does, and hands signals on to it."`
	ConsoleSocket string `placeholder:"SOCKET" help:"Unix socket that gets the terminal of a container's program, if it has one."`
	Ready         bool   `hidden:"" help:"Say on descriptor 3 that the program runs."`
	PreserveFds   int    `hidden:""`
}

// container runs a program in a container.
func (c *execCmd) container() error {
	p, err := c.process()
	if err != nil {
		return err
	}
	if c.Detach {
		return c.detach(p)
	}
	return c.attach(p)
}

// process says what to run.
func (c *execCmd) process() (*specs.Process, error) {
	if c.Process != "" {
		p, err := bundle.LoadProcess(c.Process)
		if err == nil && c.TTY {
			p.Terminal = true
		}
		return p, err
	}
	if len(c.Program) == 0 {
		return nil, errors.New("nothing to run: give a PROGRAM or --process FILE")
	}
	ct, st, err := c.get(c.ID)
	if err != nil {
		return nil, err
	}
	config, err := bundle.Load(ct.Path("."))
	if err != nil {
		return nil, err
	}
	p := config.Process
	p.Args, p.Terminal = c.Program, c.TTY
	for _, e := range c.Env {
		if err := setEnv(&p.Env, e); err != nil {
			return nil, err
		}
	}
	if c.Cwd != "" {
		p.Cwd = c.Cwd
	}
	if c.User != "" {
		id, err := image.Lookup(st.Rootfs, c.User)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: id.UID, GID: id.GID, AdditionalGids: id.Groups}
	}
	return p, nil
}

// detach starts a copy of this command that stays with the program.
func (c *execCmd) detach(p *specs.Process) error {
	file, err := os.CreateTemp("", "qenex-exec-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(writeProcess(file, p), file.Close()); err != nil {
		return err
	}
	args := []string{"exec", "--ready", "--process", file.Name()}
	if c.Root != "" {
		args = append(args, "--root", c.Root)
	}
	cmd := exec.Command("/proc/self/exe", append(args, c.ID)...)
	cmd.Args[0] = "qenex-exec"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.Terminal {
		if c.ConsoleSocket == "" {
			return errors.New("--tty with --detach needs --console-socket, to which the terminal is sent")
		}
		release, err := giveTerminal(cmd, c.ConsoleSocket, p.ConsoleSize)
		if err != nil {
			return err
		}
		defer release()
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	child, err := startReady(cmd, nil)
	if err != nil {
		return err
	}
	return writePid(c.PidFile, child.Pid)
}

// attach runs the program on this process's standard files and ends as it does.
func (c *execCmd) attach(p *specs.Process) error {
	if !c.Ready && c.ConsoleSocket != "" {
		return errors.New("--console-socket needs --detach")
	}
	status, err := c.follow(p)
	if err != nil {
		return err
	}
	return &exitError{status, nil}
}

func (c *execCmd) follow(p *specs.Process) (code int, err error) {
	told := !c.Ready
	defer func() {
		if !told {
			err = errors.Join(err, sayReady(err))
		}
	}()
	program, warnings, err := bundle.Program(p)
	if err != nil {
		return 0, err
	}
	for _, w := range warnings {
		if err := c.log("warning", w); err != nil {
			return 0, err
		}
	}
	if program.TTY && !isTerminal(0) {
		return 0, errors.New("--tty: standard input is no terminal")
	}
	tty, err := keepTerminal(program.TTY)
	if err != nil {
		return 0, err
	}
	defer tty.restore()
	signals := catchSignals(program.TTY)
	conn, err := c.dial(c.ID)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	reply, err := conn.Call(container.Request{Op: container.OpExec, Exec: &program}, os.Stdin, os.Stdout, os.Stderr)
	if remote := (*container.RemoteError)(nil); errors.As(err, &remote) && remote.Code != 0 {
		return 0, &exitError{remote.Code, err}
	} else if err != nil {
		return 0, err
	}
	if c.PidFile != "" {
		if err := writePid(c.PidFile, os.Getpid()); err != nil {
			return 0, err
		}
	}
	if !told {
		told = true
		if err := sayReady(nil); err != nil {
			return 0, err
		}
	}
	go forward(signals, func(sig syscall.Signal) {
		// A connection of its own: this one's next message is the program's end.
		_, _ = c.call(c.ID, container.Request{Op: container.OpSignal, PID: reply.PID, Signal: int(sig)})
	})
	return awaitExit(conn)
}

// awaitExit waits for the end of the program that was started on conn.
func awaitExit(conn *container.Conn) (int, error) {
	var reply container.Reply
	files, err := conn.Receive(&reply)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return exitSignal + int(syscall.SIGKILL), nil // the container has ended, and all programs in it
	}
	if reply.Error != "" || reply.Exited == nil {
		return 0, fmt.Errorf("waiting for the program: %s", reply.Error)
	}
	return reply.Exited.Shell(), nil
}
