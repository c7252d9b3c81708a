// Package container keeps the state directory of the OCI runtime and the control socket of each sandbox.
//
// A container is a directory, root/ID: state.json says which bundle and which host process it is, config.json is the configuration it
// was made with, control is the socket on which the process that owns the sandbox takes requests. What a container's status is, is never
// written down: the process knows, and when it is gone the container has stopped.
//
// Sandboxes themselves, bundles and command lines do not enter.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/process"
)

// Errors of the store.
var (
	ErrBadID    = errors.New("invalid container ID")
	ErrExists   = errors.New("a container with this ID exists")
	ErrNotFound = errors.New("container does not exist") // containerd looks for these words
)

// Store is a directory of containers.
type Store struct{ dir string }

// DefaultRoot returns where containers are kept if nothing else is said: /run/qenex for root, else qenex in XDG_RUNTIME_DIR.
func DefaultRoot() (string, error) {
	if os.Geteuid() == 0 {
		return "/run/qenex", nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return "", errors.New("no place for the state of containers: XDG_RUNTIME_DIR is not set; give --root DIR")
	}
	return filepath.Join(dir, "qenex"), nil
}

// OpenStore uses dir, which is made when the first container is; "" means DefaultRoot.
func OpenStore(dir string) (*Store, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultRoot(); err != nil {
			return nil, err
		}
	}
	abs, err := filepath.Abs(dir)
	return &Store{abs}, err
}

// CheckID refuses what cannot be the name of a container: it becomes a file name.
func CheckID(id string) error {
	if id == "" || len(id) > 255 || id[0] == '.' {
		return fmt.Errorf("%w %.300q: 1 to 255 letters, digits and _ + - ., not beginning with a dot", ErrBadID, id)
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_+-.", rune(c)) {
			return fmt.Errorf("%w %q: only letters, digits and _ + - . are allowed", ErrBadID, id)
		}
	}
	return nil
}

// State is state.json.
type State struct {
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Birth       uint64            `json:"birth"` // start time of the process in clock ticks since boot: a PID may be used again
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Container is one container's directory.
type Container struct {
	dir string
	ID  string
}

// Create makes the directory of a new container.
func (s *Store) Create(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return nil, err
	}
	c := &Container{filepath.Join(s.dir, id), id}
	if err := os.Mkdir(c.dir, 0o700); errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s: %w; qenex delete %s removes it", id, ErrExists, id)
	} else if err != nil {
		return nil, err
	}
	return c, nil
}

// Get finds a container.
func (s *Store) Get(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &Container{filepath.Join(s.dir, id), id}
	if info, err := os.Lstat(c.dir); err != nil || !info.IsDir() {
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w in %s", id, ErrNotFound, s.dir)
		}
		return nil, err
	}
	return c, nil
}

// List returns all containers, by ID.
func (s *Store) List() ([]*Container, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []*Container
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			list = append(list, &Container{filepath.Join(s.dir, e.Name()), e.Name()})
		}
	}
	return list, err
}

// Path returns the path of one of the container's files.
func (c *Container) Path(name string) string { return filepath.Join(c.dir, name) }

// Lock keeps other processes that lock the same container out until unlock is called, or this process ends.
func (c *Container) Lock() (unlock func(), err error) {
	d, err := os.Open(c.dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%s: %w", c.ID, ErrNotFound)
		}
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("locking %s: %w", c.dir, err)
	}
	return func() { d.Close() }, nil
}

// Remove deletes the container's directory.
func (c *Container) Remove() error { return os.RemoveAll(c.dir) }

// WriteFile replaces one of the container's files as a whole.
func (c *Container) WriteFile(name string, b []byte) error { return WriteFile(c.Path(name), b, 0o600) }

// WriteFile replaces a file: a reader finds the old contents or the new.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// maxState bounds state.json, in bytes.
const maxState = 1 << 20

// SetState writes state.json.
func (c *Container) SetState(s State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if len(b) > maxState {
		return fmt.Errorf("%s: annotations of %d bytes are too long", c.ID, len(b))
	}
	return c.WriteFile("state.json", b)
}

// State reads state.json. Until it is written the container is being created.
func (c *Container) State() (s State, err error) {
	b, err := os.ReadFile(c.Path("state.json"))
	if err != nil {
		return s, fmt.Errorf("%s has no readable state: %w; qenex delete --force %s removes what is left", c.ID, err, c.ID)
	}
	return parseState(b, c.ID)
}

func parseState(b []byte, id string) (s State, err error) {
	if len(b) > maxState {
		return s, fmt.Errorf("state.json of %s has %d bytes", id, len(b))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("state.json of %s: %w", id, err)
	}
	if s.ID != id || s.Pid <= 0 {
		return s, fmt.Errorf("state.json of %s is of container %q, process %d", id, s.ID, s.Pid)
	}
	return s, nil
}

// Alive tells whether the process of s still runs. A zombie does not.
func (s State) Alive() bool { return process.ID{PID: s.Pid, Birth: s.Birth}.Alive() }

// OCI returns the state in the runtime specification's form.
func (s State) OCI(status specs.ContainerState) specs.State {
	out := specs.State{Version: specs.Version, ID: s.ID, Status: status, Pid: s.Pid, Bundle: s.Bundle, Annotations: s.Annotations}
	if status == specs.StateStopped {
		out.Pid = 0
	}
	return out
}
