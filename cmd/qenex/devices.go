package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/usernet"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/balloon"
	"github.com/qenex/qenex-kernel/virtio/block"
	"github.com/qenex/qenex-kernel/virtio/console"
	"github.com/qenex/qenex-kernel/virtio/fs9p"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/virtio/vsock"
)

// deviceFlags are those of a machine's devices, and of what becomes of it.
type deviceFlags struct {
	Disk        []string `placeholder:"PATH[,OPTION...]" sep:"none" help:"Disk, as /dev/vda, vdb and so on, behind that of --image; may be given several times. Options: format=raw or qcow2 (default: what the file is), ro, overlay (what is written is thrown away), overlay=FILE (it goes to FILE), serial=TEXT, cache=writeback, none or unsafe, iops=N, bps=N (limits, in requests and bytes a second). As in: data.img,serial=d1,iops=500"`
	Publish     []string `placeholder:"[ADDR:]PORT:GUESTPORT[/udp]" sep:"none" help:"With --net user, let the host's PORT lead to the guest's; ADDR is 127.0.0.1 if not given, PORT 0 any free one. As in: 8080:80"`
	Vsock       string   `placeholder:"PATH" help:"Socket device. A host program connects to the Unix socket PATH and writes CONNECT PORT; the guest's connections to the host's port P go to PATH_P."`
	Share       []string `placeholder:"DIR:TAG[:ro]" sep:"none" help:"Show the host's directory DIR to the guest by 9p, with this TAG. The agent mounts it at /mnt/TAG, or at TAG if that is a path. As in: $PWD:src:ro"`
	Balloon     bool     `help:"Memory balloon: what the guest does not use goes back to the host."`
	RNG         bool     `name:"rng" negatable:"" default:"true" help:"Source of randomness from the host (default: on)."`
	TPM         bool     `name:"tpm" help:"TPM, backed by a swtpm of this machine's own: its PCRs say what the machine was started with. It protects nothing against the host."`
	ConsoleKind string   `name:"console" default:"serial" enum:"serial,virtio" placeholder:"KIND" help:"Console: serial (ttyS0), or virtio (hvc0), which is quicker and knows the terminal's size (default: ${default})."`
	Transport   string   `default:"auto" enum:"auto,mmio,pci" placeholder:"KIND" help:"Bus of the devices: mmio or pci (default: pci with the stock kernel of --image, else mmio)."`
	Name        string   `placeholder:"NAME" help:"Name for qenex ps, stop, exec and others (default: one is made up)."`
	Detach      bool     `short:"d" help:"Print the name and return when the machine is up, and let it run on. A command of --image then does not end it."`
	Wait        string   `default:"auto" enum:"auto,start,agent" placeholder:"WHAT" help:"What --detach waits for: start (the kernel runs), agent (it answers); by default the agent if there is one."`
	GDB         string   `name:"gdb" placeholder:"ADDR" help:"Let a debugger attach at ADDR, a TCP address or a path; the guest waits for it. As in: localhost:1234"`
	Agent       bool     `help:"With --kernel, put QENEX's agent before the guest's own init, which must be on the disk: qenex exec and cp need it."`
	Image       string   `placeholder:"IMAGE[,OPTION...]" help:"What the guest has as its root: an OCI layout, a docker archive, a tar, a directory, or a raw or qcow2 disk with the options of --disk. oci:, docker-archive:, tar:, dir:, raw: or qcow2: before the path says which."`
}

// devices are what a machine has, and what belongs to them.
type devices struct {
	list    []virtio.Device
	closers []func() error // in the order of opening

	disks   []diskDevice
	nic     *nic.Device
	net     *usernet.Port   // nil: no user-mode network
	tap     string          // name of the interface
	vsock   *vsock.Device   // nil: none
	balloon *balloon.Device // nil: none
	console *console.Device // nil: none

	agent bool     // the guest has QENEX's agent
	keep  bool     // a guest that is switched off without warning loses data that somebody wants
	words []string // for the agent, on the kernel's command line
}

type diskDevice struct {
	path string
	dev  *block.Device
}

// add adds a device.
func (d *devices) add(v virtio.Device, close func() error) {
	d.list = append(d.list, v)
	if close != nil {
		d.closers = append(d.closers, close)
	}
}

