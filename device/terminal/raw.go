// Package terminal puts the user's terminal into raw mode and brings it back, reads it
// so that the reading can be stopped, and finds the Ctrl-A commands in what is typed.
//
// It knows file descriptors and termios and nothing of guests. It starts no goroutine
// and installs no signal handler: the command decides which signals end the run, and
// calls Restore.
package terminal

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrBackground is returned by MakeRaw when the process is not in the terminal's
// foreground process group: changing the terminal or reading from it would stop it.
var ErrBackground = errors.New("the process runs in the background of its terminal")

// Raw is a terminal in raw mode.
type Raw struct {
	fd  int
	old unix.Termios // to restore

	mu   sync.Mutex
	done bool // restored, or never changed
}

// IsTerminal tells whether fd is a terminal.
func IsTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// MakeRaw puts the terminal fd into raw mode: no echo, no lines, no signals from keys,
// eight bits through; output processing stays as it was, so that the command's own
// messages still begin at the left. If fd is not a terminal nothing is changed and the
// result's Restore does nothing. The caller keeps fd open until Restore.
func MakeRaw(fd int) (*Raw, error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return &Raw{fd: fd, done: true}, nil
	}
	// On a terminal that is not the controlling one TIOCGPGRP fails, and
	// foreground and background do not exist.
	if pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && pgrp != unix.Getpgrp() {
		return nil, fmt.Errorf("terminal: cannot make fd %d raw: %w; run it in the foreground or redirect its input", fd, ErrBackground)
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := setTermios(fd, &raw); err != nil {
		return nil, fmt.Errorf("terminal: cannot make fd %d raw: %w", fd, err)
	}
	return &Raw{fd: fd, old: *old}, nil
}

// Restore gives the terminal back the settings it had before MakeRaw. Only the first
// call does anything, so every exit path may call it, from any goroutine; it does not
// wait for pending output.
func (r *Raw) Restore() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	if err := setTermios(r.fd, &r.old); err != nil {
		return fmt.Errorf("terminal: cannot restore fd %d: %w; type 'reset' to get a usable terminal", r.fd, err)
	}
	r.done = true
	return nil
}

// Guard restores the terminal if the goroutine is panicking, and lets the panic go on.
// Defer it at the start of every goroutine that runs while the terminal is raw: a panic
// ends the process without running the deferred calls of the others.
func (r *Raw) Guard() {
	if v := recover(); v != nil {
		_ = r.Restore() // the panic is the news
		panic(v)
	}
}

func setTermios(fd int, t *unix.Termios) error {
	for {
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != unix.EINTR {
			return err
		}
	}
}
