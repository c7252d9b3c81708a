package sentry

import (
	"fmt"
	"syscall"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// Signal sends a signal to process pid (0: the first program), or with all to every process. With TTY and pid 0, signals that a terminal
// makes (SIGINT, SIGQUIT, SIGTSTP, SIGWINCH, SIGHUP) go to the foreground process group of that terminal.
func (s *Sandbox) Signal(pid int, sig syscall.Signal, all bool) error {
	first, err := s.started()
	if err != nil {
		return err
	}
	if !linux.Signal(sig).IsValid() {
		return fmt.Errorf("there is no signal %d", int(sig))
	}
	info := &linux.SignalInfo{Signo: int32(sig)}
	if all {
		if !s.k.IsPaused() {
			// No process may come to be unseen while the others get their signal.
			s.k.Pause()
			defer s.k.Unpause()
		}
		return s.k.SendContainerSignal(containerID, info)
	}
	if pid == 0 {
		if pg := foreground(first); pg != nil && terminalSignal(sig) {
			return s.k.SendExternalSignalProcessGroup(pg, info)
		}
		return s.k.SendExternalSignalThreadGroup(first.tg, info)
	}
	tg := s.k.RootPIDNamespace().ThreadGroupWithID(kernel.ThreadID(pid))
	if tg == nil {
		return fmt.Errorf("signalling process %d: %w", pid, ErrNoProcess)
	}
	return s.k.SendExternalSignalThreadGroup(tg, info)
}

// terminalSignal says whether a terminal sends the signal to its foreground group.
func terminalSignal(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGWINCH, syscall.SIGHUP:
		return true
	}
	return false
}

// foreground is the foreground process group of p's terminal, or nil.
func foreground(p *program) *kernel.ProcessGroup {
	tty := p.tg.TTY()
	if tty == nil {
		return nil
	}
	pg, err := p.tg.ForegroundProcessGroup(tty)
	if err != nil {
		return nil
	}
	return pg
}
