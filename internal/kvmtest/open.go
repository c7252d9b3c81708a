package kvmtest

import (
	"os"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
)

// RequireEnv names the environment variable that, set to 1, makes a test fail where it would
// skip for want of KVM. Machines whose KVM is known to work set it, so that a lost device cannot
// turn a test run green.
const RequireEnv = "QENEX_REQUIRE_KVM"

// Open opens /dev/kvm for the test and closes it when the test ends. Without a usable device the test is
// skipped, or fails when RequireEnv says that KVM must be there.
func Open(t testing.TB) *kvm.System {
	t.Helper()
	return openPath(t, "/dev/kvm")
}

func openPath(t testing.TB, path string) *kvm.System {
	t.Helper()
	s, err := kvm.OpenPath(path)
	if err != nil {
		if os.Getenv(RequireEnv) == "1" {
			t.Fatalf("%s=1, but there is no usable KVM: %v", RequireEnv, err)
		}
		t.Skipf("NOT TESTED, no usable KVM: %v (%s=1 makes this a failure)", err, RequireEnv)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close %s: %v", path, err)
		}
	})
	return s
}
