package sentry

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// auditEnv lets a child audit its sandbox: Audit.Every.
const auditEnv = "QENEX_SENTRY_TEST_AUDIT"

// auditChild tells system calls on stderr, if the environment says so.
func auditChild(spec *Spec) {
	if every, err := strconv.ParseUint(os.Getenv(auditEnv), 10, 64); err == nil {
		spec.Audit = &Audit{Every: every, Record: func(c Call) {
			fmt.Fprintf(os.Stderr, "call %s %d pid=%d %q %q\n", c.Name, c.Result, c.PID, c.Paths[0], c.Paths[1])
		}}
	}
}

// TestAudit wants the calls that matter to security told always, with what they name and what came of them, and the others as often as asked for.
func TestAudit(t *testing.T) {
	spec := shell("cat /etc/passwd >/dev/null; cat /nonexistent 2>/dev/null; mv /nonexistent /there 2>/dev/null; exit 3")
	others := map[uint64]int{}
	for _, every := range []uint64{0, 1, 4} {
		got := run(t, spec, "", fmt.Sprintf("%s=%d", auditEnv, every))
		if got.code != 3 {
			t.Fatalf("%+v", got)
		}
		for _, line := range []string{
			`call execve 0 pid=2 "/usr/bin/cat" ""`, `"/etc/passwd" ""`, `call openat -2 pid=3 "/nonexistent" ""`, `"/nonexistent" "/there"`, `call exit_group 0 pid=1 "" ""`,
		} {
			if !strings.Contains(got.stderr, line) {
				t.Errorf("every %d: no %q in\n%s", every, line, got.stderr)
			}
		}
		for line := range strings.Lines(got.stderr) {
			f := strings.Fields(line)
			if f[0] != "call" || len(f) < 4 {
				t.Fatalf("every %d: %q", every, line)
			}
			if !securityCalls[f[1]] {
				others[every]++
			}
		}
	}
	// Programs of one run and the next differ by a few calls.
	if others[0] != 0 || others[1] < 50 || others[4] < others[1]/8 || others[4] > others[1]/2 {
		t.Errorf("calls that do not matter to security, by how many are asked for: %v", others)
	}
}
