package fleet

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/process"
)

// Errors of the registry.
var (
	ErrName     = errors.New("invalid name of a machine")
	ErrExists   = errors.New("the name is taken")
	ErrNotFound = errors.New("no such machine")
	ErrRunning  = errors.New("the machine runs")
)

// Files of a machine's directory.
const (
	entryFile   = "vm.json"
	socketFile  = "control.sock"
	consoleFile = "console.log"
	outputFile  = "output.log"
)

// maxEntry bounds vm.json, in bytes.
const maxEntry = 1 << 20

// Registry is a directory of machines.
type Registry struct{ dir string }

// DefaultDir returns where machines are kept: $QENEX_RUN, else /run/qenex for root and qenex in $XDG_RUNTIME_DIR for others.
func DefaultDir() (string, error) {
	if dir := os.Getenv("QENEX_RUN"); dir != "" {
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/run/qenex", nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return "", errors.New("no place to register machines: XDG_RUNTIME_DIR is not set; set it, or QENEX_RUN, to a directory of your own")
	}
	return filepath.Join(dir, "qenex"), nil
}

// Open uses dir, which is made when the first machine is; "" means DefaultDir.
func Open(dir string) (*Registry, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	abs, err := filepath.Abs(dir)
	return &Registry{abs}, err
}

// CheckName refuses what cannot be the name of a machine: it becomes a file name, and a host name.
func CheckName(name string) error {
	if name == "" || len(name) > 64 || strings.IndexByte("_+-.", name[0]) >= 0 {
		return fmt.Errorf("%w %.100q: 1 to 64 letters, digits and _ + - ., a letter or digit first", ErrName, name)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("_+-.", c) < 0 {
			return fmt.Errorf("%w %q: only letters, digits and _ + - . are allowed", ErrName, name)
		}
	}
	return nil
}

// Entry is vm.json.
type Entry struct {
	Spec
	Process process.ID `json:"process"`
	Outcome *Outcome   `json:"outcome,omitempty"` // how the machine ended, once it has
}

// Spec says what a machine was made of. It does not change while the machine runs.
type Spec struct {
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Version  string    `json:"version"` // of QENEX
	Kernel   string    `json:"kernel"`
	Image    string    `json:"image,omitempty"`
	Command  []string  `json:"command,omitempty"` // what the agent runs when the guest is up
	CPUs     int       `json:"cpus"`
	Memory   uint64    `json:"memory_bytes"`
	Disks    []string  `json:"disks,omitempty"`
	Net      string    `json:"net,omitempty"`
	Publish  []string  `json:"publish,omitempty"`
	Shares   []string  `json:"shares,omitempty"`
	Vsock    string    `json:"vsock,omitempty"` // path of the host's side
	Detached bool      `json:"detached"`
}

// Outcome is how a machine ended.
type Outcome struct {
	Cause string    `json:"cause"`          // power-off, reboot, panic, ..., or error: the machine could not go on for a reason of the host
	Text  string    `json:"text,omitempty"` // for people
	Code  int       `json:"code"`           // exit code of the process
	Ended time.Time `json:"ended,omitzero"` // when
}

// VM is a machine's directory as others see it.
type VM struct {
	dir string
	Entry
}

