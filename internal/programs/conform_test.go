package programs

import (
	_ "embed"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/cc"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

//go:embed differences.txt
var differencesText string

// differencesInLane are those that only the svm lane has, because QEMU emulates what is otherwise hardware.
//
//go:embed differences-svm.txt
var differencesInLane string

// differencesOnSoftware are those that only a software KVM has.
//
//go:embed differences-software.txt
var differencesOnSoftware string

// slowInLane are behaviours that take minutes in the svm lane, and why; they are left out there.
var slowInLane = map[string]string{
	"threads_300": "300 threads that yield to each other, emulated twice on one CPU: 150 seconds",
}

// knownDifferences returns the lists for the machine that this runs on.
func knownDifferences(t *testing.T) map[string]string {
	t.Helper()
	text := differencesText
	if inLane() {
		text += differencesInLane
	}
	kvm, err := probe.Quick(kvmtest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	if kvm.SoftwareKVM {
		text += differencesOnSoftware
	}
	known, err := differences(text)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// compareChecks runs a checking program natively and in the guest and compares line by line, but for the known
// differences. At least so many behaviours must have been tried; flags are qenex run's.
func compareChecks(t *testing.T, program string, least int, flags ...string) {
	t.Helper()
	known := knownDifferences(t)
	g := guest(t)
	native := run(t, Native(), Program{Args: []string{program}})
	names, want, err := checks(native.Stdout)
	if err != nil {
		t.Fatalf("native: %v", err)
	}
	args := []string{program}
	if inLane() {
		names = slices.DeleteFunc(names, func(n string) bool {
			if slowInLane[n] != "" {
				t.Logf("NOT TESTED in the svm lane: %s: %s", n, slowInLane[n])
				least--
			}
			return slowInLane[n] != ""
		})
		args = append(args, names...)
	}
	guest := run(t, g, Program{Args: args, Flags: flags, Limit: 15 * time.Minute})
	if native.Code != 0 || native.Stderr != "" {
		t.Fatalf("the native run is not good: %v", native)
	}
	if guest.Code != 0 || guest.Stderr != "" {
		t.Errorf("the guest's run is not good: %v", guest)
	}
	_, got, err := checks(guest.Stdout)
	if err != nil {
		t.Errorf("guest: %v", err)
	}
	equal, differ := 0, 0
	for _, n := range names {
		line, there := got[n]
		switch reason := known[n]; {
		case !there:
			t.Errorf("%s: nothing from the guest; native: %s", n, want[n])
		case line == want[n] && reason == "":
			equal++
		case line == want[n]:
			t.Errorf("%s: the same natively and in the guest (%s), but listed as different: %s", n, line, reason)
		case reason == "":
			t.Errorf("%s:\n native %s\n guest  %s", n, want[n], line)
		default:
			differ++
			t.Logf("known difference %s: native %s, guest %s: %s", n, want[n], line, reason)
		}
	}
	t.Logf("%d behaviours: %d equal, %d known to differ", len(names), equal, differ)
	if len(names) < least {
		t.Errorf("%d behaviours tried, %d expected at least", len(names), least)
	}
}

// TestConform holds the results of many small system calls in a guest against native ones.
func TestConform(t *testing.T) {
	compareChecks(t, needC(t, "conform", cc.Static), 560)
}

// TestDifferencesAreReal keeps the list to behaviours that exist.
func TestDifferencesAreReal(t *testing.T) {
	known, err := differences(differencesText + differencesInLane)
	if err != nil {
		t.Fatal(err)
	}
	for name, reason := range slowInLane {
		known[name] = reason
	}
	all := ""
	for _, dir := range []string{"c/conform", "c/hard"} {
		files, err := sources.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := sources.ReadFile(dir + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			all += string(text)
		}
	}
	for name := range known {
		if !strings.Contains(all, "T("+name+")") && !strings.Contains(all, "I("+name+",") {
			t.Errorf("%s is listed, but there is no such behaviour", name)
		}
	}
}

func TestChecksRefusesNonsense(t *testing.T) {
	for _, c := range []string{"no colon\n", ": empty\n", "a b: c\n", "a: 1\na: 2\n"} {
		if _, _, err := checks(c); err == nil {
			t.Errorf("%q was accepted", c)
		}
	}
	names, lines, err := checks("b: 1 2\na:\n")
	if err != nil || len(names) != 2 || lines["b"] != "1 2" || lines["a"] != "" {
		t.Errorf("names %q lines %q error %v", names, lines, err)
	}
	for _, c := range []string{"name\n", "name r\nname r\n"} {
		if _, err := differences(c); err == nil {
			t.Errorf("%q was accepted", c)
		}
	}
}
