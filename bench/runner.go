package bench

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// Names of what runs Linux programs, besides qenex, in the order of the table.
const (
	nativeName  = "native"
	systrapName = "runsc-systrap"
	ptraceName  = "runsc-ptrace"
	linuxName   = "linux-qemu"
)

// runner starts Linux programs in one way. linux-qemu has no argv: its programs are a kernel's first process.
type runner struct {
	peer
	argv func(program []string) []string
}

const gvisor = "gvisor.dev/gvisor"

// runners are those of o.Peers, or all.
func (o *Options) runners(ctx context.Context) []runner {
	direct := func(p []string) []string { return p }
	qenex := func(p []string) []string { return append([]string{o.Qenex, "run", "--"}, p...) }
	all := []runner{
		{peer{name: nativeName}, direct},
		{find(peer{name: qenexName}, o.Qenex), qenex},
		{peer{name: systrapName}, nil},
		{peer{name: ptraceName}, nil},
		{find(peer{name: linuxName}, o.QEMU), nil},
	}
	if len(o.Peers) > 0 {
		all = slices.DeleteFunc(all, func(r runner) bool { return !slices.Contains(o.Peers, r.name) })
	}
	for i := range all {
		r := &all[i]
		if r.name != systrapName && r.name != ptraceName {
			continue
		}
		path, err := o.runsc(ctx)
		if err != nil {
			r.missing = "not run: no runsc: " + err.Error()
			continue
		}
		r.path = path
		platform := "--platform=" + r.name[len("runsc-"):]
		r.argv = func(p []string) []string {
			return append([]string{path, platform, "--network=none", "--ignore-cgroups", "do"}, p...)
		}
	}
	return all
}

// runsc returns a runsc of the gVisor version that o.Qenex is built with. It is built once, into the cache, without
// cgo: with it, runsc does not run sandboxes.
func (o *Options) runsc(ctx context.Context) (string, error) {
	if o.Runsc != "" {
		return exec.LookPath(o.Runsc)
	}
	version, err := moduleVersion(o.Qenex, gvisor)
	if err != nil {
		return "", err
	}
	cache, err := cc.CacheDir("bench")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "runsc-"+version)
	path := filepath.Join(dir, "runsc")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(o.Progress, "bench: building runsc %s, once\n", version)
	cmd := exec.CommandContext(ctx, "go", "install", gvisor+"/runsc@"+version)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=-mod=mod")
	cmd.Dir = cache
	if out, err := cmd.CombinedOutput(); err != nil {
		line, _ := telling(string(out))
		return "", fmt.Errorf("%s: %w: %s", cmd, err, line)
	}
	return path, nil
}

// moduleVersion says which version of a module the program at path contains.
func moduleVersion(path, module string) (string, error) {
	path, err := exec.LookPath(path)
	if err != nil {
		return "", err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", err
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not contain %s", path, module)
}
