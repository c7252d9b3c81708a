//go:build !kernelonly

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/guestkernel/sentry"
	"github.com/qenex/qenex-kernel/oci/image"
)

// nativeFlags are those of qenex run PROGRAM.
type nativeFlags struct {
	Rootfs   string   `placeholder:"PATH" help:"What the program sees as /: a directory, a tar of one (also .gz, .zst), an OCI layout (directory or tar) or a docker archive (default: the host's files)."`
	Writable bool     `help:"Let the program change the directory given with --rootfs."`
	Mount    []string `placeholder:"SRC:DST[:ro]" sep:"none" help:"Show the host's file or directory SRC at DST."`
	Hostname string   `placeholder:"NAME" help:"Host name that the program sees (default: qenex)."`
	Stats    bool     `help:"Print counters on stderr at the end: system calls, exits, faults, changes of run mode."`
	Debug    string   `placeholder:"FILE" help:"Append a log of what the guest's kernel does to FILE."`
	Strace   bool     `help:"Log every system call of the guest too; needs --debug."`
	Mode     string   `hidden:"" default:"auto" enum:"auto,direct,exitless" help:"How programs leave the VM: for tests."`
}

// runModes are the values of --mode.
var runModes = map[string]guestkernel.Mode{"auto": guestkernel.ModeAuto, "direct": guestkernel.ModeDirect, "exitless": guestkernel.ModeExitless}

// native runs a program to its end. It returns an *exitError with the program's exit code.
func (c *runCmd) native() error {
	if len(c.Program) == 0 && c.Rootfs == "" {
		return &exitError{exitNative, errors.New("nothing to run: give a PROGRAM, or --kernel FILE; see qenex run --help")}
	}
	vm := sentry.StartVM(c.KVM, runModes[c.Mode])
	spec, err := c.spec()
	if err != nil {
		return err
	}
	spec.VM = vm
	trace, err := c.evidenceNative(&spec)
	if err != nil {
		return err
	}
	tty, err := keepTerminal(spec.TTY)
	if err != nil {
		return err
	}
	defer tty.guard()
	status, err := c.sandbox(spec, trace.lost())
	tty.restore()
	if err = errors.Join(err, trace.programEnded(status, err)); err != nil {
		return err
	}
	return &exitError{status.Shell(), nil}
}

// sandbox runs spec. What it held is freed by the end of this process, which is quicker than doing it by hand.
func (c *runCmd) sandbox(spec sentry.Spec, lost <-chan struct{}) (sentry.Status, error) {
	var overtime <-chan time.Time
	if c.Timeout > 0 {
		overtime = time.After(c.Timeout)
	}
	caught := make(chan (<-chan os.Signal), 1)
	go func() { caught <- catchSignals(spec.TTY) }() // a millisecond's work, and the guest is not built yet
	s, err := sentry.New(spec)
	signals := <-caught
	if err != nil {
		return sentry.Status{}, err
	}
	missing, err := s.Confine()
	if err != nil {
		return sentry.Status{}, fmt.Errorf("shutting this process in before the guest starts: %w", err)
	}
	warnUnconfined(missing)
	if err := s.Start(); err != nil {
		return sentry.Status{}, err
	}
	go forward(signals, func(sig syscall.Signal) { _ = s.Signal(0, sig, false) }) // it fails when the program has ended
	ended := make(chan struct{})
	var status sentry.Status
	go func() {
		status, err = s.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-lost:
		return sentry.Status{}, errAuditLost
	case <-overtime:
		return sentry.Status{}, &exitError{exitProgramTimeout, fmt.Errorf("%s still ran after --timeout %v", spec.Args[0], c.Timeout)}
	}
	if err == nil && (c.Stats || c.JSON) {
		err = printStats(os.Stderr, s.Stats(), c.JSON)
	}
	return status, err
}

func warnUnconfined(missing []string) {
	for _, what := range missing {
		fmt.Fprintf(os.Stderr, "qenex: warning: the guest is less shut in than it should be: %s\n", what)
	}
}

