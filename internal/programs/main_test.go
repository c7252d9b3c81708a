package programs

import (
	"context"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/cc"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

var stress = flag.Duration("stress", 2*time.Second, "how long TestStressPrograms goes on")

// guestEnv names a variable with a command, words separated by blanks, that runs a program given as its
// arguments: a peer to try the tests with, in place of qenex run.
const guestEnv = "QENEX_GUEST_COMMAND"

// binEnv names a variable with the path of the qenex to test; without it one is built.
const binEnv = "QENEX_BIN"

// inLane says whether this runs in the svm lane: on an emulated machine that has nothing but what was handed in.
func inLane() bool { return os.Getenv("QENEX_LANE") == "svm" }

// inLaneToo are the tests that run there: what a ring-0 core easily gets wrong, with the hardware's own system calls and faults.
var inLaneToo = []string{"TestHello", "TestHard/static", "TestKilledAtRandomMoments"}

var qenex = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(binEnv); path != "" {
		return path, nil
	}
	return Go(context.Background(), "./cmd/qenex")
})

// guest returns what runs programs in native guests, or skips the test without KVM.
func guest(t testing.TB) Runner {
	t.Helper()
	if inLane() && !slices.Contains(inLaneToo, t.Name()) {
		t.Skip("NOT TESTED in the svm lane: it would take too long there, or needs more than the lane's machine has")
	}
	kvmtest.NoLeaks(t)
	if words := strings.Fields(os.Getenv(guestEnv)); len(words) > 0 {
		return Command("peer", words...)
	}
	kvmtest.Open(t)
	path, err := qenex()
	if err != nil {
		t.Fatal(err)
	}
	return Qenex(path)
}

// onlyQenex skips a test of what is QENEX's own, such as its flags, when a peer is tried.
func onlyQenex(t testing.TB) Runner {
	t.Helper()
	g := guest(t)
	if g.Name != "qenex" {
		t.Skipf("NOT TESTED: %s is set, and this is about QENEX itself", guestEnv)
	}
	return g
}

func needC(t testing.TB, name string, flags ...string) string {
	t.Helper()
	path, err := C(t.Context(), name, flags...)
	if errors.Is(err, cc.ErrNoCompiler) && os.Getenv("QENEX_REQUIRE_GUEST") != "1" {
		t.Skipf("NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func needGo(t testing.TB, pkg string) string {
	t.Helper()
	path, err := Go(t.Context(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t testing.TB, r Runner, p Program) Result {
	t.Helper()
	res, err := r.Run(t.Context(), p)
	if err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
	return res
}
