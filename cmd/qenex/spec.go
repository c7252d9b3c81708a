//go:build !kernelonly

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/qenex/qenex-kernel/oci/container"
)

type specCmd struct {
	ociFlags `embed:"" group:"oci"`

	Bundle string `short:"b" default:"." placeholder:"DIR" help:"Directory to write to (default: this one)."`
}

// Help is the text behind the flags.
func (c *specCmd) Help() string {
	return "Example: mkdir web && qenex spec --bundle web && edit web/config.json"
}

// Run writes a config.json that runs sh, unless there is one.
func (c *specCmd) Run() error {
	file := filepath.Join(c.Bundle, "config.json")
	if _, err := os.Lstat(file); err == nil {
		return c.report(fmt.Errorf("%s exists: remove it first", file))
	} else if !errors.Is(err, os.ErrNotExist) {
		return c.report(err)
	}
	b, err := json.MarshalIndent(exampleSpec(), "", "  ")
	if err == nil {
		err = container.WriteFile(file, append(b, '\n'), 0o644)
	}
	return c.report(err)
}

// writeProcess writes a process file.
func writeProcess(f *os.File, p *specs.Process) error {
	b, err := json.Marshal(p)
	if err == nil {
		_, err = f.Write(b)
	}
	return err
}

// exampleSpec runs sh in the directory rootfs of the bundle.
func exampleSpec() *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "qenex",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=1777"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
		}},
	}
}

type featuresCmd struct {
	ociFlags `embed:"" group:"oci"`
}

// Help is the text behind the flags.
func (c *featuresCmd) Help() string { return "Example: qenex features | jq .hooks" }

// Run prints the features.
func (c *featuresCmd) Run() error {
	no := false
	return c.report(printJSON(features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks:        []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"},
		MountOptions: []string{"bind", "rbind", "ro", "rro", "noexec", "nosuid", "nodev", "size", "mode"},
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "uts"},
			Cgroup:     &features.Cgroup{V1: &no, V2: &no, Systemd: &no, SystemdUser: &no},
			Seccomp:    &features.Seccomp{Enabled: &no},
			Apparmor:   &features.Apparmor{Enabled: &no},
			Selinux:    &features.Selinux{Enabled: &no},
		},
		Annotations: map[string]string{"org.qenex.version": version},
	}))
}
