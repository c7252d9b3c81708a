package main

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent"
	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/oci/image"
	"github.com/qenex/qenex-kernel/rootdisk"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// imageMemory is the memory of a machine with --image if nothing else is said, in bytes.
const imageMemory = 512 << 20

// planAgent makes a plan for a guest with QENEX's agent: --image, or --kernel with --agent.
func (c *runCmd) planAgent(p *plan) error {
	initrd := artefact.InitAgent
	if c.Kernel == "" {
		kernel, stock, err := c.defaultKernel()
		if err != nil {
			return err
		}
		if p.cfg.Kernel = kernel; stock {
			initrd, p.pci = artefact.InitStock, true
		}
	}
	path, err := artefact.Path(initrd)
	if err != nil {
		return &exitError{exitInput, err}
	}
	p.cfg.Initrds = append(p.cfg.Initrds, path) // the last /init counts
	words := []string{p.cfg.Cmdline}
	if c.Net == "none" {
		words = append(words, "qenex.ip=off")
	}
	if c.Image != "" {
		p.cfg.Memory = imageMemory
		more, err := c.planImage(p)
		if err != nil {
			return err
		}
		words = append(words, more...)
	}
	p.cfg.Cmdline = strings.Join(words, " ")
	return nil
}

// defaultKernel is the kernel that make guest made: the lean one where kernel code is emulated, for the stock one takes minutes to boot there.
func (c *runCmd) defaultKernel() (path string, stock bool, err error) {
	sys, err := kvm.OpenPath(c.KVM)
	if err != nil {
		return "", false, err
	}
	host, err := probe.Quick(sys)
	if err = errors.Join(err, sys.Close()); err != nil {
		return "", false, err
	}
	name := artefact.StockKernel
	if host.SoftwareKVM {
		name = artefact.LeanKernel
	}
	if path, err = artefact.Path(name); err != nil {
		return "", false, inputError("%w; or give --kernel FILE", err)
	}
	return path, !host.SoftwareKVM, nil
}

// planImage makes the image the root, and returns words for the kernel's command line.
func (c *runCmd) planImage(p *plan) ([]string, error) {
	s, err := parseDisk(c.Image)
	if err != nil {
		return nil, usageError("--image %w", err)
	}
	kind, path, err := rootdisk.Recognise(s.Path)
	if err != nil {
		return nil, inputError("--image: %w", err)
	}
	p.image = c.Image
	var config image.Config
	root := "/dev/vda"
	switch kind {
	case rootdisk.Image:
		if s.Path != c.Image {
			return nil, usageError("--image %s: what stands behind the comma is for raw and qcow2 disks; what is written to an image is thrown away", c.Image)
		}
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		if path, config, err = rootdisk.Build(ctx, path, ""); err != nil {
			return nil, inputError("--image: %w", err)
		}
		s.Format, s.Throwaway = blockdev.Raw, true
	default:
		if s.Format == "" {
			s.Format = blockdev.Format(kind)
		}
	}
	s.Path = path
	p.root = &s
	if kind != rootdisk.Image {
		if root, err = rootPartition(s); err != nil {
			return nil, err
		}
	}
	words := []string{"quiet", "qenex.root=" + root}
	if kind == rootdisk.Image || len(c.Program) > 0 {
		words = append(words, "qenex.hold")
	}
	if s.ReadOnly {
		words = append(words, "qenex.overlay=tmpfs")
	}
	return words, c.planCommand(p, kind, config)
}

// rootPartition says which device of the guest has the root: the disk, or its first partition if it has some.
func rootPartition(s diskSpec) (string, error) {
	s.ReadOnly, s.Throwaway, s.Overlay = true, false, ""
	disk, err := blockdev.Open(s.Spec)
	if err != nil {
		return "", inputError("--image: %w", err)
	}
	defer disk.Close()
	head := make([]byte, 2048)
	if err := disk.Read([][]byte{head}, 0); err != nil {
		return "", inputError("--image %s: %w", s.Path, err)
	}
	const extMagic = 0xEF53 // of an ext file system, in its superblock at 1024
	if binary.LittleEndian.Uint16(head[510:]) == 0xAA55 && binary.LittleEndian.Uint16(head[1024+56:]) != extMagic {
		return "/dev/vda1", nil
	}
	return "/dev/vda", nil
}

// planCommand says what the agent is to run: PROGRAM, or what the image was made to run.
func (c *runCmd) planCommand(p *plan, kind rootdisk.Kind, config image.Config) error {
	args := c.Program
	if len(args) == 0 {
		args = append(append(args, config.Entrypoint...), config.Cmd...)
	}
	if len(args) == 0 {
		if kind == rootdisk.Image && !c.Detach {
			return usageError("nothing to run: %s does not say what it is for; give a PROGRAM", c.Image)
		}
		return nil // a disk's own init, or commands by qenex exec
	}
	cmd := &agent.Command{Args: args, Env: config.Env, Dir: config.WorkingDir, User: config.User}
	for _, e := range c.Env {
		if err := setEnv(&cmd.Env, e); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	if c.Workdir != "" {
		cmd.Dir = c.Workdir
	}
	if kind == rootdisk.Image && cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if c.User != "" {
		cmd.User = c.User
	}
	cmd.TTY = !c.Detach && inForeground(0)
	if c.TTY != nil {
		if *c.TTY && !cmd.TTY {
			return usageError("--tty: standard input is no terminal, or this is a job in its background")
		}
		cmd.TTY = *c.TTY
	}
	if term := os.Getenv("TERM"); cmd.TTY && term != "" {
		defaultEnv(&cmd.Env, "TERM", term)
	}
	p.command = cmd
	return nil
}
