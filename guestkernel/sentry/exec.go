package sentry

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// Exec starts a further program; wait blocks until it has ended. Files of the spec that are nil read as empty and swallow what is written.
func (s *Sandbox) Exec(e ExecSpec) (pid int, wait func() (Status, error), err error) {
	if _, err := s.started(); err != nil {
		return 0, nil, err
	}
	if len(e.Args) == 0 {
		return 0, nil, errors.New("no program to run")
	}
	files := e.Files
	for i := range files {
		if files[i] == nil {
			files[i] = s.null
		}
	}
	limits, err := limitSet(e.Rlimits)
	if err != nil {
		return 0, nil, err
	}
	args := s.args
	args.Filename = ""
	args.Argv, args.Envv = e.Args, e.Env
	if e.Dir != "" {
		args.WorkingDirectory = e.Dir
	}
	args.Credentials = credentials(e.UID, e.GID, e.Groups, e.Capabilities, s.k.RootUserNamespace())
	args.NoNewPrivs = e.NoNewPrivs
	args.Limits = limits
	args.Origin = kernel.OriginExec
	p, err := s.create(args, files, e.TTY)
	if err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	s.execs[int(p.pid)] = p
	s.mu.Unlock()
	s.k.StartProcess(p.tg)
	return int(p.pid), func() (Status, error) {
		st := s.wait(p)
		s.mu.Lock()
		delete(s.execs, int(p.pid))
		s.mu.Unlock()
		return st, nil
	}, nil
}

// Resize tells process pid's terminal (0: the first program's) its new size in characters.
func (s *Sandbox) Resize(pid int, columns, rows uint16) error {
	p, err := s.program(pid)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.tty == nil || len(p.files) == 0 {
		return fmt.Errorf("process %d has no terminal", p.pid)
	}
	size := &unix.Winsize{Row: rows, Col: columns}
	if err := unix.IoctlSetWinsize(p.files[0].fd, unix.TIOCSWINSZ, size); err != nil {
		return fmt.Errorf("setting the size of process %d's terminal: %w", p.pid, err)
	}
	return nil
}

// program finds a program by its PID; 0 is the first one.
func (s *Sandbox) program(pid int) (*program, error) {
	first, err := s.started()
	if err != nil {
		return nil, err
	}
	if pid == 0 || pid == int(first.pid) {
		return first, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.execs[pid]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("program %d: %w", pid, ErrNoProcess)
}
