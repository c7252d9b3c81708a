package programs

import (
	"testing"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// TestHello holds the smallest program's result, natively and in a guest.
func TestHello(t *testing.T) {
	g := guest(t)
	p := Program{Args: []string{needC(t, "hello", cc.Static)}}
	for _, r := range []Runner{Native(), g} {
		if got := run(t, r, p); got != (Result{Stdout: "hello\n"}) {
			t.Errorf("%s: %v", r.Name, got)
		}
	}
}

// TestHard does what a ring-0 core easily gets wrong, by a program without shared libraries and one with.
func TestHard(t *testing.T) {
	t.Run("static", func(t *testing.T) { compareChecks(t, needC(t, "hard", cc.Static), leastHard) })
	t.Run("dynamic", func(t *testing.T) {
		if testing.Short() {
			t.Skip("NOT TESTED with -short: the program with shared libraries")
		}
		compareChecks(t, needC(t, "hard"), leastHard)
	})
}

// TestHardInBothModes has vCPUs leave the VM for every system call, and for none.
func TestHardInBothModes(t *testing.T) {
	onlyQenex(t)
	if testing.Short() {
		t.Skip("NOT TESTED with -short: TestHard without the choice of mode is")
	}
	for _, mode := range []string{"direct", "exitless"} {
		t.Run(mode, func(t *testing.T) { compareChecks(t, needC(t, "hard", cc.Static), leastHard, "--mode", mode) })
	}
}

// leastHard is how many behaviours hard has at least.
const leastHard = 180
