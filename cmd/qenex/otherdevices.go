package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/tapnet"
	"github.com/qenex/qenex-kernel/virtio/balloon"
	"github.com/qenex/qenex-kernel/virtio/console"
	"github.com/qenex/qenex-kernel/virtio/fs9p"
	"github.com/qenex/qenex-kernel/virtio/rng"
	"github.com/qenex/qenex-kernel/vmm"
)

// addTap adds a network card on a TAP interface.
func (d *devices) addTap(name string) error {
	tap, err := tapnet.Open(tapnet.Config{Name: name})
	if err != nil {
		return inputError("--net tap: %w", err)
	}
	d.closers = append(d.closers, tap.Close)
	d.tap = tap.Name()
	mac := [6]byte{0x52, 0x54, 0} // QEMU's and ours, given by nobody to hardware
	_, _ = rand.Read(mac[3:])     // never fails
	return d.addCard(mac, tap)
}

// addShare adds a directory of the host.
func (d *devices) addShare(text string, n int) error {
	s, err := parseShare(text, n)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	dev, err := fs9p.New(fs9p.Config{Tag: s.tag, Dir: s.dir, ReadOnly: s.ro})
	if err != nil {
		return inputError("--share %q: %w", text, err)
	}
	if d.agent {
		word := "qenex.share=" + s.tag + ":" + s.path
		if s.ro {
			word += ":ro"
		}
		d.words = append(d.words, word)
	}
	d.keep = d.keep || !s.ro
	d.add(dev, dev.Close)
	return nil
}

// addOthers adds what needs no more than its flag.
func (c *runCmd) addOthers(d *devices) error {
	for n, text := range c.Share {
		if err := d.addShare(text, n); err != nil {
			return err
		}
	}
	if c.Balloon {
		d.balloon = balloon.New(balloon.Config{DeflateOnOOM: true})
		d.add(d.balloon, nil)
	}
	if c.RNG {
		dev, err := rng.New(rng.Config{})
		if err != nil {
			return err
		}
		d.add(dev, nil)
	}
	return nil
}

// Words of the kernel's command line that name its console.
const (
	serialConsole = "console=ttyS0"
	virtioConsole = "console=hvc0"
)

// addConsole adds a virtio console, if it is wanted, and has the kernel use it unless the command line was given.
func (c *runCmd) addConsole(d *devices, cfg *vmm.Config, hub *fleet.Console) {
	if c.ConsoleKind != "virtio" {
		return
	}
	size := terminalSize()
	d.console = console.New(console.Config{Output: hub, Input: hub.Input(context.Background()), Cols: size.Columns, Rows: size.Rows})
	d.add(d.console, nil)
	if c.Cmdline == defaultCmdline {
		cfg.Cmdline = strings.Replace(cfg.Cmdline, serialConsole, virtioConsole, 1)
	}
}

// Balloon implements fleet.Machine.
func (g *guest) Balloon() (b fleet.Balloon, err error) {
	dev := g.dev.balloon
	if dev == nil {
		return b, fmt.Errorf("%w: it has no balloon; start it with --balloon", fleet.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime/2)
	defer cancel()
	stats, err := dev.Refresh(ctx)
	if err != nil {
		stats = dev.Statistics() // older ones are better than none
	}
	sizes := dev.Sizes()
	return fleet.Balloon{Target: sizes.Target, Actual: sizes.Actual, Reported: sizes.Reported, Stats: stats.Values}, nil
}

// SetBalloon implements fleet.Machine.
func (g *guest) SetBalloon(bytes uint64) error {
	if g.dev.balloon == nil {
		return fmt.Errorf("%w: it has no balloon; start it with --balloon", fleet.ErrUnsupported)
	}
	return g.dev.balloon.SetTarget(bytes)
}

// complaints counts what complain has printed.
var complaints atomic.Int32

// complain prints what goes wrong while a guest runs. A guest can cause such things as often as it likes: the first 50 are told.
func complain(format string, args ...any) {
	if n := complaints.Add(1); n <= 50 {
		fmt.Fprintf(os.Stderr, "qenex: "+format+"\n", args...)
	}
}
