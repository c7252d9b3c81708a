package sentry

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// needPlatform skips a test that cannot run here.
func needPlatform(t *testing.T) {
	t.Helper()
	kvmtest.Open(t)
}

// TestNoOtherPlatform checks that no way of gVisor's to run guest code came in with its packages.
func TestNoOtherPlatform(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		for _, bad := range []string{"sentry/platform/systrap", "sentry/platform/ptrace", "gvisor/pkg/sentry/platform/kvm", "runsc/cli", "runsc/boot", "containerd", "k8s.io"} {
			if strings.Contains(pkg, bad) {
				t.Errorf("%s is imported", pkg)
			}
		}
	}
}
