package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Files of the state.
const (
	socketFile = "trust.sock"
	lockFile   = "lock"       // the keeper holds it
	startFile  = "start.lock" // who starts the keeper holds it
	keyFile    = "audit.key"
	publicFile = "audit.pub"
	logDir     = "audit"
	tpmDir     = "tpm"
	eventFile  = "eventlog"
)

// State is the directory of a host's evidence.
type State struct{ Dir string }

// DefaultState is in $QENEX_STATE, else in /var/lib/qenex for root, and in qenex below $XDG_STATE_HOME or ~/.local/state for others.
func DefaultState() (State, error) {
	if dir := os.Getenv("QENEX_STATE"); dir != "" {
		abs, err := filepath.Abs(dir)
		return State{abs}, err
	}
	if os.Geteuid() == 0 {
		return State{"/var/lib/qenex"}, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return State{filepath.Join(dir, "qenex")}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return State{}, fmt.Errorf("no place for audit log and TPM: %w; set QENEX_STATE to a directory of your own", err)
	}
	return State{filepath.Join(home, ".local/state/qenex")}, nil
}

// make makes the directory, and refuses one that others may write.
func (s State) make() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(s.Dir)
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		err = fmt.Errorf("%s may be written by others than its owner: evidence there would be none; chmod go-w %s", s.Dir, s.Dir)
	}
	return err
}

func (s State) path(name string) string { return filepath.Join(s.Dir, name) }

// Log is the directory of the audit log.
func (s State) Log() string { return s.path(logDir) }

// Public reads the key that verifies the audit log, as text.
func (s State) Public() (string, error) {
	b, err := os.ReadFile(s.path(publicFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("there is no audit log in %s yet: qenex run --audit begins one: %w", s.Dir, err)
	}
	return string(b), err
}
