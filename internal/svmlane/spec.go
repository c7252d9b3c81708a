package svmlane

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/guest/artefact"
)

// SkipEnv names the environment variable that, set to 1, lets Run skip where the lane cannot run. Otherwise Run fails.
const SkipEnv = "QENEX_NO_SVM"

// ErrUnavailable is wrapped when the lane cannot run here; the error says what is missing.
var ErrUnavailable = errors.New("the svm lane cannot run here")

// Binary is one program to run in the outer machine: a test binary made with `CGO_ENABLED=0 go test -c`.
type Binary struct {
	Name     string   // in the report; for a package's tests its import path
	Path     string   // on the host; must be statically linked
	Args     []string // as it gets them; Run adds -test.v=test2json
	Env      []string // NAME=VALUE, beside QENEX_REQUIRE_KVM=1, HOME, PATH and QENEX_CACHE=/cache
	TestData string   // host directory that the program finds as ./testdata; empty: none
}

// Spec says what to run.
type Spec struct {
	Binaries  []Binary
	Files     map[string]string // absolute path in the machine -> path on the host
	Artefacts []string          // names of guest artefacts that the programs find under $QENEX_CACHE
	Disks     []string          // paths of raw disks on the host that the programs find as DiskPath(i); what is written to them is lost
	Timeout   time.Duration     // for everything, from the start of the machine; 0: five minutes
	MemoryMiB int               // of the outer machine beside what the files take; 0: 5120
	CPUs      int               // of the outer machine; 0: 1, see defaultCPUs
}

// DiskPath is where the programs find the i-th of Spec.Disks. Debian's cloud kernel has NVMe built in, and no other disk.
func DiskPath(i int) string { return fmt.Sprintf("/dev/nvme%dn1", i) }

// Result is how one binary ended.
type Result struct {
	Name     string
	Ran      bool          // false: the machine ended before this binary did
	ExitCode int           // of the program; 128 + n when a signal n ended it
	Elapsed  time.Duration // by the host's clock
}

// defaultCPUs is 1 because QEMU 7.2's emulation of SVM on two CPUs is no faster and hung in two runs of three (both CPUs
// busy, no output). On one CPU, with the periodic tick of kernelCmdline, it did not in 15 runs. Guests inside may have
// several CPUs nevertheless.
const defaultCPUs = 1

// withDefaults fills in what the caller left out.
func (s Spec) withDefaults() Spec {
	if s.Timeout == 0 {
		s.Timeout = 5 * time.Minute
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = 5120
	}
	if s.CPUs == 0 {
		s.CPUs = defaultCPUs
	}
	return s
}

// host is what of the host the outer machine is made of.
type host struct {
	qemu, kernel, busybox, modules string
}

// findHost looks for everything the lane needs on this host.
func findHost() (h host, err error) {
	if h.qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		return h, fmt.Errorf("%w: %w; install it with: sudo apt-get install --no-install-recommends qemu-system-x86", ErrUnavailable, err)
	}
	for _, a := range []struct {
		path *string
		name string
	}{{&h.kernel, artefact.StockKernel}, {&h.busybox, artefact.Busybox}, {&h.modules, artefact.Modules}} {
		if *a.path, err = artefact.Path(a.name); err != nil {
			return h, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return h, nil
}

// envEntry is what may stand in Binary.Env: a shell-safe name and any value.
var envEntry = regexp.MustCompile(`(?s)^[A-Za-z_][A-Za-z0-9_]*=`)

// check refuses what the outer machine could not run or would misunderstand.
func (s Spec) check() error {
	if len(s.Binaries) == 0 {
		return errors.New("svm lane: no test binary to run")
	}
	for _, b := range s.Binaries {
		if err := checkStatic(b.Path); err != nil {
			return fmt.Errorf("svm lane: %s: %w", b.Name, err)
		}
		for _, e := range b.Env {
			if !envEntry.MatchString(e) {
				return fmt.Errorf("svm lane: %s: environment entry %q: want NAME=VALUE", b.Name, e)
			}
		}
	}
	for _, d := range s.Disks {
		if strings.ContainsRune(d, ',') {
			return fmt.Errorf("svm lane: disk %s: QEMU takes no comma in a path", d)
		}
		if _, err := os.Stat(d); err != nil {
			return fmt.Errorf("svm lane: disk: %w", err)
		}
	}
	for guest, host := range s.Files {
		if !filepath.IsAbs(guest) {
			return fmt.Errorf("svm lane: file %s: its path in the machine is not absolute", guest)
		}
		if st, err := os.Stat(host); err != nil {
			return fmt.Errorf("svm lane: file %s: %w", guest, err)
		} else if !st.Mode().IsRegular() {
			return fmt.Errorf("svm lane: file %s: %s is not a regular file", guest, host)
		}
	}
	return nil
}
