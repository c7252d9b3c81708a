package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// experiment is one kind of run and the rows that it gives numbers for.
type experiment struct {
	name    string
	runs    int
	rows    []Row                                                // without cells
	measure func(ctx context.Context, p peer) ([]float64, error) // one value for each row
}

// run measures the peers in turn, so that a change of the host's mood hits them all. A peer that fails once is not
// tried again.
func (e *experiment) run(ctx context.Context, peers []peer, progress io.Writer) []Row {
	values := make([][][]float64, len(peers)) // by peer, row, run
	why := make([]string, len(peers))
	for i, p := range peers {
		values[i] = make([][]float64, len(e.rows))
		why[i] = p.missing
	}
	for n := range e.runs {
		for i, p := range peers {
			if why[i] != "" || ctx.Err() != nil {
				continue
			}
			v, err := e.measure(ctx, p)
			if err != nil {
				why[i] = err.Error()
				fmt.Fprintf(progress, "bench: %s, run %d, %s: %v\n", e.name, n+1, p.name, err)
				continue
			}
			fmt.Fprintf(progress, "bench: %s, run %d, %s: %.4g\n", e.name, n+1, p.name, v)
			for r := range e.rows {
				values[i][r] = append(values[i][r], v[r])
			}
		}
	}
	for r := range e.rows {
		row := &e.rows[r]
		row.Experiment = e.name
		for i, p := range peers {
			row.Cells = append(row.Cells, cell(p.name, values[i][r], why[i]))
		}
		row.compare()
	}
	return e.rows
}

// meter starts guests and measures them.
type meter struct {
	files artefacts
	soft  bool
	limit time.Duration
	exits int
}

func (m *meter) experiments(o *Options) []experiment {
	line := "same kernel and initramfs"
	if m.soft {
		line = "same kernel, its INT3 self-test taken out for the peers' sake, and same initramfs"
	}
	return []experiment{
		{"start", o.Runs, []Row{
			{Title: "process start to first guest instruction (firmware, where there is one, included)", Unit: "ms", Goal: "1/3 of QEMU or less"},
		}, m.start},
		{"ports", o.Runs, []Row{{Title: "exits through a port without a device (OUT)", Unit: "1/s", More: true}}, m.rate(m.files.ports)},
		{"mmio", o.Runs, []Row{{Title: "exits through an MMIO address without a device (read)", Unit: "1/s", More: true}}, m.rate(m.files.mmio)},
		{"boot", o.BootRuns, []Row{
			{Title: "process start to first user-space instruction of Linux (" + line + ")", Unit: "ms", Goal: "0.9 of QEMU or less"},
			{Title: "resident memory beyond guest RAM, after that boot", Unit: "MiB", Goal: "under 16 MiB, half of QEMU or less"},
		}, m.boot},
		{"user", o.BootRuns, []Row{
			{Title: "process start to first user-space line of Linux (kernel as built)", Unit: "ms", Goal: "0.9 of QEMU or less"},
		}, m.user},
		{"large", o.BootRuns, []Row{
			{Title: "process start to first guest instruction with 4 GiB", Unit: "ms"},
			{Title: "growth of resident memory, 256 MiB to 4 GiB, guest RAM included", Unit: "MiB", Goal: "under 1 MiB"},
		}, m.large},
	}
}

func (m *meter) launch(ctx context.Context, p peer, j job) (*process, error) {
	return start(ctx, append([]string{p.path}, p.args(j)...), p.fatal)
}

// first starts the test guest with ram bytes and measures to its first mark.
func (m *meter) first(ctx context.Context, p peer, ram uint64) (time.Duration, resident, error) {
	q, err := m.launch(ctx, p, job{kernel: m.files.first, memory: ram})
	if err != nil {
		return 0, resident{}, err
	}
	defer q.stop()
	at, err := q.await([]byte{markFirst}, m.limit)
	if err != nil {
		return 0, resident{}, fmt.Errorf("test guest: %w", err)
	}
	r, err := residentOf(q.cmd.Process.Pid, ram)
	return at.Sub(q.started), r, err
}

func (m *meter) start(ctx context.Context, p peer) ([]float64, error) {
	d, _, err := m.first(ctx, p, memory)
	return []float64{ms(d)}, err
}

func (m *meter) large(ctx context.Context, p peer) ([]float64, error) {
	_, small, err := m.first(ctx, p, memory)
	if err != nil {
		return nil, err
	}
	d, r, err := m.first(ctx, p, large)
	return []float64{ms(d), (float64(r.total) - float64(small.total)) / mib}, err
}

// rate measures the exits per second of a guest that makes m.exits between its marks.
func (m *meter) rate(kernel string) func(context.Context, peer) ([]float64, error) {
	return func(ctx context.Context, p peer) ([]float64, error) {
		q, err := m.launch(ctx, p, job{kernel: kernel, memory: memory})
		if err != nil {
			return nil, err
		}
		defer q.stop()
		from, err := q.await([]byte{markFirst}, m.limit)
		if err != nil {
			return nil, fmt.Errorf("test guest: %w", err)
		}
		to, err := q.await([]byte{markLast}, m.limit)
		if err != nil {
			return nil, fmt.Errorf("test guest in its loop: %w", err)
		}
		d := to.Sub(from)
		if d < time.Millisecond {
			return nil, fmt.Errorf("%d exits took %v: too few to measure, or output was held back", m.exits, d)
		}
		return []float64{float64(m.exits) / d.Seconds()}, nil
	}
}

var errNoGuest = errors.New("not run: no Linux guest here; guest/build.sh lean tiny makes it")

// linux boots a kernel until line and measures to it; then it calls look, unless nil, with the process id.
func (m *meter) linux(ctx context.Context, p peer, kernel, initrd, line string, look func(pid int) error) (time.Duration, error) {
	if kernel == "" || initrd == "" {
		return 0, errNoGuest
	}
	j := job{kernel: kernel, initrd: initrd, cmdline: cmdline, memory: memory}
	if m.soft {
		j.cmdline = softCmdline
	}
	q, err := m.launch(ctx, p, j)
	if err != nil {
		return 0, err
	}
	defer q.stop()
	at, err := q.await([]byte(line), m.limit)
	if err != nil {
		return 0, fmt.Errorf("does not boot: %w", err)
	}
	if look != nil {
		err = look(q.cmd.Process.Pid)
	}
	return at.Sub(q.started), err
}

func (m *meter) boot(ctx context.Context, p peer) ([]float64, error) {
	var r resident
	d, err := m.linux(ctx, p, m.files.patched, m.files.trap, trapLine, func(pid int) (err error) {
		r, err = residentOf(pid, memory)
		return err
	})
	return []float64{ms(d), float64(r.own) / mib}, err
}

func (m *meter) user(ctx context.Context, p peer) ([]float64, error) {
	d, err := m.linux(ctx, p, m.files.kernel, m.files.user, userLine, nil)
	return []float64{ms(d)}, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
