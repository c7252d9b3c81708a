package probe

import (
	"os"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// TestDebug wants all of a hardware KVM. QEMU's emulation of SVM, which the svm lane has, intercepts no INT3 and loads no debug registers; a software KVM
// may lack some.
func TestDebug(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	r, err := Debug(sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if !r.Step {
		t.Error("no single step")
	}
	if os.Getenv("QENEX_LANE") == "svm" {
		return
	}
	if !r.Breakpoint {
		t.Error("INT3 does not stop a kernel")
	}
	q, err := Quick(sys)
	if err != nil {
		t.Fatal(err)
	}
	if !q.SoftwareKVM && (!r.Execute || !r.Data || !r.User) {
		t.Error("a hardware KVM without debug registers, or without breakpoints in programs")
	}
}
