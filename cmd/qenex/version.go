package main

import (
	"fmt"
	"runtime/debug"

	"github.com/alecthomas/kong"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type versionCmd struct{}

// Run prints the version, what it was built with, and the OCI runtime specification it keeps to.
func (c *versionCmd) Run(k *kong.Kong) error {
	tags := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-tags" && s.Value != "" {
				tags = ", with " + s.Value
			}
		}
		fmt.Fprintf(k.Stdout, "qenex %s (%s%s)\nspec: %s\n", version, info.GoVersion, tags, specs.Version)
		return nil
	}
	fmt.Fprintf(k.Stdout, "qenex %s\nspec: %s\n", version, specs.Version)
	return nil
}
