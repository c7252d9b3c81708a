// Package bundle reads OCI runtime bundles: a directory with a config.json, as containerd, Podman and Docker make them.
//
// It checks a configuration and turns it into what a native guest is made of. Whatever a native guest has no counterpart for is either
// an error, when the container would be less shut in or would not work, or a warning. Files, sockets and processes of the runtime do
// not enter; neither does gVisor.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrInvalid is wrapped by every error that blames the bundle.
var ErrInvalid = errors.New("invalid bundle")

// maxConfig bounds config.json and process files, in bytes.
const maxConfig = 4 << 20

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// Load reads and checks dir/config.json.
func Load(dir string) (*specs.Spec, error) {
	b, err := readFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// Parse reads and checks the text of a config.json.
func Parse(text []byte) (*specs.Spec, error) {
	s := &specs.Spec{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, invalid("config.json: %w", err)
	}
	if !strings.HasPrefix(s.Version, "1.") {
		return nil, invalid("ociVersion is %q: only 1.x is known", s.Version)
	}
	if s.Root == nil || s.Root.Path == "" {
		return nil, invalid("config.json has no root.path")
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	if s.Process == nil {
		return nil, invalid("config.json has no process")
	}
	if err := checkProcess(s.Process); err != nil {
		return nil, err
	}
	for _, m := range s.Mounts {
		if !filepath.IsAbs(m.Destination) {
			return nil, invalid("mount destination %q is not absolute", m.Destination)
		}
	}
	for _, h := range allHooks(s.Hooks) {
		if !filepath.IsAbs(h.Path) {
			return nil, invalid("hook path %q is not absolute", h.Path)
		}
		if h.Timeout != nil && *h.Timeout <= 0 {
			return nil, invalid("hook %s has the timeout %d", h.Path, *h.Timeout)
		}
	}
	return s, nil
}

// LoadProcess reads and checks a process file, as exec --process has it.
func LoadProcess(file string) (*specs.Process, error) {
	b, err := readFile(file)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, invalid("%s: %w", file, err)
	}
	return p, checkProcess(p)
}

func checkProcess(p *specs.Process) error {
	if len(p.Args) == 0 {
		return invalid("process.args is empty")
	}
	if !filepath.IsAbs(p.Cwd) {
		return invalid("process.cwd is %q, not an absolute path", p.Cwd)
	}
	for _, group := range [][]string{p.Args, p.Env} {
		for _, s := range group {
			if strings.IndexByte(s, 0) >= 0 {
				return invalid("process has a zero byte in %q", s)
			}
		}
	}
	return nil
}

func allHooks(h *specs.Hooks) []specs.Hook {
	if h == nil {
		return nil
	}
	var all []specs.Hook
	for _, list := range [][]specs.Hook{Prestart(h), h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		all = append(all, list...)
	}
	return all
}

// Prestart returns the hooks of the oldest kind, which Docker still uses.
func Prestart(h *specs.Hooks) []specs.Hook {
	//lint:ignore SA1019 deprecated, and in use
	return h.Prestart
}

func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, invalid("%s is no regular file", name))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = invalid("%s has more than %d bytes", name, maxConfig)
	}
	return b, err
}
