package apply

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/internal/process"
	"golang.org/x/sys/unix"
)

const (
	greeting  = "qenex scheduling guard\n" // what a guard says when it listens
	guardWait = 10 * time.Second           // for the greeting, and for a journal that is not read
	maxEntry  = 1 << 20                    // bytes of one line of the journal
)

// entry is one line of the journal; one of its fields is set.
type entry struct {
	Kernel  *kernel     `json:"kernel,omitempty"` // the first line
	Record  *record     `json:"record,omitempty"`
	Forget  *process.ID `json:"forget,omitempty"` // a thread that has ended
	Group   *group      `json:"group,omitempty"`
	Removed string      `json:"removed,omitempty"` // a group
	Done    bool        `json:"done,omitempty"`    // all is restored
}

// note enters a line.
func (l *ledger) note(e entry) {
	switch {
	case e.Kernel != nil:
		l.kernel = *e.Kernel
		l.Groups.proc, l.Groups.files = "/proc", osFiles{}
	case e.Record != nil:
		r := *e.Record
		l.records[r.Thread] = &r
	case e.Group != nil:
		l.groups[e.Group.Dir] = *e.Group
	case e.Forget != nil:
		delete(l.records, *e.Forget)
	case e.Removed != "":
		delete(l.groups, e.Removed)
	case e.Done:
		l.clear()
	}
}

// Guard reads the journal of an [Applier] from r, normally its standard input, until it ends, and then restores all that the applier has not.
// It is the whole of what the command in [Options.Guard] does: from here on the process ignores SIGINT, SIGHUP and SIGTERM.
func Guard(r io.Reader) error {
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGTERM)
	if w, ok := r.(io.Writer); ok {
		if _, err := io.WriteString(w, greeting); err != nil {
			return fmt.Errorf("greeting the applier: %w", err)
		}
	}
	return follow(r)
}

// follow reads a journal and restores what is to be restored at its end.
func follow(r io.Reader) error {
	l := ledger{}
	l.clear()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEntry)
	var bad error
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			bad = fmt.Errorf("line %.80q of the journal: %w", lines.Text(), err) // the last one may be cut off: what it says was not done
			continue
		}
		l.note(e)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, unix.ECONNRESET) {
		bad = errors.Join(bad, fmt.Errorf("reading the journal: %w", err))
	}
	if len(l.records)+len(l.groups) == 0 {
		return bad
	}
	_, err := l.restore()
	return errors.Join(bad, err)
}

// guard is the applier's side of a guard process.
type guard struct {
	cmd  *exec.Cmd
	pipe *os.File
	err  error // a journal that failed once is not written any more
}

// startGuard starts a command line in a session of its own, so that a terminal's signals do not reach it, and waits for its greeting.
func startGuard(argv []string) (*guard, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket pair for the guard: %w", err)
	}
	mine, its := os.NewFile(uintptr(fds[0]), "journal"), os.NewFile(uintptr(fds[1]), "journal")
	cmd := exec.Command(argv[0], argv[1:]...)
	var said strings.Builder
	cmd.Stdin, cmd.Stderr = its, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	its.Close()
	if err != nil {
		mine.Close()
		return nil, fmt.Errorf("starting the guard %q: %w", argv, err)
	}
	hello := make([]byte, len(greeting))
	err = mine.SetDeadline(time.Now().Add(guardWait))
	if err == nil {
		_, err = io.ReadFull(mine, hello)
	}
	if err == nil && string(hello) != greeting {
		err = fmt.Errorf("it says %q", hello)
	}
	if err != nil {
		mine.Close()
		cmd.Process.Kill() // it has no journal: nothing is lost
		return nil, fmt.Errorf("%q is no guard: %w %.200s", argv, errors.Join(err, cmd.Wait()), said.String())
	}
	return &guard{cmd: cmd, pipe: mine}, nil
}

// write adds a line to the journal. After an error nothing may be changed any more.
func (g *guard) write(e entry) error {
	if g == nil || g.err != nil {
		return g.failed()
	}
	line, err := json.Marshal(e)
	if err == nil {
		err = g.pipe.SetWriteDeadline(time.Now().Add(guardWait))
	}
	if err == nil {
		_, err = g.pipe.Write(append(line, '\n'))
	}
	if err != nil {
		g.err = fmt.Errorf("the guard, process %d, does not listen any more: %w", g.cmd.Process.Pid, err)
	}
	return g.err
}

func (g *guard) failed() error {
	if g == nil {
		return nil
	}
	return g.err
}

// close ends the journal and waits for the guard to end.
func (g *guard) close() error {
	if g == nil {
		return nil
	}
	g.pipe.Close()
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("the guard: %w", err)
	}
	return nil
}
