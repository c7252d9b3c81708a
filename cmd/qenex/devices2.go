package main

import (
	"fmt"

	"github.com/qenex/qenex-kernel/fleet"
)

func (c *runCmd) addTap(d *devices, name string) error {
	return usageError("--net tap: not there yet")
}

// addOthers adds what needs no more than its flag.
func (c *runCmd) addOthers(d *devices) error {
	return nil
}

// Balloon implements fleet.Machine.
func (g *guest) Balloon() (fleet.Balloon, error) {
	return fleet.Balloon{}, fmt.Errorf("%w: it has no balloon; start it with --balloon", fleet.ErrUnsupported)
}

// SetBalloon implements fleet.Machine.
func (g *guest) SetBalloon(uint64) error {
	return fmt.Errorf("%w: it has no balloon; start it with --balloon", fleet.ErrUnsupported)
}
