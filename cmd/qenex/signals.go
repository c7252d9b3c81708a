package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device/terminal"
)

// catchSignals takes all signals that are the program's. Not among them: those that nobody can catch, those that mean an error of this
// process itself, SIGCHLD and SIGURG, with which the threads of this process wake each other, SIGPROF, and SIGPIPE, which a program gets from its
// own writes. Without a terminal of its own, a program stops by this process being stopped, so that the shell notices.
func catchSignals(tty bool) <-chan os.Signal {
	signal.Ignore(unix.SIGPIPE)
	ch := make(chan os.Signal, 128)
	signal.Notify(ch, programSignals(tty)...)
	return ch
}

func programSignals(tty bool) []os.Signal {
	catch := []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGVTALRM, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGIO, unix.SIGPWR, unix.SIGSTKFLT, unix.SIGWINCH,
	}
	if tty {
		catch = append(catch, unix.SIGTSTP, unix.SIGCONT)
	}
	for n := 35; n <= 64; n++ { // the Go runtime keeps 32 to 34
		catch = append(catch, syscall.Signal(n))
	}
	return catch
}

// forward calls f with every signal that comes.
func forward(ch <-chan os.Signal, f func(syscall.Signal)) {
	for s := range ch {
		f(s.(syscall.Signal))
	}
}

func isTerminal(fd int) bool { return terminal.IsTerminal(fd) }

// inForeground tells whether fd is a terminal that this process may use as it likes: a job in the background must leave its settings alone.
func inForeground(fd int) bool {
	if !isTerminal(fd) {
		return false
	}
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP) // it fails for a terminal that is not the controlling one
	return err != nil || group == unix.Getpgrp()
}
