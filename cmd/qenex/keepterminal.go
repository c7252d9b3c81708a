//go:build !kernelonly

package main

import (
	"os/signal"

	"golang.org/x/sys/unix"
)

// keptTerminal is the settings that a terminal is to have again. The program has the terminal itself and sets it as it likes: a line
// discipline before it would be one too many.
type keptTerminal struct{ old *unix.Termios }

// keepTerminal remembers the settings of standard input, if that is the program's terminal.
func keepTerminal(tty bool) (k keptTerminal, err error) {
	if tty {
		k.old, err = unix.IoctlGetTermios(0, unix.TCGETS)
	}
	return k, err
}

// restore gives the terminal its settings back. Nothing can be done if it is gone.
func (k keptTerminal) restore() {
	if k.old != nil {
		signal.Ignore(unix.SIGTTOU) // the program may have left another group in the foreground
		_ = unix.IoctlSetTermios(0, unix.TCSETSW, k.old)
	}
}

// guard is deferred: it restores the terminal if the goroutine panics.
func (k keptTerminal) guard() {
	if v := recover(); v != nil {
		k.restore()
		panic(v)
	}
}