// close frees what the devices hold. Their machine is closed.
func (d *devices) close() error {
	var errs []error
	for _, f := range slices.Backward(d.closers) {
		errs = append(errs, f())
	}
	d.closers = nil
	return errors.Join(errs...)
}

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func inputError(format string, args ...any) error {
	return &exitError{exitInput, fmt.Errorf(format, args...)}
}

// openDevices opens everything the flags ask for.
func (c *runCmd) openDevices(p *plan) (d *devices, err error) {
	d = &devices{agent: c.hasAgent()}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
			d = nil
		}
	}()
	if p.root != nil {
		if err := d.addDisk(*p.root, p.cfg.CPUs); err != nil {
			return d, err
		}
	}
	for _, text := range c.Disk {
		s, err := parseDisk(text)
		if err != nil {
			return d, usageError("--disk %w", err)
		}
		if err := d.addDisk(s, p.cfg.CPUs); err != nil {
			return d, err
		}
	}
	if err := c.addNetwork(d); err != nil {
		return d, err
	}
	if c.Vsock != "" || d.agent {
		path := c.Vsock
		if path != "" {
			if path, err = filepath.Abs(path); err != nil {
				return d, err
			}
		}
		v, err := vsock.New(vsock.Config{CID: guestCID, Path: path})
		if err != nil {
			return d, inputError("--vsock: %w", err)
		}
		d.vsock = v
		d.add(v, v.Close)
	}
	return d, c.addOthers(d)
}

// guestCID is the context ID of every guest: each has a host side of its own.
const guestCID = 3

// diskSpec is one value of --disk.
type diskSpec struct {
	blockdev.Spec
	serial string
	limits blockdev.Limits
}

// parseDisk reads PATH[,OPTION...]. A comma belongs to the path unless an option stands behind it.
func parseDisk(text string) (s diskSpec, err error) {
	rest := text
	for {
		i := strings.LastIndexByte(rest, ',')
		if i < 0 {
			break
		}
		known, err := s.option(rest[i+1:])
		if err != nil {
			return s, fmt.Errorf("%q: %w", text, err)
		}
		if !known {
			break
		}
		rest = rest[:i]
	}
	if s.Path = rest; rest == "" {
		return s, fmt.Errorf("%q: write PATH[,OPTION...]", text)
	}
	if s.Throwaway && s.Overlay != "" || s.ReadOnly && (s.Throwaway || s.Overlay != "") {
		return s, fmt.Errorf("%q: give one of ro, overlay and overlay=FILE", text)
	}
	return s, nil
}

// option takes one option, if it is one.
func (s *diskSpec) option(text string) (known bool, err error) {
	name, value, given := strings.Cut(text, "=")
	switch {
	case text == "ro":
		s.ReadOnly = true
	case text == "overlay":
		s.Throwaway = true
	case !given:
		return false, nil
	case name == "overlay":
		s.Overlay = value
	case name == "serial":
		s.serial = value
	case name == "format":
		s.Format = blockdev.Format(value)
		if s.Format != blockdev.Raw && s.Format != blockdev.Qcow2 {
			err = fmt.Errorf("%s: it is raw or qcow2", text)
		}
	case name == "cache":
		s.Cache = blockdev.Cache(value)
		if s.Cache != blockdev.Writeback && s.Cache != blockdev.Direct && s.Cache != blockdev.Unsafe {
			err = fmt.Errorf("%s: it is writeback, none or unsafe", text)
		}
	case name == "iops":
		s.limits.IOPS, err = limit(text, value)
	case name == "bps":
		s.limits.Bytes, err = limit(text, value)
	default:
		return false, nil
	}
	if given && value == "" {
		err = fmt.Errorf("%s: there is nothing behind the =", text)
	}
	return true, err
}

