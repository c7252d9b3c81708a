package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// tailSize is how much of a process's output is kept to explain a failure.
const tailSize = 64 << 10

// process is a monitor that runs a guest. Its goroutine reads stderr; stdout is read by await.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	stdout  *os.File
	fatal   []fatal
	console []byte // end of what stdout has said
	rest    []byte // what came behind the last mark

	stderr sync.WaitGroup
	mu     sync.Mutex
	said   []byte // beginning of what stderr has said; protected by mu
	means  string // of the first fatal text that came; protected by mu
}

// start runs argv until ctx ends or stop is called. A text of fatal in the output
// means that the guest is lost.
func start(ctx context.Context, argv []string, fatal []fatal) (*process, error) {
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, out.Close(), outW.Close())
	}
	p := &process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), stdout: out, fatal: fatal}
	p.cmd.Stdout, p.cmd.Stderr = outW, errW
	p.started = time.Now()
	err = p.cmd.Start()
	outW.Close()
	errW.Close()
	if err != nil {
		return nil, errors.Join(err, out.Close(), errR.Close())
	}
	p.stderr.Go(func() {
		defer errR.Close()
		buf := make([]byte, 4096)
		for {
			n, err := errR.Read(buf)
			p.mu.Lock()
			p.said = append(p.said, buf[:min(n, tailSize-len(p.said))]...)
			p.mu.Unlock()
			if p.lost(p.said) {
				p.cmd.Process.Kill() // await sees the end of stdout
			}
			if err != nil {
				return
			}
		}
	})
	return p, nil
}

// lost looks for a fatal text and notes what it means.
func (p *process) lost(text []byte) bool {
	for _, f := range p.fatal {
		if bytes.Contains(text, []byte(f.text)) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.means == "" {
				p.means = f.means
			}
			return true
		}
	}
	return false
}

// await reads stdout until mark comes and returns when it did. limit is counted from the start of the process.
func (p *process) await(mark []byte, limit time.Duration) (time.Time, error) {
	if err := p.stdout.SetReadDeadline(p.started.Add(limit)); err != nil {
		return time.Time{}, err
	}
	buf := make([]byte, 4096)
	window, seen := p.rest, time.Now()
	for {
		if i := bytes.Index(window, mark); i >= 0 {
			p.rest = window[i+len(mark):]
			return seen, nil
		}
		if p.lost(p.console) {
			return time.Time{}, p.why("")
		}
		n, err := p.stdout.Read(buf)
		seen = time.Now()
		p.console = last(append(p.console, buf[:n]...), tailSize)
		window = append(last(window, len(mark)-1), buf[:n]...)
		if n > 0 {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return time.Time{}, p.why(fmt.Sprintf("nothing after %v", limit))
		}
		return time.Time{}, p.why("it ended")
	}
}

// last returns the last n bytes of b at most, in memory of their own.
func last(b []byte, n int) []byte { return bytes.Clone(b[max(0, len(b)-n):]) }

// stop ends the process and frees what it held.
func (p *process) stop() {
	p.cmd.Process.Kill()
	p.stdout.Close()
	p.cmd.Wait()
	p.stderr.Wait()
}

// why makes an error of the process's last words.
func (p *process) why(what string) error {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.means != "" {
		return errors.New(p.means)
	}
	stderr, telling1 := telling(string(p.said))
	console, telling2 := telling(string(p.console))
	if stderr != "" && (telling1 || !telling2) {
		what += "; stderr: " + stderr
	}
	if console != "" && (telling2 || !telling1) {
		what += "; console: " + console
	}
	return errors.New(what)
}

// telling picks a line: the first that speaks of an error (then it is a telling one), else the last.
func telling(text string) (line string, ok bool) {
	for l := range strings.Lines(text) {
		if l = strings.Map(printable, strings.TrimSpace(l)); l == "" {
			continue
		}
		line = l
		if s := strings.ToLower(l); strings.Contains(s, "err") || strings.Contains(s, "fail") || strings.Contains(s, "panic") {
			ok = true
			break
		}
	}
	if len(line) > 160 {
		line = line[:160] + "..."
	}
	return line, ok
}

// printable keeps ASCII and drops the rest, and what would break a table.
func printable(r rune) rune {
	if r < ' ' || r > '~' || r == '|' {
		return -1
	}
	return r
}
