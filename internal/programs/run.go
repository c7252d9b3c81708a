package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is one run of a program, native or in a guest.
type Program struct {
	Args  []string
	Dir   string   // working directory
	Env   []string // the whole environment; nil is Env
	Stdin string
	Limit time.Duration // after which it is killed; 0 is 5 minutes
	Flags []string      // of qenex run; nothing to a native run
	Files []*os.File    // handed down as descriptors 3 and up
}

// Env is the environment that programs get unless they ask for another: the same everywhere.
var Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/nonexistent", "LC_ALL=C", "TZ=UTC", "TERM=dumb"}

// Result is what a program left. It is comparable.
type Result struct {
	Stdout, Stderr string
	Code           int  // exit code; 128 + n when it died by signal n
	Late           bool // killed because it exceeded its limit
	Left           int  // processes of its group that were there when it had ended; they are killed
}

// String writes the result for people.
func (r Result) String() string {
	late := ""
	if r.Late {
		late = ", killed after its time"
	}
	if r.Left > 0 {
		late += fmt.Sprintf(", %d processes left behind", r.Left)
	}
	return fmt.Sprintf("exit code %d%s\nstdout: %s\nstderr: %s", r.Code, late, short(r.Stdout), short(r.Stderr))
}

func short(s string) string {
	if len(s) > 2000 {
		return fmt.Sprintf("%q... (%d bytes)", s[:2000], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// difference says what a guest's result has that the native one has not, or nothing if they are equal.
func difference(native, guest Result) string {
	var d []string
	for _, s := range []struct{ name, native, guest string }{{"stdout", native.Stdout, guest.Stdout}, {"stderr", native.Stderr, guest.Stderr}} {
		if s.native == s.guest {
			continue
		}
		n, g := strings.SplitAfter(s.native, "\n"), strings.SplitAfter(s.guest, "\n")
		i := 0
		for i < len(n)-1 && i < len(g)-1 && n[i] == g[i] {
			i++
		}
		d = append(d, fmt.Sprintf("%s, line %d: native %s, guest %s", s.name, i+1, short(n[i]), short(g[i])))
	}
	if native.Code != guest.Code {
		d = append(d, fmt.Sprintf("exit code: native %d, guest %d", native.Code, guest.Code))
	}
	if native.Late != guest.Late || native.Left != guest.Left {
		d = append(d, fmt.Sprintf("native: %v, guest: %v", native, guest))
	}
	return strings.Join(d, "; ")
}

// Runner starts programs in one way.
type Runner struct {
	Name string
	argv func(Program) []string
}

// Native runs programs on the host.
func Native() Runner {
	return Runner{"native", func(p Program) []string { return p.Args }}
}

// Qenex runs programs by qenex run, with the program at path. They get this environment and working directory as qenex
// passes them on by itself; what else a program needs is for Program.Flags.
func Qenex(path string) Runner {
	return Runner{"qenex", func(p Program) []string {
		return append(append([]string{path, "run"}, p.Flags...), append([]string{"--"}, p.Args...)...)
	}}
}

// Command runs programs as arguments of another command, such as "runsc do"; Program.Flags are lost on it.
func Command(name string, argv ...string) Runner {
	return Runner{name, func(p Program) []string { return append(argv[:len(argv):len(argv)], p.Args...) }}
}

func (p Program) env() []string {
	if p.Env == nil {
		return Env
	}
	return p.Env
}

// Run runs the program to its end and kills what it left of its process group. An error says that it could not be
// started.
func (r Runner) Run(ctx context.Context, p Program) (Result, error) {
	if len(p.Args) == 0 {
		return Result{}, errors.New("run: no program named")
	}
	limit := p.Limit
	if limit == 0 {
		limit = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	argv := r.argv(p)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = p.env(), p.Dir, p.Files
	if !strings.Contains(argv[0], "/") {
		path, err := lookPath(argv[0], cmd.Env)
		if err != nil {
			return Result{}, fmt.Errorf("run %s: %w", argv[0], err)
		}
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Stdin = strings.NewReader(p.Stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("run %s: %w", argv[0], err)
	}
	err := cmd.Wait()
	left, scanErr := group(cmd.Process.Pid)
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	res := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: -1, Late: ctx.Err() != nil, Left: left}
	if scanErr != nil {
		return res, fmt.Errorf("look for processes that %s left: %w", argv[0], scanErr)
	}
	var exit *exec.ExitError
	switch {
	case cmd.ProcessState == nil:
		return res, fmt.Errorf("run %s: %w", argv[0], err)
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && !res.Late:
		return res, fmt.Errorf("run %s: %w", argv[0], err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	res.Code = status.ExitStatus()
	if status.Signaled() {
		res.Code = 128 + int(status.Signal())
	}
	return res, nil
}

// lookPath finds a program in the PATH of env, not in our own.
func lookPath(name string, env []string) (string, error) {
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			path := dir + "/" + name
			if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() && s.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// Has says whether a program is in the PATH of Env.
func Has(name string) bool {
	_, err := lookPath(name, Env)
	return err == nil
}
