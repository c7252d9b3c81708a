//go:build !kernelonly

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	planner "github.com/qenex/qenex-kernel/scheduler/plan"
)

// schedVerbs are the commands of the scheduler.
type schedVerbs struct {
	Sched schedCmd `cmd:"" group:"machines" help:"Place virtual CPUs on this host's CPUs by annealing; solve, simulate and measure."`
}

type schedCmd struct {
	Plan     schedPlanCmd     `cmd:"" help:"Say on which CPU every vCPU should run, and what other methods say."`
	Apply    schedApplyCmd    `cmd:"" help:"Place the running guests, measure, and take back what does not pay."`
	Watch    schedWatchCmd    `cmd:"" help:"Do that, and show it."`
	Simulate schedSimulateCmd `cmd:"" help:"Play traces of vCPUs on hosts that do not exist, under all policies."`
	Bench    schedBenchCmd    `cmd:"" help:"Measure mixes of native guests on this machine under all policies."`
	Solve    schedSolveCmd    `cmd:"" help:"Solve a max-cut or QUBO file."`
	QASM     schedQASMCmd     `cmd:"" name:"qasm" help:"Print the quantum circuit (QAOA, OpenQASM 3) of a small problem, or say what hardware measured with it."`
	Guard    schedGuardCmd    `cmd:"" hidden:"" help:"Put back what sched apply changed, when it is gone."`
	Load     schedLoadCmd     `cmd:"" hidden:"" help:"The program in the guests of sched bench."`
}

// seedFlag makes what is random repeatable.
type seedFlag struct {
	Seed uint64 `default:"1" placeholder:"N" help:"Seed of all that is random (default: ${default}). As in: --seed 7"`
}

// maxProblem is the size of the largest problem file, in bytes.
const maxProblem = 1 << 30

// instance is a problem of a file.
type instance struct {
	model   *anneal.Model
	cut     bool             // the file is a max-cut problem
	vartype anneal.Vartype   // of any other
	problem *planner.Problem // nil: it is no placement
	encoded planner.Encoding // of a placement
}

// unit is what the instance's values are called.
func (in *instance) unit() string {
	if in.cut {
		return "cut"
	}
	return "energy"
}

// value is the cut of a state, or the energy.
func (in *instance) value(s []int8) float64 {
	if in.cut {
		return in.model.Cut(s)
	}
	return in.model.Energy(s)
}

// text is a state as the file's variables have it: a line each.
func (in *instance) text(s []int8) string {
	var b strings.Builder
	for _, v := range s {
		if in.vartype == anneal.Binary {
			v = (1 + v) / 2
		}
		fmt.Fprintln(&b, v)
	}
	return b.String()
}

// openProblem opens a file, or standard input for "-", and returns it with its first line that has something on it.
func openProblem(name string) (r *bufio.Reader, first string, closer func() error, err error) {
	f, closer := os.Stdin, func() error { return nil }
	if name != "-" {
		if f, err = os.Open(name); err != nil {
			return nil, "", nil, inputError("%w", err)
		}
		closer = f.Close
	}
	r = bufio.NewReaderSize(&limitedReader{f, maxProblem}, 64<<10)
	head, err := r.Peek(16 << 10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", nil, errors.Join(inputError("reading %s: %w", name, err), closer())
	}
	for line := range bytes.Lines(head) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return r, string(line), closer, nil
		}
	}
	return r, "", closer, nil
}

// limitedReader is a file of which more than so many bytes are an error.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, fmt.Errorf("it has more than %d bytes", maxProblem)
	}
	return n, err
}

// readInstance reads a rudy or COO file: the first line of a rudy file has two words.
func readInstance(r io.Reader, first string) (in instance, err error) {
	if in.cut = first == "" || !strings.HasPrefix(first, "#") && len(strings.Fields(first)) != 3; in.cut {
		in.model, err = anneal.ReadRudy(r)
	} else {
		in.model, in.vartype, err = anneal.ReadCOO(r)
	}
	return in, err
}

// progress shows on a terminal's standard error how much of a budget is used, until stop is called.
func progress(ctx context.Context, what string, budget time.Duration) (stop func()) {
	if !isTerminal(2) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		begun := time.Now()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-ctx.Done():
				if shown {
					fmt.Fprint(os.Stderr, "\r\x1b[K")
				}
				return
			case now := <-tick.C:
				shown = true
				text := now.Sub(begun).Round(time.Second).String()
				if budget > 0 {
					text += " of " + budget.String()
				}
				fmt.Fprintf(os.Stderr, "\r\x1b[Kqenex: %s: %s; Ctrl-C ends it with what is found", what, text)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// untilSignal is a context that ends when the user, or the system, says so. Another signal then does what it does to any program.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		select {
		case s := <-ch:
			cancel(&exitError{code: exitSignal + int(s.(syscall.Signal))})
		case <-ctx.Done():
		}
		signal.Stop(ch)
	}()
	return ctx, func() { cancel(nil) }
}

// cutShort is the end of a command that a signal ended and that has printed what it had by then.
func cutShort(ctx context.Context) error {
	if e, ok := errors.AsType[*exitError](context.Cause(ctx)); ok {
		return e
	}
	return nil
}

// number writes a value in full.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
