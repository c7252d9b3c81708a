//go:build !kernelonly

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/bareguest"
)

// TestVerbsForBoth gives the verbs that machines and containers share the name of a container without saying where it is, and then that of
// a machine; with --root, a name is a container's.
func TestVerbsForBoth(t *testing.T) {
	ownFleet(t)
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/qenex", 0o711); err != nil {
			t.Skip("NOT TESTED: containers have no place here: ", err)
		}
	} else {
		t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := &ociRuntime{t, ""}
	name := fmt.Sprintf("qenex-test-%d", os.Getpid())
	t.Cleanup(func() { qenex(t, "delete", "--force", name) })
	pid, out := r.create(makeBundle(t, patient, nil), name)
	must(t, "start", name)
	r.expect(out, "ready")
	if list := must(t, "ps"); !strings.Contains(list, name) || !strings.Contains(list, "container") {
		t.Errorf("ps %q", list)
	}
	if list := must(t, "ps", name); !strings.Contains(list, "COMMAND") {
		t.Errorf("ps of a container %q", list)
	}
	must(t, "pause", name)
	if text := must(t, "inspect", name); !strings.Contains(text, `"status": "paused"`) {
		t.Errorf("inspect %q", text)
	}
	must(t, "resume", name)
	if text := must(t, "exec", "-i", name, "echo", "inside"); text != "inside\n" {
		t.Errorf("exec %q", text)
	}
	must(t, "kill", name, "USR1")
	r.expect(out, "usr1")
	refused(t, exitFailure, "no such machine", "console", name)

	// A machine of the same name goes first, but for those who say where containers are.
	must(t, bare(t, bareguest.Chatter, "-d", "--name", name)...)
	refused(t, exitFailure, "runs", "delete", name)
	must(t, "pause", name)
	r.root = "/nonexistent"
	r.fails("container does not exist", "pause", name)
	r.root = os.Getenv("QENEX_RUN") // where the machine is
	r.fails("runs", "delete", name)
	r.must("delete", "--force", name)

	must(t, "stop", "--deadline", "1m", name)
	r.expect(out, "term")
	r.wait(pid, 5)
	must(t, "delete", name)
	refused(t, exitFailure, "container does not exist", "inspect", name)
}