// spec says what the flags ask for.
func (c *runCmd) spec() (spec sentry.Spec, err error) {
	spec = sentry.Spec{Args: c.Program, Hostname: c.Hostname, Debug: c.Debug, Strace: c.Strace}
	if c.Strace && c.Debug == "" {
		return spec, errors.New("--strace needs --debug FILE")
	}
	switch c.Net {
	case "none":
	case "user":
		spec.Net = sentry.NetUser
	case "host-loopback":
		spec.Net = sentry.NetHostLoopback
	default:
		return spec, fmt.Errorf("--net %q: a program's network is none, user or host-loopback", c.Net)
	}
	if c.Mem != nil {
		if spec.Memory = uint64(*c.Mem); spec.Memory < 1<<20 {
			return spec, fmt.Errorf("--mem: %d bytes are too few for any program; give at least 1M", spec.Memory)
		}
	}
	if c.CPUs != nil {
		if spec.CPUs = *c.CPUs; spec.CPUs < 1 {
			return spec, fmt.Errorf("--cpus: %d CPUs; give at least 1", spec.CPUs)
		}
	}
	spec.TTY = inForeground(0)
	if c.TTY != nil {
		if *c.TTY && !spec.TTY {
			return spec, errors.New("--tty: standard input is no terminal, or this is a job in its background")
		}
		spec.TTY = *c.TTY
	}
	if c.Rootfs != "" {
		err = c.imageSpec(&spec)
	} else {
		err = c.hostSpec(&spec)
	}
	if err != nil {
		return spec, err
	}
	for _, e := range c.Env {
		if err := setEnv(&spec.Env, e); err != nil {
			return spec, err
		}
	}
	for _, m := range c.Mount {
		mount, err := parseMount(m)
		if err != nil {
			return spec, err
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	if c.Workdir != "" {
		if spec.Dir = c.Workdir; !filepath.IsAbs(spec.Dir) {
			return spec, fmt.Errorf("--workdir %s: not an absolute path", c.Workdir)
		}
	}
	return spec, nil
}

// hostSpec runs on the host's files, as the caller.
func (c *runCmd) hostSpec(spec *sentry.Spec) error {
	if c.Writable {
		return errors.New("--writable: only with --rootfs and a directory; --mount lets a program write to single directories of the host")
	}
	spec.Env = os.Environ()
	umask := uint32(unix.Umask(0o022))
	unix.Umask(int(umask))
	spec.Umask = &umask
	// Not the usual mounts: /tmp is the host's too, for the program may be there.
	spec.NoDefaultMounts = true
	spec.Mounts = []sentry.Mount{
		{Type: sentry.MountProc, Target: "/proc"}, {Type: sentry.MountSysfs, Target: "/sys", ReadOnly: true},
		{Type: sentry.MountDev, Target: "/dev"}, {Type: sentry.MountDevPts, Target: "/dev/pts"},
		{Type: sentry.MountTmpfs, Target: "/dev/shm", Options: []string{"mode=1777"}},
	}
	if dir, err := os.Getwd(); err == nil && !underAny(dir, "/proc", "/sys", "/dev") {
		spec.Dir = dir
	}
	if c.User != "" {
		return setUser(spec, "/", c.User)
	}
	spec.UID, spec.GID = uint32(os.Getuid()), uint32(os.Getgid())
	groups, err := os.Getgroups()
	for _, g := range groups {
		spec.Groups = append(spec.Groups, uint32(g))
	}
	return err
}

// startCode tells a program that is not there, or cannot be run, from all other errors.
func startCode(err error) int {
	var start *sentry.StartError
	switch {
	case !errors.As(err, &start):
		return exitNative
	case errors.Is(err, syscall.ENOENT):
		return exitNotFound
	}
	return exitNotExecutable
}

func underAny(dir string, tops ...string) bool {
	for _, t := range tops {
		if dir == t || strings.HasPrefix(dir, t+"/") {
			return true
		}
	}
	return false
}

// imageSpec runs on an image.
func (c *runCmd) imageSpec(spec *sentry.Spec) error {
	img, err := image.Open(c.Rootfs, image.Options{})
	if err != nil {
		return fmt.Errorf("--rootfs: %w", err)
	}
	spec.Root = img.Root
	if c.Writable {
		if img.Shared {
			return fmt.Errorf("--writable: %s is unpacked into a cache that others use; unpack it yourself and give the directory", c.Rootfs)
		}
		spec.RootWritable = true
	}
	if len(spec.Args) == 0 {
		spec.Args = append(append(spec.Args, img.Config.Entrypoint...), img.Config.Cmd...)
	}
	if len(spec.Args) == 0 {
		return fmt.Errorf("nothing to run: %s does not say what it is for; give a PROGRAM", c.Rootfs)
	}
	spec.Env = append(spec.Env, img.Config.Env...)
	if spec.Dir = img.Config.WorkingDir; spec.Dir != "" && !filepath.IsAbs(spec.Dir) {
		spec.Dir = "/" + spec.Dir
	}
	user := c.User
	if user == "" {
		user = img.Config.User
	}
	if err := setUser(spec, img.Root, user); err != nil {
		return err
	}
	defaultEnv(&spec.Env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if term := os.Getenv("TERM"); spec.TTY && term != "" {
		defaultEnv(&spec.Env, "TERM", term)
	}
	return nil
}

// setUser makes the program run as a user of the root.
func setUser(spec *sentry.Spec, root, user string) error {
	id, err := image.Lookup(root, user)
	if err != nil {
		return err
	}
	spec.UID, spec.GID, spec.Groups = id.UID, id.GID, id.Groups
	if id.Home != "" {
		defaultEnv(&spec.Env, "HOME", id.Home)
	}
	return nil
}

// parseMount reads SRC:DST[:ro].
func parseMount(text string) (sentry.Mount, error) {
	m := sentry.Mount{Type: sentry.MountBind}
	parts := strings.Split(text, ":")
	if n := len(parts); n == 3 && (parts[2] == "ro" || parts[2] == "rw") {
		m.ReadOnly = parts[2] == "ro"
	} else if n != 2 {
		return m, fmt.Errorf("--mount %q: write SRC:DST or SRC:DST:ro", text)
	}
	if parts[0] == "" || !filepath.IsAbs(parts[1]) {
		return m, fmt.Errorf("--mount %q: SRC is a file or directory here, DST an absolute path inside", text)
	}
	m.Target = filepath.Clean(parts[1])
	var err error
	if m.Source, err = filepath.Abs(parts[0]); err != nil {
		return m, err
	}
	if _, err := os.Stat(m.Source); err != nil {
		return m, fmt.Errorf("--mount %q: %w", text, err)
	}
	return m, nil
}

// printStats prints the counters of a sandbox.
func printStats(w io.Writer, s sentry.Stats, asJSON bool) error {
	if asJSON {
		b, err := json.Marshal(statsJSON{
			Syscalls: s.Syscalls, Exits: s.Exits, Faults: s.Faults, ModeChanges: s.ModeChanges, VCPUs: s.VCPUs, Spaces: s.Spaces,
			MemoryBytes: s.MemoryBytes, RxBytes: s.RxBytes, TxBytes: s.TxBytes, CPUTimeNanos: s.CPUTimeNanos,
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	_, err := fmt.Fprintf(w, `qenex: system calls        %d
qenex: exits               %d
qenex: page faults         %d
qenex: run mode changes    %d
qenex: virtual CPUs        %d
qenex: address spaces      %d
qenex: guest memory        %.1f MiB
qenex: network             %d bytes in, %d out
qenex: host CPU time       %.1f ms
`, s.Syscalls, s.Exits, s.Faults, s.ModeChanges, s.VCPUs, s.Spaces, float64(s.MemoryBytes)/(1<<20), s.RxBytes, s.TxBytes, float64(s.CPUTimeNanos)/1e6)
	return err
}

// statsJSON is what --json prints.
type statsJSON struct {
	Syscalls     uint64 `json:"syscalls"`
	Exits        uint64 `json:"exits"`
	Faults       uint64 `json:"faults"`
	ModeChanges  uint64 `json:"mode_changes"`
	VCPUs        int    `json:"vcpus"`
	Spaces       int    `json:"address_spaces"`
	MemoryBytes  uint64 `json:"memory_bytes"`
	RxBytes      uint64 `json:"rx_bytes"`
	TxBytes      uint64 `json:"tx_bytes"`
	CPUTimeNanos uint64 `json:"cpu_time_ns"`
}
