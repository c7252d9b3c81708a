package bundle

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
)

// NetworkAnnotation chooses the network of a container: "none", "user" or "host-loopback", as qenex run --net. Without it a container
// has the network namespace of its bundle, reached by user-mode networking.
const NetworkAnnotation = "org.qenex.net"

// Sandbox turns a checked configuration of the bundle in dir, an absolute path, into a sandbox's. warnings say what is left out.
// Files are left to the caller.
func Sandbox(dir string, s *specs.Spec) (spec sentry.Spec, warnings []string, err error) {
	e, w, err := Program(s.Process)
	if err != nil {
		return spec, nil, err
	}
	spec = sentry.Spec{
		Args: e.Args, Env: e.Env, Dir: e.Dir, UID: e.UID, GID: e.GID, Groups: e.Groups,
		Capabilities: e.Capabilities, NoNewPrivs: e.NoNewPrivs, Rlimits: e.Rlimits, TTY: e.TTY,
		Umask:    s.Process.User.Umask,
		Hostname: s.Hostname, Domainname: s.Domainname, Sysctl: s.Linux.Sysctl,
		Root: inside(dir, s.Root.Path), RootReadonly: s.Root.Readonly, RootWritable: !s.Root.Readonly,
		NoDefaultMounts: true, MaskedPaths: s.Linux.MaskedPaths, ReadonlyPaths: s.Linux.ReadonlyPaths,
	}
	if s.Process.OOMScoreAdj != nil {
		spec.OOMScoreAdj = int32(*s.Process.OOMScoreAdj)
	}
	for _, m := range s.Mounts {
		got, err := mount(dir, m)
		if err != nil {
			return spec, nil, err
		}
		spec.Mounts = append(spec.Mounts, got)
	}
	if spec.Net, err = network(s); err != nil {
		return spec, nil, err
	}
	w = append(w, resources(&spec, s.Linux.Resources)...)
	if len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 {
		w = append(w, "user namespaces: IDs are not mapped; files keep the host's owners")
	}
	if s.Linux.Seccomp != nil {
		w = append(w, "linux.seccomp: the program's system calls never reach the host's kernel; the profile is not applied")
	}
	if len(s.Linux.Devices) > 0 {
		w = append(w, "linux.devices: host devices are not passed to native guests")
	}
	for _, n := range s.Linux.Namespaces {
		if n.Path != "" && n.Type != specs.NetworkNamespace {
			w = append(w, fmt.Sprintf("the %s namespace %s is not joined", n.Type, n.Path))
		}
	}
	return spec, w, nil
}

// Program turns a checked process into a program to run; files are left to the caller.
func Program(p *specs.Process) (e sentry.ExecSpec, warnings []string, err error) {
	e = sentry.ExecSpec{
		Args: p.Args, Env: p.Env, Dir: filepath.Clean(p.Cwd), UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids,
		NoNewPrivs: p.NoNewPrivileges, TTY: p.Terminal,
	}
	if p.Capabilities == nil {
		e.Capabilities = &sentry.Capabilities{}
	} else if e.Capabilities, err = capabilities(p.Capabilities); err != nil {
		return e, nil, err
	}
	for _, r := range p.Rlimits {
		typ, ok := rlimits[r.Type]
		if !ok {
			return e, nil, invalid("process.rlimits: %q is not known", r.Type)
		}
		if r.Soft > r.Hard {
			return e, nil, invalid("process.rlimits: %s: soft limit %d above hard limit %d", r.Type, r.Soft, r.Hard)
		}
		e.Rlimits = append(e.Rlimits, sentry.Rlimit{Type: typ, Soft: r.Soft, Hard: r.Hard})
	}
	for what, set := range map[string]bool{"apparmorProfile": p.ApparmorProfile != "", "selinuxLabel": p.SelinuxLabel != ""} {
		if set {
			warnings = append(warnings, "process."+what+": not applied to native guests")
		}
	}
	slices.Sort(warnings)
	return e, warnings, nil
}

// inside makes a path of the bundle absolute.
func inside(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// mount turns one mount. Options that only speed things up or that a native guest has anyway are dropped.
func mount(dir string, m specs.Mount) (sentry.Mount, error) {
	out := sentry.Mount{Target: filepath.Clean(m.Destination)}
	bind := m.Type == "bind"
	for _, o := range m.Options {
		switch {
		case o == "ro", o == "rro":
			out.ReadOnly = true
		case o == "bind", o == "rbind":
			bind = true
		case o == "noexec", o == "nosuid", o == "nodev":
			out.Options = append(out.Options, o)
		case strings.HasPrefix(o, "size="), strings.HasPrefix(o, "mode="):
			out.Options = append(out.Options, o)
		}
	}
	switch {
	case bind:
		if m.Source == "" {
			return out, invalid("the bind mount at %s has no source", m.Destination)
		}
		out.Type, out.Source = sentry.MountBind, inside(dir, m.Source)
	case out.Target == "/dev" && (m.Type == "tmpfs" || m.Type == "devtmpfs"):
		// Elsewhere the runtime fills a tmpfs with the default devices.
		out.Type, out.Options = sentry.MountDev, nil
	default:
		t, ok := mountTypes[m.Type]
		if !ok {
			return out, invalid("the mount at %s is of type %q, which native guests do not have", m.Destination, m.Type)
		}
		out.Type = t
	}
	return out, nil
}

var mountTypes = map[string]sentry.MountType{
	"tmpfs": sentry.MountTmpfs, "proc": sentry.MountProc, "sysfs": sentry.MountSysfs, "devtmpfs": sentry.MountDev,
	"devpts": sentry.MountDevPts, "mqueue": sentry.MountMqueue, "cgroup": sentry.MountCgroup, "cgroup2": sentry.MountCgroup,
}

// Network returns the network namespace of a configuration: whether there is one apart from the host's, and the path of one to join.
func Network(s *specs.Spec) (own bool, path string) {
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return true, n.Path
		}
	}
	return false, ""
}

func network(s *specs.Spec) (sentry.Net, error) {
	switch v := s.Annotations[NetworkAnnotation]; v {
	case "none":
		return sentry.NetNone, nil
	case "user":
		return sentry.NetUser, nil
	case "host-loopback":
		return sentry.NetHostLoopback, nil
	case "":
	default:
		return 0, invalid("annotation %s is %q: none, user and host-loopback are known", NetworkAnnotation, v)
	}
	if own, path := Network(s); own && path == "" && len(allHooks(s.Hooks)) == 0 {
		return sentry.NetNone, nil // a new namespace that nobody will put a network into
	} else if own {
		return sentry.NetUser, nil
	}
	return sentry.NetHostLoopback, nil
}

// resources takes what a sandbox can keep to and names the rest.
func resources(spec *sentry.Spec, r *specs.LinuxResources) (warnings []string) {
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		spec.Memory = uint64(*m.Limit)
	}
	if c := r.CPU; c != nil && c.Quota != nil && c.Period != nil && *c.Quota > 0 && *c.Period > 0 {
		n := uint64(*c.Quota) / *c.Period
		if uint64(*c.Quota)%*c.Period > 0 {
			n++
		}
		spec.CPUs = int(min(n, 1024))
	}
	if r.Pids != nil && r.Pids.Limit > 0 {
		warnings = append(warnings, "linux.resources.pids: not limited")
	}
	return warnings
}
