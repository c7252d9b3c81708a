//go:build !kernelonly

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/internal/process"
	"github.com/qenex/qenex-kernel/oci/bundle"
	"github.com/qenex/qenex-kernel/oci/container"
)

type stateCmd struct {
	ociFlags `embed:"" group:"oci"`

	ID string `arg:"" name:"id" help:"Container."`
}

// Help is the text behind the flags.
func (c *stateCmd) Help() string { return "Example: qenex state web | jq .status" }

// stateJSON is the specification's state with what runc adds.
type stateJSON struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
}

func stateOf(c *container.Container, st container.State) stateJSON {
	return stateJSON{st.OCI(status(c, st)), st.Rootfs, st.Created}
}

// Run prints a container's state.
func (c *stateCmd) Run() error {
	ct, st, err := c.get(c.ID)
	if err != nil {
		return c.report(err)
	}
	return c.report(printJSON(stateOf(ct, st)))
}

// container sends a signal to a container.
func (c *killCmd) container() error {
	sig, err := parseSignal(c.Signal)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	_, st, err := c.get(c.ID)
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL { // all that is in the sandbox ends with its process, even if that does not listen any more
		return killOwner(st)
	}
	_, err = c.call(c.ID, container.Request{Op: container.OpSignal, Signal: int(sig), All: c.All})
	return err
}

// parseSignal reads 9, KILL or SIGKILL.
func parseSignal(text string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("signal %q is not known", text)
}

// killOwner kills the process of a container, and no other that got its number.
func killOwner(st container.State) error {
	p, err := os.FindProcess(st.Pid)
	if err != nil {
		return err
	}
	defer p.Release()
	if !st.Alive() {
		return fmt.Errorf("container not running: %s has stopped", st.ID)
	}
	return p.Kill()
}

type deleteCmd struct {
	ociFlags `embed:"" group:"oci"`

	Force bool   `short:"f" help:"Kill the container first if it runs; a container that is not there is no error."`
	ID    string `arg:"" name:"id" help:"Container."`
}

// Help is the text behind the flags.
func (c *deleteCmd) Help() string { return "Example: qenex delete --force web" }

// Run removes a container, or what is left of a machine.
func (c *deleteCmd) Run() error {
	if !c.containersOnly() {
		r, vm, err := findVM(c.ID)
		if vm != nil || err != nil {
			if err == nil {
				err = c.machine(r, vm)
			}
			return err
		}
	}
	err := c.delete()
	if c.Force && errors.Is(err, container.ErrNotFound) {
		err = nil
	}
	return c.report(err)
}

func (c *deleteCmd) machine(r *fleet.Registry, vm *fleet.VM) error {
	if vm.Alive() && c.Force {
		if err := vm.Kill(); err != nil && !errors.Is(err, process.ErrGone) {
			return err
		}
	}
	return r.Remove(vm)
}

func (c *deleteCmd) delete() error {
	store, err := c.store()
	if err != nil {
		return err
	}
	ct, err := store.Get(c.ID)
	if err != nil {
		return err
	}
	unlock, err := ct.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	st, err := ct.State()
	if err != nil {
		if c.Force {
			return errors.Join(ct.Remove()) // create was killed half-way
		}
		return err
	}
	if st.Alive() {
		if !c.Force {
			return fmt.Errorf("cannot delete container %s that is not stopped: kill it first, or give --force", c.ID)
		}
		if err := killOwner(st); err != nil && st.Alive() {
			return err
		}
		if err := awaitEnd(st); err != nil {
			return err
		}
	}
	config, err := bundle.Load(ct.Path("."))
	if err := errors.Join(err, ct.Remove()); err != nil {
		return err
	}
	if config.Hooks == nil {
		return nil
	}
	if err := bundle.RunHooks(config.Hooks.Poststop, st.OCI(specs.StateStopped)); err != nil {
		return c.log("warning", oneLine(err)) // the specification: the container is gone all the same
	}
	return nil
}

// awaitEnd waits until a container's process, killed, has ended.
func awaitEnd(st container.State) error {
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", st.Pid, err)
	}
	defer unix.Close(fd)
	for st.Alive() {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting for process %d: %w", st.Pid, err)
		}
	}
	return nil
}

type listCmd struct {
	ociFlags `embed:"" group:"oci"`

	Format string `short:"f" default:"table" enum:"table,json" placeholder:"FORMAT" help:"table or json (default: ${default})."`
	Quiet  bool   `short:"q" help:"IDs only."`
}

// Help is the text behind the flags.
func (c *listCmd) Help() string { return "Example: qenex list --format json" }

// Run lists containers.
func (c *listCmd) Run() error { return c.report(c.list()) }

func (c *listCmd) list() error {
	store, err := c.store()
	if err != nil {
		return err
	}
	all, err := store.List()
	if err != nil {
		return err
	}
	list := []stateJSON{}
	for _, ct := range all {
		if st, err := ct.State(); err == nil { // else it is being made or removed
			list = append(list, stateOf(ct, st))
		}
	}
	switch {
	case c.Quiet:
		for _, s := range list {
			fmt.Println(s.ID)
		}
		return nil
	case c.Format == "json":
		return json.NewEncoder(os.Stdout).Encode(list)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339))
	}
	return w.Flush()
}

// container lists the processes of a container.
func (c *psCmd) container() error {
	_, st, err := c.get(c.ID)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		pids := []int{}
		if st.Alive() {
			pids = append(pids, st.Pid)
		}
		return json.NewEncoder(os.Stdout).Encode(pids)
	}
	reply, err := c.call(c.ID, container.Request{Op: container.OpPIDs})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "UID\tPID\tPPID\tTHREADS\tSTATE\tCOMMAND")
	for _, p := range reply.Processes {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\n", p.UID, p.PID, p.PPID, p.Threads, p.State, strings.Join(p.Args, " "))
	}
	return w.Flush()
}

// containers are the rows of qenex ps for containers.
func (c *psCmd) containers() (rows []psRow, err error) {
	store, err := c.store()
	if err != nil {
		return nil, nil // then there are none
	}
	all, err := store.List()
	for _, ct := range all {
		if st, err := ct.State(); err == nil { // else it is a machine, or being made or removed
			s := stateOf(ct, st)
			rows = append(rows, psRow{"container", fleet.Info{
				Spec: fleet.Spec{Name: s.ID, Created: s.Created, Image: s.Bundle}, Status: fleet.Status{State: string(s.Status)}, PID: s.Pid, Dir: ct.Path("."),
			}})
		}
	}
	return rows, err
}

// container pauses a container.
func (c *pauseCmd) container() error {
	_, err := c.call(c.ID, container.Request{Op: container.OpPause})
	return err
}

// container resumes a container.
func (c *resumeCmd) container() error {
	_, err := c.call(c.ID, container.Request{Op: container.OpResume})
	return err
}

// container prints a container's state.
func (c *inspectCmd) container() error {
	ct, st, err := c.get(c.ID)
	if err != nil {
		return err
	}
	return printJSON(stateOf(ct, st))
}

// container sends a container's program SIGTERM, and after the deadline ends it.
func (c *stopCmd) container(id string) error {
	_, st, err := c.get(id)
	if err != nil {
		return err
	}
	if _, err := c.call(id, container.Request{Op: container.OpSignal, Signal: int(unix.SIGTERM)}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- awaitEnd(st) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(c.Deadline):
	}
	fmt.Fprintf(os.Stderr, "qenex: warning: container %s was killed: it still ran after %v\n", id, c.Deadline)
	if err := killOwner(st); err != nil && st.Alive() {
		return err
	}
	return <-ended
}
