package main

import (
	"fmt"
	"runtime/debug"

	"github.com/alecthomas/kong"
)

type versionCmd struct{}

// Run prints the version and what it was built with.
func (c *versionCmd) Run(k *kong.Kong) error {
	tags := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-tags" && s.Value != "" {
				tags = ", with " + s.Value
			}
		}
		fmt.Fprintf(k.Stdout, "qenex %s (%s%s)\n", version, info.GoVersion, tags)
		return nil
	}
	fmt.Fprintf(k.Stdout, "qenex %s\n", version)
	return nil
}
