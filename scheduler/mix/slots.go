package mix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Slots is strict co-scheduling from user space: members of a gang are on different CPUs, and time is cut into slots, one for each gang and
// one for all who only compute, as long as their number makes fair. Whoever is busy out of its slot gets what nobody else wants: its cgroup is an
// idle one then, for which one write is enough, however many threads there are. Who wakes up briefly is left alone.
type Slots struct {
	Length time.Duration // of a gang's slot
}

// cpuGroups is where the cgroups with a cpu controller are, version 1.
const cpuGroups = "/sys/fs/cgroup/cpu"

// Name is "gang".
func (Slots) Name() string { return "gang" }

// Begin makes the cgroups and starts the slots.
func (s Slots) Begin(ctx context.Context, r *Running) (func() error, error) {
	h, err := host.This()
	if err != nil {
		return nil, err
	}
	gangs, hogs := 0, 0
	for _, g := range r.Mix.Guests {
		gangs = max(gangs, g.Gang)
		if g.Kind == Hog {
			hogs++
		}
	}
	if gangs == 0 || gangs == 1 && hogs == 0 {
		return kernel{}.Begin(ctx, r) // nobody to take turns with
	}
	pl, err := r.Mix.Problem(h).Gangs()
	if err != nil {
		return nil, err
	}
	settings := affinities(h, pl)
	var turns [][]group // the gangs', and then that of the hogs
	var lengths []time.Duration
	for range gangs {
		turns, lengths = append(turns, nil), append(lengths, s.Length)
	}
	if hogs > 0 {
		turns, lengths = append(turns, nil), append(lengths, s.Length*time.Duration(hogs)/time.Duration(len(h.CPUs)))
	}
	var made []group
	for i, g := range r.Mix.Guests {
		if !g.Busy() {
			settings[i] = plan.Setting{}
			continue
		}
		c, err := makeGroup(r.PIDs[i])
		if err != nil {
			return nil, errors.Join(err, removeGroups(made))
		}
		made = append(made, c)
		turn := gangs
		if g.Gang > 0 {
			turn = g.Gang - 1
		}
		turns[turn] = append(turns[turn], c)
	}
	undo, err := r.settle(settings)
	if err != nil {
		return nil, errors.Join(err, removeGroups(made))
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- takeTurns(turns, lengths, stop) }()
	return func() error {
		close(stop)
		return errors.Join(<-stopped, undo(), removeGroups(made))
	}, nil
}

// takeTurns gives each of turns its slot, until stop is closed.
func takeTurns(turns [][]group, lengths []time.Duration, stop <-chan struct{}) error {
	for i := range turns {
		if err := idle(turns[i], i > 0); err != nil {
			return err
		}
	}
	due := time.Now()
	for now := 0; ; {
		due = due.Add(lengths[now])
		select {
		case <-time.After(time.Until(due)):
		case <-stop:
			return nil
		}
		next := (now + 1) % len(turns)
		if err := errors.Join(idle(turns[next], false), idle(turns[now], true)); err != nil {
			return err
		}
		now = next
	}
}

// group is a cgroup with one guest.
type group struct {
	dir, from string // from: where the guest was
	pid       int
}

func makeGroup(pid int) (group, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return group{}, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "cpu" {
			continue
		}
		g := group{from: filepath.Join(cpuGroups, filepath.Clean("/"+fields[2])), pid: pid}
		g.dir = filepath.Join(g.from, "qenex-mix-"+strconv.Itoa(pid))
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return group{}, fmt.Errorf("cgroup for process %d: %w", pid, err)
		}
		if err := g.enter(g.dir); err != nil {
			return group{}, errors.Join(err, os.Remove(g.dir))
		}
		return g, nil
	}
	return group{}, fmt.Errorf("slots for gangs need a cpu controller of cgroup version 1 with cpu.idle at %s, and there is none", cpuGroups)
}

func (g group) enter(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(g.pid)), 0o644); err != nil {
		return fmt.Errorf("put process %d into cgroup %s: %w", g.pid, dir, err)
	}
	return nil
}

// idle sets whether the groups only get what nobody else wants.
func idle(groups []group, yes bool) error {
	value := []byte{'0'}
	if yes {
		value = []byte{'1'}
	}
	for _, g := range groups {
		if err := os.WriteFile(filepath.Join(g.dir, "cpu.idle"), value, 0o644); err != nil {
			return fmt.Errorf("turn of process %d: %w", g.pid, err)
		}
	}
	return nil
}

// removeGroups removes the groups; a guest that still runs goes back where it was.
func removeGroups(groups []group) error {
	var failed []error
	for _, g := range groups {
		_ = g.enter(g.from) // it ended: the usual case
		if err := os.Remove(g.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("remove the cgroup of process %d: %w", g.pid, err))
		}
	}
	return errors.Join(failed...)
}
