package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/qenex/qenex-kernel/fleet"
	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// ownFleet gives a test a registry of its own, and ends what is left in it.
func ownFleet(t *testing.T) *fleet.Registry {
	t.Helper()
	kvmtest.Open(t)
	t.Setenv("QENEX_RUN", filepath.Join(t.TempDir(), "run"))
	r, err := fleet.Open("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := r.List()
		if err != nil {
			t.Error(err)
		}
		for _, vm := range list {
			_ = vm.Kill() // most have ended
		}
	})
	return r
}

// must runs a command that has to succeed, and returns its output.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := qenex(t, args...)
	if code != exitOK {
		t.Fatalf("qenex %q: exit code %d, %s", args, code, stderr)
	}
	return stdout
}

// refused runs a command that has to fail with a code and a reason.
func refused(t *testing.T, want int, why string, args ...string) {
	t.Helper()
	code, stdout, stderr := qenex(t, args...)
	if code != want || !strings.Contains(stderr, why) || strings.Count(stderr, "\n") != 1 || stdout != "" {
		t.Errorf("qenex %q: exit code %d, want %d; %q, want %q; output %q", args, code, want, stderr, why, stdout)
	}
}

// row asks ps for a machine.
func row(t *testing.T, name string, more ...string) (r psRow, found bool) {
	t.Helper()
	var rows []psRow
	if err := json.Unmarshal([]byte(must(t, append([]string{"ps", "--json"}, more...)...)), &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == name && r.Kind == "machine" {
			return r, true
		}
	}
	return r, false
}

// TestDetach starts a machine in the background and drives it.
func TestDetach(t *testing.T) {
	r := ownFleet(t)
	if out := must(t, bare(t, bareguest.Chatter, "-d", "--name", "bare")...); out != "bare\n" {
		t.Fatalf("output %q", out)
	}
	got, found := row(t, "bare")
	if !found || got.State != fleet.StateRunning || got.CPUs != 1 || got.Memory != 32<<20 || !got.Detached || got.Agent != "none" || got.Boots != 1 {
		t.Errorf("%+v, %v", got, found)
	}
	if out := must(t, "ps"); !strings.Contains(out, "bare") || !strings.Contains(out, "running") {
		t.Errorf("ps: %q", out)
	}
	refused(t, exitInput, "taken", bare(t, bareguest.PowerOff, "--name", "bare")...)
	refused(t, exitInput, "taken", bare(t, bareguest.PowerOff, "--name", "bare", "-d")...)
	refused(t, exitUsage, "only be switched off", "kill", "bare", "SIGUSR1")
	refused(t, exitNative, "--agent", "exec", "bare", "true")
	refused(t, exitFailure, "--balloon", "balloon", "bare")
	refused(t, exitFailure, "no such machine", "logs", "other")
	refused(t, exitUsage, "absolute", "cp", "bare:relative", ".")
	refused(t, exitUsage, "one of them", "cp", "a", "b")

	must(t, "pause", "bare")
	must(t, "pause", "bare")
	if got, _ := row(t, "bare"); got.State != fleet.StatePaused {
		t.Errorf("state %s", got.State)
	}
	must(t, "resume", "bare")
	if out := must(t, "metrics"); !strings.Contains(out, "qenex_up{vm=\"bare\"} 1\n") || !strings.Contains(out, `qenex_exits_total{vm="bare",reason="port-io"}`) {
		t.Errorf("metrics %q", out)
	}
	var info fleet.Info
	if err := json.Unmarshal([]byte(must(t, "inspect", "bare")), &info); err != nil || info.Name != "bare" || info.PID == os.Getpid() {
		t.Errorf("%+v, %v", info, err)
	}
	if out := must(t, "logs", "bare"); !strings.HasPrefix(out, "x") {
		t.Errorf("logs %.20q", out)
	}
	// Two look at the console at a time.
	var lookers []*exec.Cmd
	for range 2 {
		cmd := command("console", "--watch", "bare")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		out.Close()
		lookers = append(lookers, cmd)
	}
	// The guest knows no power button.
	code, _, stderr := qenex(t, "stop", "--deadline", "100ms", "bare")
	if code != exitOK || !strings.Contains(stderr, "switched off") {
		t.Errorf("stop: exit code %d, %q", code, stderr)
	}
	for _, cmd := range lookers {
		_ = cmd.Wait() // the end of the console, or a reader that is gone
	}
	vm, err := r.Get("bare")
	for err == nil && vm.Process.Alive() { // it has answered, and ends
		vm, err = r.Get("bare")
	}
	if got, found := row(t, "bare", "--keep"); !found || got.State != fleet.StateEnded || got.Outcome.Code != exitSignal+9 {
		t.Errorf("%+v, %v", got, found)
	}
	if out := must(t, "logs", "bare"); !strings.HasPrefix(out, "x") {
		t.Errorf("logs after the end: %.20q", out)
	}
	if _, found := row(t, "bare"); !found { // which removes it
		t.Error("ps does not tell of the end")
	}
	if got, found := row(t, "bare"); found {
		t.Errorf("still there: %+v", got)
	}
}

