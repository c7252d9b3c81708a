// Package probe is the program that the svm lane's own tests run in the outer machine.
package probe

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKVM(t *testing.T) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const getAPIVersion = 0xae00
	if v, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getAPIVersion, 0); v != 12 {
		t.Errorf("KVM_GET_API_VERSION: %d, %v", v, errno)
	}
}

func TestSVM(t *testing.T) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if flags := strings.Fields(string(b)); !contains(flags, "svm") || !contains(flags, "npt") {
		t.Errorf("no svm and npt among the CPU's flags %v", flags)
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func TestHandedIn(t *testing.T) {
	for _, name := range []string{"testdata/hello", "/data/hello"} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			if b, err := os.ReadFile(name); string(b) != "hello\n" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		})
	}
	if v := os.Getenv("PROBE"); v != "it's $HOME" {
		t.Errorf("PROBE=%q", v)
	}
}

func TestSkips(t *testing.T) { t.Skip("as asked") }

func TestFails(t *testing.T) {
	fmt.Print("an open line")
	t.Run("sub", func(t *testing.T) { t.Error("as asked") })
}

func TestHangs(t *testing.T) {
	if os.Getenv("PROBE_HANG") != "" {
		select {}
	}
}