// limit reads how many may happen a second, with K, M or G for thousands.
func limit(text, value string) (int, error) {
	scale := 1
	for i, unit := range "KMG" {
		if s, ok := strings.CutSuffix(strings.ToUpper(value), string(unit)); ok {
			value = s
			for range i + 1 {
				scale *= 1000
			}
			break
		}
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > (1<<62)/scale {
		return 0, fmt.Errorf("%s: a number from 1 on, with K, M or G for thousands", text)
	}
	return n * scale, nil
}

func (d *devices) addDisk(s diskSpec, cpus int) error {
	disk, err := blockdev.Open(s.Spec)
	if err != nil {
		return inputError("disk: %w", err)
	}
	d.closers = append(d.closers, disk.Close)
	path := s.Path
	dev, err := block.New(block.Config{
		Disk: disk, Serial: s.serial, Queues: min(cpus, block.MaxQueues), Limits: s.limits,
		Failed: func(err error) { complain("disk %s: %s", path, oneLine(err)) },
	})
	if err != nil {
		return usageError("disk %s: %w", s.Path, err)
	}
	d.disks = append(d.disks, diskDevice{path, dev})
	d.keep = d.keep || !disk.ReadOnly() && !disk.Volatile() && !s.Throwaway
	d.add(dev, nil)
	return nil
}

// addNetwork adds the network card.
func (c *runCmd) addNetwork(d *devices) error {
	kind, name, named := strings.Cut(c.Net, "=")
	switch {
	case kind == "tap":
		if len(c.Publish) > 0 {
			return usageError("--publish: only with --net user; a guest on a TAP interface is reached at its own address")
		}
		return d.addTap(name)
	case named:
	case c.Net == "none":
		if len(c.Publish) > 0 {
			return usageError("--publish needs --net user")
		}
		return nil
	case c.Net == "user", c.Net == "host-loopback", c.Net == "user+host-loopback":
		return c.addUserNet(d)
	}
	return usageError("--net %q: a machine's network is none, user, user+host-loopback, tap or tap=NAME", c.Net)
}

func (c *runCmd) addUserNet(d *devices) error {
	cfg := usernet.Config{Loopback: c.Net != "user", Hostname: c.Name}
	for _, text := range c.Publish {
		f, err := parsePublish(text)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		cfg.Forwards = append(cfg.Forwards, f)
	}
	port, err := usernet.Open(cfg)
	if err != nil {
		return inputError("--net %s: %w", c.Net, err)
	}
	d.closers = append(d.closers, port.Close)
	d.net = port
	return d.addCard(usernet.MACPeer, port)
}

func (d *devices) addCard(mac [6]byte, backend nic.Backend) error {
	dev, err := nic.New(nic.Config{MAC: mac, Lost: func(err error) { complain("the guest's network is gone: %s", oneLine(err)) }}, backend)
	if err != nil {
		return err
	}
	d.nic = dev
	d.add(dev, nil)
	return nil
}

// parsePublish reads [ADDR:]PORT:GUESTPORT[/udp].
func parsePublish(text string) (f usernet.Forward, err error) {
	rest, proto, _ := strings.Cut(text, "/")
	if f.Proto = proto; proto == "" {
		f.Proto = "tcp"
	}
	bad := fmt.Errorf("--publish %q: write [ADDR:]PORT:GUESTPORT, with /udp behind it for UDP", text)
	i := strings.LastIndexByte(rest, ':')
	if i < 0 || f.Proto != "tcp" && f.Proto != "udp" || strings.HasSuffix(text, "/") {
		return f, bad
	}
	guest, err := strconv.ParseUint(rest[i+1:], 10, 16)
	if err != nil || guest == 0 {
		return f, bad
	}
	f.Guest = uint16(guest)
	host := rest[:i]
	if !strings.Contains(host, ":") {
		host = "127.0.0.1:" + host
	}
	if f.Host, err = netip.ParseAddrPort(host); err != nil {
		return f, bad
	}
	return f, nil
}

// share is one value of --share.
type share struct {
	dir, tag string
	path     string // where the agent mounts it
	ro       bool
}

// parseShare reads DIR:TAG[:ro]. n is how many came before it.
func parseShare(text string, n int) (s share, err error) {
	rest, ro := strings.CutSuffix(text, ":ro")
	s.ro = ro
	i := strings.LastIndexByte(rest, ':')
	if i <= 0 || i == len(rest)-1 {
		return s, fmt.Errorf("--share %q: write DIR:TAG or DIR:TAG:ro", text)
	}
	s.dir, s.tag = rest[:i], rest[i+1:]
	if strings.ContainsAny(s.tag, " \t\n\"=,") || len(s.tag) > fs9p.MaxTag && !filepath.IsAbs(s.tag) {
		return s, fmt.Errorf("--share %q: a tag has no spaces and at most %d bytes", text, fs9p.MaxTag)
	}
	if s.path = "/mnt/" + s.tag; filepath.IsAbs(s.tag) {
		s.path, s.tag = filepath.Clean(s.tag), "share"+strconv.Itoa(n)
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return s, err
	}
	if info, err := os.Stat(s.dir); err != nil || !info.IsDir() {
		return s, fmt.Errorf("--share %q: %s is not a directory here", text, s.dir)
	}
	return s, nil
}
