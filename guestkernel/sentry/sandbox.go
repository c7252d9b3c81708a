package sentry

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// ErrNotStarted is returned for a request that needs a running sandbox.
var ErrNotStarted = errors.New("the sandbox has not been started")

// Sandbox is one guest. Its methods may be called from any goroutine.
type Sandbox struct{}

// New builds a sandbox: nothing of the guest has run, and the process is not yet confined.
func New(Spec) (*Sandbox, error) { return nil, errors.New("native guests are not built in") }

// Confine shuts the whole host process in: Landlock (the root and the mounts, nothing else), no_new_privs,
// a system-call filter on all threads. It cannot be undone. Missing says which of these this kernel does not have;
// the caller decides whether to go on without and must tell its user.
func (s *Sandbox) Confine() (missing []string, err error) { return nil, ErrNotStarted }

// Start lets the first program run.
func (s *Sandbox) Start() error { return ErrNotStarted }

// PID is the process ID of the first program inside, usually 1.
func (s *Sandbox) PID() int { return 1 }

// Wait blocks until the first program has ended.
func (s *Sandbox) Wait() (Status, error) { return Status{}, ErrNotStarted }

// Signal sends a signal to process pid (0: the first program), or with all to every process. With TTY and pid 0, signals that a terminal
// makes (SIGINT, SIGQUIT, SIGTSTP) go to the foreground process group.
func (s *Sandbox) Signal(pid int, sig syscall.Signal, all bool) error { return ErrNotStarted }

// Exec starts a further program; wait blocks until it has ended.
func (s *Sandbox) Exec(ExecSpec) (pid int, wait func() (Status, error), err error) {
	return 0, nil, ErrNotStarted
}

// Resize tells process pid's terminal (0: the first program's) its new size in characters.
func (s *Sandbox) Resize(pid int, columns, rows uint16) error { return ErrNotStarted }

// Pause stops every program; Resume undoes it.
func (s *Sandbox) Pause() error { return ErrNotStarted }

// Resume lets paused programs run on.
func (s *Sandbox) Resume() error { return ErrNotStarted }

// Save writes the whole sandbox, memory included, to w. The sandbox is paused meanwhile; with stop it is ended afterwards.
func (s *Sandbox) Save(w *os.File, stop bool) error { return ErrNotStarted }

// PIDs lists the processes inside.
func (s *Sandbox) PIDs() ([]Process, error) { return nil, ErrNotStarted }

// Stats reads the counters.
func (s *Sandbox) Stats() Stats { return Stats{} }

// Close ends every program and frees what the sandbox held.
func (s *Sandbox) Close() error { return nil }

var _ io.Closer = (*Sandbox)(nil)