// lock keeps other processes from adding and removing machines until unlock is called, or this process ends.
func (r *Registry) lock() (unlock func(), err error) {
	if err := os.MkdirAll(r.dir, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.dir, ".lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// Create adds a machine that this process runs. Without a name in s it gets one. A dead machine of that name is removed first.
// The directory appears with all that it holds, or not at all.
func (r *Registry) Create(s Spec) (*VM, error) {
	self, err := process.Self()
	if err != nil {
		return nil, err
	}
	generate := s.Name == ""
	if generate {
		s.Name = newName()
	}
	if err := CheckName(s.Name); err != nil {
		return nil, err
	}
	unlock, err := r.lock()
	if err != nil {
		return nil, fmt.Errorf("registering a machine: %w", err)
	}
	defer unlock()
	if err := r.tidy(); err != nil {
		return nil, err
	}
	if old, err := r.Get(s.Name); err == nil && !old.Alive() {
		if err := os.RemoveAll(old.dir); err != nil {
			return nil, err
		}
	}
	made, err := os.MkdirTemp(r.dir, newPrefix) // 0700
	if err != nil {
		return nil, err
	}
	vm := &VM{made, Entry{Spec: s, Process: self}}
	if err = vm.write(); err == nil {
		err = unix.EEXIST
		for try := 0; err == unix.EEXIST && (try == 0 || generate && try < 100); try++ {
			if try > 0 {
				vm.Name = newName()
				if err := vm.write(); err != nil {
					return nil, errors.Join(err, os.RemoveAll(made))
				}
			}
			vm.dir = filepath.Join(r.dir, vm.Name)
			err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, vm.dir, unix.RENAME_NOREPLACE)
			if err != nil {
				vm.dir = made
			}
		}
		if err == unix.EEXIST {
			err = fmt.Errorf("%s: %w: qenex ps lists what runs; give another --name", vm.Name, ErrExists)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("registering machine %s: %w", vm.Name, err), os.RemoveAll(made))
	}
	return vm, nil
}

// newPrefix begins the names of directories that are being made, which CheckName refuses for machines.
const newPrefix = ".new-"

// tidy removes what processes left that were killed while they made a directory. The registry is locked.
func (r *Registry) tidy() error {
	entries, err := os.ReadDir(r.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, e.Name())))
		}
	}
	return err
}

// newName makes up a name.
func newName() string { return "vm-" + strings.ToLower(rand.Text()[:6]) }

// write replaces vm.json.
func (v *VM) write() error {
	b, err := json.MarshalIndent(v.Entry, "", "  ")
	if err != nil {
		return err
	}
	if len(b) > maxEntry {
		return fmt.Errorf("%s: what describes the machine has %d bytes: %d are allowed", v.Name, len(b), maxEntry)
	}
	part := filepath.Join(v.dir, entryFile+".part")
	if err := os.WriteFile(part, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(v.dir, entryFile))
}

// Get finds a machine, alive or not.
func (r *Registry) Get(name string) (*VM, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	vm := &VM{dir: filepath.Join(r.dir, name)}
	b, err := readBounded(filepath.Join(vm.dir, entryFile), maxEntry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w in %s", name, ErrNotFound, r.dir)
	}
	if err == nil {
		vm.Entry, err = parseEntry(b, name)
	}
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	return vm, nil
}

func parseEntry(b []byte, name string) (e Entry, err error) {
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("%s: %w", entryFile, err)
	}
	if e.Name != name || e.Process.PID <= 0 {
		return e, fmt.Errorf("%s is of machine %q, process %d", entryFile, e.Name, e.Process.PID)
	}
	return e, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// List returns all machines, alive or not, by name. Directories of others, such as containers, are passed over.
func (r *Registry) List() ([]*VM, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []*VM
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if vm, err := r.Get(e.Name()); err == nil {
			list = append(list, vm)
		}
	}
	return list, err
}

// Alive tells whether the machine's process runs and has not said how the machine ended.
func (v *VM) Alive() bool { return v.Outcome == nil && v.Process.Alive() }

// Remove deletes the directory of a machine that is not alive.
func (r *Registry) Remove(v *VM) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, err := r.Get(v.Name)
	if errors.Is(err, ErrNotFound) || err == nil && now.Process != v.Process {
		return nil // somebody else removed it
	}
	if err != nil {
		return err
	}
	if now.Alive() {
		return fmt.Errorf("%s: %w", v.Name, ErrRunning)
	}
	return os.RemoveAll(now.dir)
}

// Finish writes down how the machine of this process ended, for whoever asks later, or removes it if keep is false.
func (r *Registry) Finish(v *VM, o Outcome, keep bool) error {
	v.Outcome = &o
	if keep {
		return v.write()
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return os.RemoveAll(v.dir)
}

// Kill ends the machine's process at once, whatever state it is in.
func (v *VM) Kill() error {
	if err := v.Process.Kill(); err != nil {
		return fmt.Errorf("machine %s: %w", v.Name, err)
	}
	return nil
}

// Path returns the path of one of the machine's files.
func (v *VM) Path(name string) string { return filepath.Join(v.dir, name) }
