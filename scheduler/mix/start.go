package mix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Programs are what a mix is started with.
type Programs struct {
	Qenex string   // the command whose "run" starts a guest
	Load  []string // in the guest, what calls Load: a path that the guest sees, and the arguments before Load's own
}

// Running are the guests of a mix, up, waiting for Go. Close must be called.
type Running struct {
	Mix    Mix
	PIDs   []int // of the guests, in the mix's order
	length time.Duration
	dir    string // of the shared page
	guests []*guest
}

type guest struct {
	command *exec.Cmd
	start   *os.File // where the start signal is written
	ready   chan struct{}
	once    sync.Once
	mu      sync.Mutex
	output  bytes.Buffer // protected by mu, at most mostOutput bytes
	done    chan struct{}
	err     error // set before done is closed
}

// Write takes what the guest prints on standard error, in pieces that may end anywhere.
func (g *guest) Write(text []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.output.Write(text[:min(len(text), mostOutput-g.output.Len())])
	if bytes.Contains(g.output.Bytes(), []byte(readyLine+"\n")) {
		g.once.Do(func() { close(g.ready) })
	}
	return len(text), nil
}

func (g *guest) said() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return bytes.Clone(g.output.Bytes())
}

// Start starts the guests of a mix, which will work for length, and returns when all are ready. The end of ctx kills them; if this
// process is killed they end by themselves: their standard input does, or their time.
func Start(ctx context.Context, m Mix, p Programs, length time.Duration) (_ *Running, err error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if length <= 0 || length > mostLength {
		return nil, fmt.Errorf("mix %s: length %v: it is more than 0, at most %v", m.Name, length, mostLength)
	}
	dir, err := os.MkdirTemp(shared(), "qenex-mix-")
	if err != nil {
		return nil, fmt.Errorf("mix %s: directory for the shared page: %w", m.Name, err)
	}
	r := &Running{Mix: m, length: length, dir: dir}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, "page"), make([]byte, pageSize), 0o600); err != nil {
		return nil, fmt.Errorf("mix %s: shared page: %w", m.Name, err)
	}
	if err := r.spawn(ctx, p); err != nil {
		return nil, err
	}
	for i, g := range r.guests {
		select {
		case <-g.ready:
		case <-g.done:
			return nil, fmt.Errorf("mix %s: guest %s ended at once: %w: %s", m.Name, m.Guests[i].Name, g.err, g.said())
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return r, nil
}

// shared is where files are memory, so that a shared page is never written to a disk.
func shared() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// spawn starts the processes. A guest's standard input is a pipe, into which the host writes the start signal; a peer writes into it too.
func (r *Running) spawn(ctx context.Context, p Programs) error {
	n := len(r.Mix.Guests)
	in, out := make([]*os.File, n), make([]*os.File, n) // a nil file's Close does nothing but return an error
	defer func() {
		for i := range in {
			in[i].Close()
			if i >= len(r.guests) {
				out[i].Close()
			}
		}
	}()
	for i := range in {
		var err error
		if in[i], out[i], err = os.Pipe(); err != nil {
			return fmt.Errorf("mix %s: pipe: %w", r.Mix.Name, err)
		}
	}
	for i, declared := range r.Mix.Guests {
		g := &guest{start: out[i], ready: make(chan struct{}), done: make(chan struct{})}
		args := append([]string{"run", "--mount", r.dir + ":/shared", "-e", "GODEBUG=asyncpreemptoff=1", "--"}, p.Load...)
		args = append(args, "kind="+string(declared.Kind), "length="+r.length.String(), "page=/shared/page", "gang="+strconv.Itoa(declared.Gang))
		c := exec.CommandContext(ctx, p.Qenex, args...)
		c.Stdin, c.Stderr = in[i], g
		if declared.Peer >= 0 {
			c.Stdout = out[declared.Peer]
		}
		c.WaitDelay = 5 * time.Second
		if err := c.Start(); err != nil {
			return fmt.Errorf("mix %s: start guest %s: %w", r.Mix.Name, declared.Name, err)
		}
		g.command = c
		r.guests = append(r.guests, g)
		r.PIDs = append(r.PIDs, c.Process.Pid)
		go func() {
			g.err = c.Wait()
			close(g.done)
		}()
	}
	return nil
}

// Go gives the start signal, the answering ones of pairs first, so that their peers find them waiting.
func (r *Running) Go() error {
	var failed []error
	for _, first := range []bool{true, false} {
		for i, g := range r.guests {
			if (r.Mix.Guests[i].Kind == Pong) != first {
				continue
			}
			_, err := g.start.Write([]byte{startByte})
			if err = errors.Join(err, g.start.Close()); err != nil {
				failed = append(failed, fmt.Errorf("start signal for %s: %w; it said %q", r.Mix.Guests[i].Name, err, g.said()))
			}
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("mix %s: %w", r.Mix.Name, err)
	}
	return nil
}

// Wait waits for the guests to end and returns their reports, in the mix's order.
func (r *Running) Wait() ([]*Report, error) {
	var reports []*Report
	var failed []error
	for i, g := range r.guests {
		<-g.done
		report, err := (*Report)(nil), g.err
		if err == nil {
			report, err = parseReport(g.said(), r.Mix.Guests[i].Kind, r.length)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("mix %s: guest %s: %w", r.Mix.Name, r.Mix.Guests[i].Name, err))
		}
		reports = append(reports, report)
	}
	return reports, errors.Join(failed...)
}

// Close kills what still runs, waits for it and removes the shared page.
func (r *Running) Close() error {
	for _, g := range r.guests {
		g.start.Close()
		g.command.Process.Kill()
		<-g.done
	}
	return os.RemoveAll(r.dir)
}
