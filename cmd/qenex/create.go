//go:build !kernelonly

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/oci/bundle"
	"github.com/qenex/qenex-kernel/oci/container"
)

// makeFlags are those of create and restore.
type makeFlags struct {
	Bundle        string `short:"b" default:"." placeholder:"DIR" help:"Directory with config.json (default: this one)."`
	PidFile       string `placeholder:"FILE" help:"Write the process ID of the container to FILE. That process ends with the program's exit code."`
	ConsoleSocket string `placeholder:"SOCKET" help:"Unix socket that gets the terminal of a program that has one."`
	NoPivot       bool   `hidden:""`
	NoNewKeyring  bool   `hidden:""`
}

type createCmd struct {
	ociFlags  `embed:"" group:"oci"`
	makeFlags `embed:""`

	PreserveFds int    `hidden:""`
	ID          string `arg:"" name:"id" help:"Name of the new container."`
}

// Help is the text behind the flags.
func (c *createCmd) Help() string {
	return `Standard input and output of this command become the program's.

Example: qenex create --bundle /bundles/web --pid-file web.pid web`
}

// Run makes a container.
func (c *createCmd) Run() error {
	return c.report(c.make(&c.makeFlags, c.ID, ""))
}

// make makes a container, from a saved one if checkpoint names a file, and leaves it waiting for start.
func (f *ociFlags) make(m *makeFlags, id, checkpoint string) (err error) {
	dir, err := filepath.Abs(m.Bundle)
	if err != nil {
		return err
	}
	config, err := bundle.Load(dir)
	if err != nil {
		return err
	}
	sandbox, warnings, err := bundle.Sandbox(dir, config)
	if err != nil {
		return err
	}
	if config.Hooks != nil && len(config.Hooks.StartContainer) > 0 {
		warnings = append(warnings, "hooks.startContainer: not run: there is no process of the container's on the host")
	}
	for _, w := range warnings {
		if err := f.log("warning", w); err != nil {
			return err
		}
	}
	if sandbox.TTY && m.ConsoleSocket == "" {
		return errors.New("process.terminal is true: give --console-socket, to which the terminal is sent")
	}
	store, err := f.store()
	if err != nil {
		return err
	}
	c, err := store.Create(id)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Remove())
		}
	}()
	unlock, err := c.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := c.WriteFile("config.json", text); err != nil {
		return err
	}
	p, err := startOwner(c, dir, config, m.ConsoleSocket, checkpoint)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = p.Kill()
			_, _ = p.Wait()
		}
	}()
	running, err := process.Find(p.Pid)
	if err != nil {
		return err
	}
	st := container.State{ID: id, Pid: running.PID, Birth: running.Birth, Bundle: dir, Rootfs: sandbox.Root, Created: time.Now().UTC(), Annotations: config.Annotations}
	if err := c.SetState(st); err != nil {
		return err
	}
	if h := config.Hooks; h != nil {
		for _, hooks := range [][]specs.Hook{bundle.Prestart(h), h.CreateRuntime, h.CreateContainer} {
			if err := bundle.RunHooks(hooks, st.OCI(specs.StateCreating)); err != nil {
				return err
			}
		}
	}
	return writePid(m.PidFile, p.Pid)
}

func writePid(file string, pid int) error {
	if file == "" {
		return nil
	}
	return container.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644)
}

// startOwner starts the process that owns the container's sandbox and waits until it is built. It outlives this one.
func startOwner(c *container.Container, dir string, config *specs.Spec, consoleSocket, checkpoint string) (*os.Process, error) {
	control, err := c.Listen()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	args := []string{"sandbox", "--config", c.Path("config.json"), "--bundle", dir}
	if checkpoint != "" {
		args = append(args, "--checkpoint", checkpoint)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "qenex-sandbox"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if config.Process.Terminal {
		size := config.Process.ConsoleSize
		release, err := giveTerminal(cmd, consoleSocket, size)
		if err != nil {
			return nil, err
		}
		defer release()
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	return startReady(cmd, config, control)
}

// startReady starts cmd in the network namespace of config, with extra files from descriptor 4 on, and waits for a word on descriptor 3.
func startReady(cmd *exec.Cmd, config *specs.Spec, extra ...*os.File) (*os.Process, error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd.ExtraFiles = append([]*os.File{theirs}, extra...)
	err = inNetwork(config, cmd, cmd.Start)
	theirs.Close()
	if err != nil {
		return nil, err
	}
	word, err := io.ReadAll(io.LimitReader(ready, maxWord))
	if err == nil && string(word) == readyWord {
		return cmd.Process, nil
	}
	_ = cmd.Process.Kill()
	werr := cmd.Wait()
	if len(word) > 0 {
		return nil, errors.New(string(word))
	}
	return nil, fmt.Errorf("the process for the container ended at once: %w", errors.Join(err, werr))
}

const (
	readyWord = "ready"
	maxWord   = 64 << 10 // bytes of an error that a child tells
)

// sayReady tells the process that waits in startReady how it went.
func sayReady(failed error) error {
	f := os.NewFile(3, "ready")
	text := readyWord
	if failed != nil {
		text = oneLine(failed)
	}
	_, err := f.WriteString(text[:min(len(text), maxWord)])
	return errors.Join(err, f.Close())
}

// inNetwork makes start fork in the network namespace that config asks for.
func inNetwork(config *specs.Spec, cmd *exec.Cmd, start func() error) error {
	if config == nil {
		return start()
	}
	own, path := bundle.Network(config)
	switch {
	case own && path != "":
		ns, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("opening the network namespace: %w", err)
		}
		defer ns.Close()
		failed := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine, and with it its namespace
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				failed <- fmt.Errorf("joining the network namespace %s: %w", path, err)
				return
			}
			failed <- start()
		}()
		return <-failed
	case own && os.Geteuid() == 0:
		// Hooks put interfaces into the namespace of the process whose ID they are told: it must not be the host's.
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	return start()
}

type startCmd struct {
	ociFlags `embed:"" group:"oci"`

	ID string `arg:"" name:"id" help:"Container."`
}

// Help is the text behind the flags.
func (c *startCmd) Help() string { return "Example: qenex start web" }

// Run starts a container.
func (c *startCmd) Run() error { return c.report(c.start(c.ID)) }

func (f *ociFlags) start(id string) error {
	c, st, err := f.get(id)
	if err != nil {
		return err
	}
	unlock, err := c.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.call(id, container.Request{Op: container.OpStart}); err != nil {
		return err
	}
	config, err := bundle.Load(c.Path("."))
	if err != nil {
		return err
	}
	if config.Hooks == nil {
		return nil
	}
	return bundle.RunHooks(config.Hooks.Poststart, st.OCI(specs.StateRunning))
}
