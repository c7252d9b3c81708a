package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/vmm"
)

// TestMain lets the test program stand in for the qenex command.
func TestMain(m *testing.M) {
	if spins, err := strconv.Atoi(os.Getenv(guestEnv)); err == nil {
		load(spins)
		os.Exit(0)
	}
	if os.Getenv("QENEX_TEST_COMMAND") != "" {
		os.Exit(run(os.Args[1:]))
	}
	dir, err := os.MkdirTemp("", "qenex-run-") // machines of tests are no business of others
	if err != nil {
		panic(err)
	}
	os.Setenv("QENEX_RUN", dir)
	os.Setenv("QENEX_STATE", filepath.Join(dir, "state"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// guestLoad is what BenchmarkAudit's guest does: this many system calls, each behind about 100 us of work.
const guestLoad, guestEnv = 20000, "QENEX_TEST_LOAD"

// load is the guest of BenchmarkAudit. It prints how long it took, in nanoseconds.
func load(spins int) {
	began := time.Now()
	sum := uint64(1)
	for range guestLoad {
		for range spins {
			sum = sum*6364136223846793005 + 1442695040888963407
		}
		_ = unix.Getppid()
	}
	fmt.Println(time.Since(began).Nanoseconds(), sum&1)
}

// command prepares a run of qenex with args.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "QENEX_TEST_COMMAND=1")
	return cmd
}

// qenex runs a command to its end and returns its exit code and output.
func qenex(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || e.ExitCode() < 0) {
		t.Fatalf("qenex %q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// bare returns the arguments that run a guest of the given code.
func bare(t *testing.T, code []byte, more ...string) []string {
	return append([]string{"run", "--kernel", bareguest.Kernel(t, code), "--boot", "direct", "--mem", "32M", "--tables", "none"}, more...)
}

func TestExitCodes(t *testing.T) {
	kvmtest.Open(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("this is not a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args   []string
		want   int
		stderr string
	}{
		"power-off":        {bare(t, bareguest.PowerOff), exitOK, ""},
		"reboot":           {bare(t, bareguest.RebootKBD), exitReboot, ""},
		"panic":            {bare(t, bareguest.Panic), exitPanic, "panic"},
		"triple fault":     {bare(t, bareguest.TripleFault), exitTripleFault, "triple fault at rip"},
		"timeout":          {bare(t, bareguest.Busy, "--timeout", "100ms"), exitTimeout, "--timeout"},
		"no command":       {[]string{"fly"}, exitUsage, "fly"},
		"unknown flag":     {bare(t, bareguest.PowerOff, "--wings"), exitUsage, "--wings"},
		"bad size":         {bare(t, bareguest.PowerOff, "--mem", "much"), exitUsage, "much"},
		"nothing to run":   {[]string{"run"}, exitNative, "--kernel"},
		"unknown run flag": {[]string{"run", "--wings", "true"}, exitNative, "--wings"},
		"kernel's flag":    {[]string{"run", "--cpu", "host", "true"}, exitNative, "--cpu: for kernels only"},
		"program's flag":   {bare(t, bareguest.PowerOff, "--rootfs", "/x"), exitUsage, "--rootfs: for programs only"},
		"program, kernel":  {bare(t, bareguest.PowerOff, "true"), exitUsage, "either"},
		"bad mount":        {[]string{"run", "--mount", "/etc", "true"}, exitNative, "--mount"},
		"mount of nothing": {[]string{"run", "--mount", "/nonexistent:/x", "true"}, exitNative, "/nonexistent"},
		"bad environment":  {[]string{"run", "--env", "=x", "true"}, exitNative, "--env"},
		"relative workdir": {[]string{"run", "--workdir", "x", "true"}, exitNative, "--workdir"},
		"no such user":     {[]string{"run", "--user", "no-such-user", "true"}, exitNative, "no such user"},
		"no terminal":      {[]string{"run", "--tty", "true"}, exitNative, "--tty"},
		"writable host":    {[]string{"run", "--writable", "true"}, exitNative, "--writable"},
		"no such image":    {[]string{"run", "--rootfs", "/nonexistent", "true"}, exitNative, "/nonexistent"},
		"strace, no file":  {[]string{"run", "--strace", "true"}, exitNative, "--debug"},
		"no network":       {[]string{"run", "--net", "internet", "true"}, exitNative, "--net"},
		"program, no CPU":  {[]string{"run", "--cpus", "0", "true"}, exitNative, "--cpus"},
		"kernel missing":   {[]string{"run", "--kernel", "/nonexistent"}, exitInput, "/nonexistent"},
		"text as kernel":   {[]string{"run", "--kernel", text}, exitInput, "not a kernel"},
		"zero CPUs":        {bare(t, bareguest.PowerOff, "--cpus", "0"), exitInput, "0 CPUs"},
		"too many CPUs":    {bare(t, bareguest.PowerOff, "--cpus", "65"), exitInput, "65 CPUs"},
		"too little RAM":   {bare(t, bareguest.PowerOff, "--mem", "16M"), exitInput, "16 MiB"},
		"too much RAM":     {bare(t, bareguest.PowerOff, "--mem", "64T"), exitInput, "this host has"},
		"bad CPU model":    {bare(t, bareguest.PowerOff, "--cpu", "/nonexistent"), exitInput, "--cpu"},
		"long cmdline":     {bare(t, bareguest.PowerOff, "--cmdline", strings.Repeat("x", 70000)), exitInput, "command line"},
		"no KVM":           {bare(t, bareguest.PowerOff, "--kvm", "/nonexistent"), exitHost, "no KVM device"},
		"something no KVM": {bare(t, bareguest.PowerOff, "--kvm", "/dev/null"), exitHost, "/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := qenex(t, tt.args...)
			if code != tt.want || !strings.Contains(stderr, tt.stderr) {
				t.Fatalf("exit code %d, want %d; stderr %q, want %q in it", code, tt.want, stderr, tt.stderr)
			}
			if stdout != "" {
				t.Errorf("stdout %q", stdout)
			}
			if n := strings.Count(stderr, "\n"); tt.stderr != "" && n != 1 || tt.stderr == "" && n != 0 {
				t.Errorf("%d lines on stderr: %q", n, stderr)
			}
		})
	}
}

// TestPermission runs qenex as a user who may not open the device.
func TestPermission(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0); err != nil {
		t.Fatal(err)
	}
	kernel := bareguest.Kernel(t, bareguest.PowerOff)
	for dir := kernel; dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(filepath.Dir(kernel), "qenex")
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(device), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := command("run", "--kernel", kernel, "--kvm", device)
	cmd.Path = program
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitHost || !strings.Contains(string(out), "kvm group") {
		t.Errorf("exit code %d (%v), want %d, output %q", code, err, exitHost, out)
	}
}

// TestSignals ends a running guest by each signal.
func TestSignals(t *testing.T) {
	kvmtest.Open(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := command(bare(t, bareguest.Chatter)...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil { // the guest runs
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, out); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitSignal+int(sig) {
				t.Errorf("exit code %d, want %d", code, exitSignal+int(sig))
			}
		})
	}
}

// TestClosedOutput wants a guest whose console nobody reads any more to be stopped like any other.
func TestClosedOutput(t *testing.T) {
	kvmtest.Open(t)
	cmd := command(bare(t, bareguest.Chatter, "--timeout", "1s")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitTimeout {
		t.Errorf("exit code %d, want %d", code, exitTimeout)
	}
}

// TestRestart wants --on-reboot restart to build the machine anew until the time is over.
func TestRestart(t *testing.T) {
	kvmtest.Open(t)
	code, stdout, stderr := qenex(t, bare(t, bareguest.RebootKBD, "--on-reboot", "restart", "--timeout", "2s", "--json")...)
	if code != exitTimeout {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var r vmm.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %q", err, stdout)
	}
	if r.Boots < 2 {
		t.Errorf("%d boots in 2 s", r.Boots)
	}
}

func TestJSONReport(t *testing.T) {
	kvmtest.Open(t)
	file := filepath.Join(t.TempDir(), "report")
	code, stdout, stderr := qenex(t, bare(t, bareguest.PowerOff, "--json", "--report", file, "-v")...)
	if code != exitOK {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	saved, err := os.ReadFile(file)
	if err != nil || string(saved) != stdout {
		t.Errorf("--report wrote %q (%v), --json %q", saved, err, stdout)
	}
	var r vmm.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if r.Outcome != "power-off" || r.Exits["port-io"] != 1 || len(r.Milestones) == 0 || r.Memory.VMM == 0 || r.TotalNS < time.Millisecond {
		t.Errorf("report %+v", r)
	}
	if !strings.Contains(stderr, "outcome     power-off") {
		t.Errorf("-v printed %q", stderr)
	}
}

func TestHelpNamesEveryExitCodeAndFlag(t *testing.T) {
	code, stdout, _ := qenex(t, "run", "--help")
	if code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	for _, e := range exitCodes {
		if !strings.Contains(stdout, e.what[:15]) {
			t.Errorf("exit code %s is not in --help", e.code)
		}
	}
	for _, cmd := range []string{"run", "doctor", "bench", "completion", "create", "start", "state", "exec", "kill", "delete", "list", "ps", "pause", "resume",
		"checkpoint", "restore", "spec", "features", "stop", "console", "logs", "inspect", "cp", "balloon", "metrics"} {
		_, help, _ := qenex(t, cmd, "--help")
		if !strings.Contains(help, "Example") {
			t.Errorf("no example in qenex %s --help", cmd)
		}
	}
}

func TestGeneratedTexts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, stdout, _ := qenex(t, "completion", shell)
		if code != exitOK || !strings.Contains(stdout, "kernel") || !strings.Contains(stdout, "doctor") || !strings.Contains(stdout, "console-socket") || strings.Contains(stdout, "sandbox)") {
			t.Errorf("completion %s: exit code %d, %d bytes", shell, code, len(stdout))
		}
	}
	code, stdout, _ := qenex(t, "completion", "bash")
	check := exec.Command("bash", "-c", stdout+`
COMP_WORDS=(qenex run --on-reboot re) COMP_CWORD=3; _qenex; echo "${COMPREPLY[*]}"
COMP_WORDS=(qenex do) COMP_CWORD=1; _qenex; echo "${COMPREPLY[*]}"`)
	out, err := check.CombinedOutput()
	if code != exitOK || err != nil || string(out) != "restart\ndoctor\n" {
		t.Errorf("bash completes %q, %v", out, err)
	}
	code, stdout, _ = qenex(t, "man")
	if code != exitOK || !strings.HasPrefix(stdout, ".TH QENEX 1") || !strings.Contains(stdout, `\-\-kernel`) {
		t.Errorf("man: exit code %d, %d bytes", code, len(stdout))
	}
}

// TestDoctor wants the exit code to follow the verdict.
func TestDoctor(t *testing.T) {
	kvmtest.Open(t)
	code, stdout, stderr := qenex(t, "doctor", "--json")
	var r struct {
		Verdict struct {
			CanRun bool `json:"can_run"`
		} `json:"verdict"`
		Kernel string `json:"recommended_kernel"`
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %q", err, stdout)
	}
	if code != exitOK || !r.Verdict.CanRun || r.Kernel == "" {
		t.Errorf("exit code %d, %+v, stderr %q", code, r, stderr)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"512": 512 << 20, "32M": 32 << 20, "2G": 2 << 30, "64k": 64 << 10, "1T": 1 << 40, "1GB": 1 << 30} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q: %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1.5G", "99999999999999G", "12X"} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %d", text, s)
		}
	}
}
