//go:build kernelonly

package main

import "errors"

// This build boots kernels and does nothing else with guests. It is without gVisor's Sentry, whose packages take milliseconds to initialise:
// a kernel starts that much earlier.

type nativeFlags struct{}

type ociVerbs struct{}

// ociFlags stand for those of the commands that know containers too.
type ociFlags struct{}

func (f *ociFlags) containersOnly() bool   { return false }
func (f *ociFlags) report(err error) error { return err }

type containerExecFlags struct{}

func (c *psCmd) containers() ([]psRow, error)  { return nil, nil }
func (c *psCmd) container() error              { return noVM(c.ID) }
func (c *killCmd) container() error            { return noVM(c.ID) }
func (c *pauseCmd) container() error           { return noVM(c.ID) }
func (c *resumeCmd) container() error          { return noVM(c.ID) }
func (c *inspectCmd) container() error         { return noVM(c.ID) }
func (c *execCmd) container() error            { return noVM(c.ID) }
func (c *stopCmd) container(name string) error { return noVM(name) }
func startCode(error) int                      { return exitNative }

func (c *runCmd) native() error {
	return errors.New("this is qenex-vmm, which boots kernels only: give --kernel FILE or --image IMAGE, or use qenex")
}

func liftGlobals(args []string) []string { return args }
