//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/qenex/qenex-kernel/oci/container"
)

// checkpointFile is the one file of a saved container.
const checkpointFile = "qenex.checkpoint"

type checkpointCmd struct {
	ociFlags `embed:"" group:"oci"`

	ImagePath    string `required:"" placeholder:"DIR" help:"Directory to save to; made if missing."`
	WorkPath     string `hidden:""`
	LeaveRunning bool   `help:"Let the container run on."`
	ID           string `arg:"" name:"id" help:"Container."`
}

// Help is the text behind the flags.
func (c *checkpointCmd) Help() string {
	return "Example: qenex checkpoint --image-path /saved/web web"
}

// Run saves a container.
func (c *checkpointCmd) Run() error { return c.report(c.save()) }

func (c *checkpointCmd) save() error {
	if err := os.MkdirAll(c.ImagePath, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.ImagePath, ".saving-")
	if err != nil {
		return err
	}
	_, err = c.call(c.ID, container.Request{Op: container.OpSave, Stop: !c.LeaveRunning}, f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.ImagePath, checkpointFile))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving %s: %w", c.ID, err), os.Remove(f.Name()))
	}
	return nil
}

type restoreCmd struct {
	ociFlags  `embed:"" group:"oci"`
	makeFlags `embed:""`

	ImagePath string `required:"" placeholder:"DIR" help:"Directory that checkpoint saved to."`
	WorkPath  string `hidden:""`
	Detach    bool   `short:"d" help:"Do not wait for the program's end."`
	ID        string `arg:"" name:"id" help:"Name of the new container."`
}

// Help is the text behind the flags.
func (c *restoreCmd) Help() string {
	return `Without --detach the command ends with the program, with its exit code, and removes the container.

Example: qenex restore --bundle /bundles/web --image-path /saved/web --detach web`
}

// Run restores a container.
func (c *restoreCmd) Run() error { return c.report(c.restore()) }

func (c *restoreCmd) restore() error {
	file, err := filepath.Abs(filepath.Join(c.ImagePath, checkpointFile))
	if err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil {
		return err
	}
	if err := c.make(&c.makeFlags, c.ID, file); err != nil {
		return err
	}
	if err := c.start(c.ID); err != nil {
		d := deleteCmd{ociFlags: c.ociFlags, Force: true, ID: c.ID}
		return errors.Join(err, d.delete())
	}
	if c.Detach {
		return nil
	}
	_, st, err := c.get(c.ID)
	if err != nil {
		return err
	}
	p, err := os.FindProcess(st.Pid)
	if err != nil {
		return err
	}
	state, err := p.Wait()
	d := deleteCmd{ociFlags: c.ociFlags, ID: c.ID}
	if err := errors.Join(err, d.delete()); err != nil {
		return err
	}
	return &exitError{state.ExitCode(), nil}
}
