//go:build kernelonly

package main

import "errors"

// This build boots kernels and does nothing else with guests. It is without gVisor's Sentry, whose packages take milliseconds to initialise:
// a kernel starts that much earlier.

type nativeFlags struct{}

type ociVerbs struct{}

func (c *runCmd) native() error {
	return errors.New("this is qenex-vmm, which boots kernels only: give --kernel FILE, or use qenex")
}

func nativeError(err error) error { return &exitError{exitNative, err} }

func liftGlobals(args []string) []string { return args }
