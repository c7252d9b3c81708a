package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// Options says what to measure. The zero value measures everything.
type Options struct {
	Qenex string // program measured as QENEX; "" is this program
	QEMU  string // "" is qemu-system-x86_64
	Gokvm string // "" is gokvm
	Runsc string // "" is one of the version that Qenex contains, built by the Go command into the cache
	Guest string // directory of the artefacts of guest/build.sh; "" is where that puts them

	Peers       []string // of PeerNames; none is all
	Experiments []string // of ExperimentNames; none is all

	Runs     int           // of a test guest, for each peer; 0 is 7
	BootRuns int           // of a Linux guest or one of 4 GiB, for each peer; 0 is 3
	Exits    int           // exits that an exit-rate guest makes; 0 is 50000
	Limit    time.Duration // for one process to get where it should; 0 is 2 minutes

	JSON     bool      // write the table as JSON instead of Markdown
	Progress io.Writer // a line for each experiment and peer; nil is none
}

// ExperimentNames are the values of Options.Experiments.
// "native" is all that begins with it: Linux programs as they are run by the host, by QENEX's native guests, by gVisor and
// in a Linux guest.
var ExperimentNames = []string{
	"start", "ports", "mmio", "boot", "user", "large", "disk", "net", "vsock", "exec", "idle", "native", "native.hello", "native.getpid", "native.touch", "native.pipe",
	"native.forks", "native.python", "native.gcc", "native.sha256", "native.threads", "native.idle", "native.switch",
}

// nativePrefix begins the names of the experiments with Linux programs.
const nativePrefix = "native."

const (
	mib    = 1 << 20
	memory = 256 * mib  // of every guest but the large one
	large  = 4096 * mib // of the large one
)

func (o *Options) complete() error {
	if o.Qenex == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Qenex = self
	}
	if o.Guest == "" {
		cache := os.Getenv("QENEX_CACHE")
		if cache == "" {
			dir, err := os.UserCacheDir()
			if err != nil {
				return fmt.Errorf("no cache directory to look for guests in: %w", err)
			}
			cache = filepath.Join(dir, "qenex")
		}
		o.Guest = filepath.Join(cache, "guest")
	}
	set(&o.QEMU, "qemu-system-x86_64")
	set(&o.Gokvm, "gokvm")
	set(&o.Runs, 7)
	set(&o.BootRuns, 3)
	set(&o.Exits, 50000)
	set(&o.Limit, 2*time.Minute)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	for _, e := range o.Experiments {
		if !slices.Contains(ExperimentNames, e) {
			return fmt.Errorf("no experiment is called %q; there are %s", e, strings.Join(ExperimentNames, ", "))
		}
	}
	if o.Runs < 1 || o.BootRuns < 1 || o.Exits < 1 || o.Exits > 1<<31 || o.Limit <= 0 {
		return fmt.Errorf("runs %d, boot runs %d, exits %d and limit %v must be positive, exits at most 2^31", o.Runs, o.BootRuns, o.Exits, o.Limit)
	}
	return nil
}

func set[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Run measures, writes the table to w and returns it. A peer that fails has the reason in its cells; an error is
// about the bench itself: bad options, no KVM, ctx ended.
func Run(ctx context.Context, o Options, w io.Writer) (Table, error) {
	if err := o.complete(); err != nil {
		return Table{}, fmt.Errorf("bench: %w", err)
	}
	quick, err := probeKVM()
	if err != nil {
		return Table{}, fmt.Errorf("bench: %w", err)
	}
	dir, err := os.MkdirTemp("", "qenex-bench-")
	if err != nil {
		return Table{}, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	files, err := prepare(dir, o.Guest, uint32(o.Exits), quick.SoftwareKVM)
	if err != nil {
		return Table{}, fmt.Errorf("bench: prepare guests: %w", err)
	}
	peers, err := o.peers(quick.SoftwareKVM)
	if err != nil {
		return Table{}, fmt.Errorf("bench: %w", err)
	}
	t := Table{Host: describeHost(ctx, quick.SoftwareKVM, peers)}
	m := &meter{files: files, soft: quick.SoftwareKVM, limit: o.Limit, exits: o.Exits}
	if err := t.measure(ctx, &o, append(m.experiments(&o), m.deviceExperiments(&o, dir)...), peers); err != nil {
		return t, err
	}
	if o.wantsPrograms() {
		experiments, runners, err := m.programExperiments(ctx, &o, dir)
		if err != nil {
			return t, fmt.Errorf("bench: prepare programs: %w", err)
		}
		var peers []peer
		for _, r := range runners {
			peers = append(peers, r.peer)
		}
		t.Host.noteVersions(ctx, peers)
		if err := t.measure(ctx, &o, experiments, peers); err != nil {
			return t, err
		}
	}
	t.Host.LoadAfter = loadAverage()
	if o.JSON {
		return t, t.WriteJSON(w)
	}
	return t, t.WriteMarkdown(w)
}

func (o *Options) wants(experiment string) bool {
	return len(o.Experiments) == 0 || slices.Contains(o.Experiments, experiment) ||
		strings.HasPrefix(experiment, nativePrefix) && slices.Contains(o.Experiments, "native")
}

func (o *Options) wantsPrograms() bool {
	return slices.ContainsFunc(ExperimentNames, func(e string) bool { return strings.HasPrefix(e, nativePrefix) && o.wants(e) })
}

// measure adds the rows of the experiments that are wanted.
func (t *Table) measure(ctx context.Context, o *Options, experiments []experiment, peers []peer) error {
	for _, e := range experiments {
		if !o.wants(e.name) {
			continue
		}
		t.Rows = append(t.Rows, e.run(ctx, peers, o.Progress)...)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("bench: %w", context.Cause(ctx))
		}
	}
	return nil
}

// probeKVM says what KVM this is. An undecided SYSCALL probe does not matter here.
func probeKVM() (probe.QuickResult, error) {
	sys, err := kvm.Open()
	if err != nil {
		return probe.QuickResult{}, err
	}
	defer sys.Close()
	r, err := probe.Quick(sys)
	if r.Syscall == probe.Undecided && !r.SoftwareKVM && err != nil {
		return r, err
	}
	return r, nil
}