// TestForeground wants a machine on the terminal to be driven like any other, and to leave nothing behind.
func TestForeground(t *testing.T) {
	r := ownFleet(t)
	cmd := command(bare(t, bareguest.Chatter)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go func() { // it ends with the process
		buf := make([]byte, 4096)
		for err == nil {
			_, err = out.Read(buf)
		}
	}()
	list, err := r.List()
	if err != nil || len(list) != 1 || list[0].Process.PID != cmd.Process.Pid {
		t.Fatalf("%v, %v", list, err)
	}
	must(t, "kill", list[0].Name)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitSignal+9 {
		t.Errorf("exit code %d", code)
	}
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestKilledVMM kills a machine's process, and wants ps to say so and to remove what is left.
func TestKilledVMM(t *testing.T) {
	r := ownFleet(t)
	name := strings.TrimSpace(must(t, bare(t, bareguest.Busy, "--detach")...))
	vm, err := r.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	refused(t, exitFailure, "is dead", "pause", name)
	if out := must(t, "ps", name); !strings.Contains(out, fleet.StateDead) {
		t.Errorf("ps %q", out)
	}
	if _, err := os.Stat(vm.Path(".")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	// One that hangs, with its socket, is killed all the same.
	name = strings.TrimSpace(must(t, bare(t, bareguest.Busy, "--detach")...))
	if vm, err = r.Get(name); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(vm.Process.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	must(t, "kill", name)
	if vm.Process.Alive() {
		t.Error("it is alive")
	}
	if _, found := row(t, name); found {
		t.Error("it is listed")
	}
}

// TestDetachErrors wants what goes wrong in the background to be told by the command that began it.
func TestDetachErrors(t *testing.T) {
	r := ownFleet(t)
	for _, tt := range []struct {
		args []string
		code int
		why  string
	}{
		{[]string{"run", "-d", "--kernel", "/nonexistent"}, exitInput, "/nonexistent"},
		{bare(t, bareguest.Busy, "-d", "--disk", "/nonexistent"), exitInput, "/nonexistent"},
		{bare(t, bareguest.Busy, "-d", "--name", "a/b"), exitInput, "invalid name"},
		{bare(t, bareguest.Busy, "-d", "--json"), exitUsage, "--report"},
		{bare(t, bareguest.Busy, "-d", "--wait", "agent"), exitUsage, "--agent"},
		{bare(t, bareguest.Busy, "-d", "--kvm", "/nonexistent"), exitHost, "no KVM device"},
		{bare(t, bareguest.Busy, "--net", "moon"), exitUsage, "--net"},
		{bare(t, bareguest.Busy, "--publish", "80:80"), exitUsage, "--net user"},
		{bare(t, bareguest.Busy, "--net", "user", "--publish", "80"), exitUsage, "--publish"},
		{bare(t, bareguest.Busy, "--share", "/nonexistent:x"), exitUsage, "/nonexistent"},
		{bare(t, bareguest.Busy, "--gdb", "nowhere"), exitInput, "--gdb"},
		{[]string{"run", "--image", "/nonexistent", "true"}, exitNative, "/nonexistent"},
		{[]string{"run", "--image", "/nonexistent", "--stats", "true"}, exitNative, "--stats"},
		{[]string{"run", "--disk", "x", "true"}, exitNative, "for kernels only"},
	} {
		refused(t, tt.code, tt.why, tt.args...)
	}
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestOneProcessNoDescriptors wants a machine in the background to hold no file of the command that started it.
func TestOneProcessNoDescriptors(t *testing.T) {
	r := ownFleet(t)
	cmd := command(bare(t, bareguest.Busy, "--detach")...)
	out, err := cmd.CombinedOutput() // returns when nobody holds its pipe any more
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vm, err := r.Get(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for fd := range 3 {
		link, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(vm.Process.PID), "fd", strconv.Itoa(fd)))
		if err != nil || link != os.DevNull && !strings.HasPrefix(link, vm.Path(".")) {
			t.Errorf("descriptor %d is %s, %v", fd, link, err)
		}
	}
}

func TestParseDisk(t *testing.T) {
	for text, want := range map[string]diskSpec{
		"a.img":                        {},
		"a,b.img":                      {},
		"a,b":                          {},
		"a,ro":                         {},
		"x,serial=d1,iops=2K,bps=100M": {serial: "d1"},
	} {
		s, err := parseDisk(text)
		if err != nil || s.serial != want.serial {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	s, err := parseDisk("my,disk.qcow2,format=qcow2,overlay=o.img,cache=none,iops=2K,bps=3M,serial=s")
	if err != nil || s.Path != "my,disk.qcow2" || s.Format != "qcow2" || s.Overlay != "o.img" || s.Cache != "none" || s.limits.IOPS != 2000 || s.limits.Bytes != 3000000 || s.serial != "s" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"", ",ro", "a,format=vmdk", "a,cache=maybe", "a,iops=0", "a,iops=x", "a,bps=99999999999G", "a,ro,overlay", "a,overlay,overlay=b", "a,serial=", "a,overlay="} {
		if s, err := parseDisk(text); err == nil {
			t.Errorf("%q was accepted as %+v", text, s)
		}
	}
}

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]string{
		"8080:80": "tcp 127.0.0.1:8080 80", "0:53/udp": "udp 127.0.0.1:0 53", "0.0.0.0:1:2/tcp": "tcp 0.0.0.0:1 2", "[::1]:1:2": "tcp [::1]:1 2",
	} {
		f, err := parsePublish(text)
		if got := f.Proto + " " + f.Host.String() + " " + strconv.Itoa(int(f.Guest)); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "80", ":80", "80:", "80:0", "80:65536", "80:80/icmp", "80:80/", "host:80:80", "1.2.3:80:80", "::1:80:80"} {
		if f, err := parsePublish(text); err == nil {
			t.Errorf("%q was accepted as %+v", text, f)
		}
	}
}

func TestParseShare(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]share{
		dir + ":src":       {dir, "src", "/mnt/src", false},
		dir + ":src:ro":    {dir, "src", "/mnt/src", true},
		dir + ":/a/b/":     {dir, "share7", "/a/b", false},
		dir + "/.:/a/b:ro": {dir, "share7", "/a/b", true},
	} {
		if s, err := parseShare(text, 7); err != nil || s != want {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", dir, dir + ":", ":src", dir + ":a b", dir + ":a=b", "/nonexistent:a", dir + ":" + strings.Repeat("x", 65)} {
		if s, err := parseShare(text, 0); err == nil {
			t.Errorf("%q was accepted as %+v", text, s)
		}
	}
}

func FuzzDevices(f *testing.F) {
	for _, s := range []string{"a,format=raw,overlay=b,iops=1K", "[::1]:1:2/udp", "/tmp:x:ro", "name:/path"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseDisk(s); err == nil && (d.Path == "" || d.limits.IOPS < 0 || d.limits.Bytes < 0) {
			t.Errorf("%q: %+v", s, d)
		}
		if p, err := parsePublish(s); err == nil && (p.Guest == 0 || !p.Host.IsValid() || !slices.Contains([]string{"tcp", "udp"}, p.Proto)) {
			t.Errorf("%q: %+v", s, p)
		}
		if p, err := parseShare(s, 0); err == nil && (strings.ContainsAny(p.tag, " \n=") || !filepath.IsAbs(p.path)) {
			t.Errorf("%q: %+v", s, p)
		}
		if name, _, ok := guestFile(s); ok && fleet.CheckName(name) != nil {
			t.Errorf("%q: machine %q", s, name)
		}
	})
}
