package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vmm"
)

// Exit codes of the process. They are part of the interface: scripts use them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInput       = 3
	exitHost        = 4
	exitReboot      = 10
	exitPanic       = 11
	exitTripleFault = 12
	exitGuestFault  = 13
	exitTimeout     = 14
	exitQuit        = 15

	// Of qenex run PROGRAM, as of docker run and timeout: every other code is the program's own.
	exitProgramTimeout = 124
	exitNative         = 125
	exitNotExecutable  = 126
	exitNotFound       = 127

	exitSignal = 128
)

// exitCodes is the table of --help and of the manual page.
var exitCodes = []struct {
	code string
	what string
}{
	{"0", "the guest powered off, or the command did its work, or the machine runs in the background"},
	{"1", "QENEX itself failed: an error of the host system or a bug"},
	{"2", "unknown command, flag or bad flag value"},
	{"3", "bad input: no kernel, broken file, guest too small, settings that do not fit"},
	{"4", "this host cannot run guests: no /dev/kvm, no permission, something missing"},
	{"10", "the guest rebooted (with --on-reboot exit)"},
	{"11", "the guest's kernel panicked"},
	{"12", "the guest triple-faulted"},
	{"13", "a virtual CPU could not go on: an instruction that cannot be run, a state that KVM refuses"},
	{"14", "the time given with --timeout was over, of a machine"},
	{"15", "Ctrl-A x was typed"},
	{"124", "qenex run PROGRAM or --image: the time given with --timeout was over"},
	{"125", "qenex run PROGRAM or --image, qenex exec: QENEX failed, or cannot do what was asked, instead of 1 to 4; or the guest ended before the program"},
	{"126", "the same: PROGRAM was found and cannot be run"},
	{"127", "the same: there is no PROGRAM"},
	{"128+N", "ended by signal N: 130 for Ctrl-C, 143 for SIGTERM, 137 for qenex kill; any other code of a program is its own"},
}

// exitError carries a code that the error alone does not say. err may be nil: nothing is printed then.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// nativeError gives an error of qenex run PROGRAM that has no code one that no program's can be taken for.
func nativeError(err error) error {
	var e *exitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &exitError{startCode(err), err}
}

// codeOf returns the code that an error stands for.
func codeOf(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	}
	return classify(err)
}

// classify returns the code for an error that carries none.
func classify(err error) int {
	switch {
	case errors.Is(err, kvm.ErrNoDevice), errors.Is(err, kvm.ErrPermission), errors.Is(err, kvm.ErrNotKVM):
		return exitHost
	case vmm.IsConfigError(err):
		return exitInput
	}
	return exitFailure
}

// outcomeCode returns the code for how a machine ended.
func outcomeCode(o vmm.Outcome) int {
	switch o.Cause {
	case vmm.PowerOff:
		return exitOK
	case vmm.Reboot:
		return exitReboot
	case vmm.Panic:
		return exitPanic
	case vmm.TripleFault:
		return exitTripleFault
	case vmm.GuestFault:
		return exitGuestFault
	}
	return exitFailure
}

// oneLine joins the lines of an error, such as errors.Join makes, into one.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func printExitCodes(w io.Writer) {
	fmt.Fprintln(w, "\nExit codes:")
	for _, e := range exitCodes {
		fmt.Fprintf(w, "  %-6s %s\n", e.code, e.what)
	}
}

// helpWithExitCodes prints kong's help and the table of exit codes.
func helpWithExitCodes(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	printExitCodes(ctx.Stdout)
	return nil
}
