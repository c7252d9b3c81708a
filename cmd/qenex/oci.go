//go:build !kernelonly

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/oci/container"
)

// ociVerbs are the commands of an OCI runtime, with runc's names and flags.
type ociVerbs struct {
	Create     createCmd     `cmd:"" group:"containers" help:"Make a container from an OCI bundle; its program waits for start."`
	Start      startCmd      `cmd:"" group:"containers" help:"Let a created container's program run."`
	State      stateCmd      `cmd:"" group:"containers" help:"Print a container's state as JSON."`
	Delete     deleteCmd     `cmd:"" group:"containers" help:"Remove a stopped container."`
	List       listCmd       `cmd:"" group:"containers" help:"List containers."`
	Checkpoint checkpointCmd `cmd:"" group:"containers" help:"Save a running container to a directory."`
	Restore    restoreCmd    `cmd:"" group:"containers" help:"Run a container on from where checkpoint saved it."`
	Spec       specCmd       `cmd:"" group:"containers" help:"Write a config.json to begin with."`
	Features   featuresCmd   `cmd:"" group:"containers" help:"Print what this OCI runtime can do, as JSON."`
	Sandbox    sandboxCmd    `cmd:"" hidden:""`
}

// ociFlags are those that runc takes before the command's name.
type ociFlags struct {
	Root          string `placeholder:"DIR" help:"Directory of the containers' state (default: /run/qenex for root, qenex in XDG_RUNTIME_DIR for others)."`
	Log           string `placeholder:"FILE" help:"Append errors and warnings to FILE."`
	LogFormat     string `default:"text" enum:"text,json" placeholder:"FORMAT" help:"Form of --log: text or json."`
	SystemdCgroup bool   `help:"Accepted, without effect: containers are put into no cgroup."`
	Rootless      string `hidden:""`
	Criu          string `hidden:""`
	DebugLog      bool   `name:"debug" hidden:""`
}

// globalFlags are the names of ociFlags that may stand before the verb, and whether a value follows.
var globalFlags = map[string]bool{
	"--root": true, "--log": true, "--log-format": true, "--systemd-cgroup": false, "--rootless": true, "--criu": true, "--debug": false,
}

// liftGlobals moves flags that stand before the verb, as in runc's command lines, behind it.
func liftGlobals(args []string) []string {
	var lifted []string
	for len(args) > 0 {
		name, _, hasValue := strings.Cut(args[0], "=")
		needsValue, known := globalFlags[name]
		if !known {
			break
		}
		n := 1
		if needsValue && !hasValue {
			n = 2
		}
		if n > len(args) {
			break
		}
		lifted, args = append(lifted, args[:n]...), args[n:]
	}
	if len(args) == 0 || len(lifted) == 0 {
		return append(lifted, args...)
	}
	if args[0] == "--version" || args[0] == "version" {
		return args // it has none of them
	}
	return slices.Concat(args[:1], lifted, args[1:])
}

// containersOnly says that a name is a container's: whoever gives a directory of containers, in which there are no machines, means one.
func (f *ociFlags) containersOnly() bool {
	if f.Root == "" {
		return false
	}
	machines, err := fleet.DefaultDir()
	return err != nil || filepath.Clean(f.Root) != filepath.Clean(machines)
}

// store opens the directory of containers.
func (f *ociFlags) store() (*container.Store, error) { return container.OpenStore(f.Root) }

// get finds a container and its state.
func (f *ociFlags) get(id string) (*container.Container, container.State, error) {
	s, err := f.store()
	if err != nil {
		return nil, container.State{}, err
	}
	c, err := s.Get(id)
	if err != nil {
		return nil, container.State{}, err
	}
	st, err := c.State()
	return c, st, err
}

// dial connects to a running container's sandbox.
func (f *ociFlags) dial(id string) (*container.Conn, error) {
	c, st, err := f.get(id)
	if err != nil {
		return nil, err
	}
	if !st.Alive() {
		return nil, fmt.Errorf("container not running: %s has stopped", id)
	}
	return c.Dial()
}

// call sends one request to a container.
func (f *ociFlags) call(id string, r container.Request, files ...*os.File) (container.Reply, error) {
	conn, err := f.dial(id)
	if err != nil {
		return container.Reply{}, err
	}
	defer conn.Close()
	return conn.Call(r, files...)
}

// status asks what a container is doing.
func status(c *container.Container, st container.State) specs.ContainerState {
	if !st.Alive() {
		return specs.StateStopped
	}
	conn, err := c.Dial()
	if err != nil {
		if st.Alive() {
			return specs.StateCreating
		}
		return specs.StateStopped
	}
	defer conn.Close()
	reply, err := conn.Call(container.Request{Op: container.OpState})
	if err != nil { // it ended meanwhile
		return specs.StateStopped
	}
	return specs.ContainerState(reply.Status)
}

// report writes an error to --log, in the form that containerd reads, and hands it on.
func (f *ociFlags) report(err error) error {
	var e *exitError
	if err == nil || errors.As(err, &e) && e.err == nil {
		return err
	}
	if !f.containersOnly() && errors.Is(err, container.ErrNotFound) {
		err = fmt.Errorf("%w, and there is no machine of that name; qenex ps lists both", err)
	}
	return errors.Join(err, f.log("error", oneLine(err)))
}

// log appends a line to --log.
func (f *ociFlags) log(level, text string) error {
	if f.Log == "" {
		return nil
	}
	file, err := os.OpenFile(f.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	defer file.Close()
	now := time.Now().Format(time.RFC3339Nano)
	line := fmt.Appendf(nil, "%s %s: %s", now, level, text)
	if f.LogFormat == "json" {
		if line, err = json.Marshal(map[string]string{"level": level, "msg": text, "time": now}); err != nil {
			return err
		}
	}
	_, err = file.Write(append(line, '\n'))
	return err
}
