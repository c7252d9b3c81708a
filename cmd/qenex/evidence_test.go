//go:build !kernelonly

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
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

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/tpm"
)

// ownState gives the test an empty state.
func ownState(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("NOT RUN: swtpm is not installed")
	}
	dir := filepath.Join(t.TempDir(), "state")
	t.Setenv("QENEX_STATE", dir)
	t.Setenv("QENEX_KEEPER_IDLE", "0s")
	return dir
}

// keeper runs a keeper until stop is called, or the test ends.
func keeper(t testing.TB, program string) (stop func()) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := command("keeper", "--ready")
	cmd.Path = program
	cmd.ExtraFiles = []*os.File{write}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err = cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("keeper: %v: %s", err, &errs)
			}
		}
	}
	t.Cleanup(stop)
	var up keeperUp
	if err := json.NewDecoder(read).Decode(&up); err != nil || up.Error != "" {
		t.Fatalf("the keeper says %+v, %v: %s", up, err, &errs)
	}
	return stop
}

const testNonce = "00112233445566778899aabbccddeeff"

// quote asks for evidence and returns the file that has it.
func quote(t testing.TB, nonce string) string {
	t.Helper()
	out, err := command("attest", "quote", "--nonce", nonce).Output()
	if err != nil {
		t.Fatalf("attest quote: %v", err)
	}
	file := filepath.Join(t.TempDir(), "evidence.json")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readEvidence(t testing.TB, file string) (e tpm.Evidence) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestTamperedLaunch launches a machine, makes a policy of it, and wants every launch that differs in one bit refused by the name of what differs,
// and evidence too that was changed or is old.
func TestTamperedLaunch(t *testing.T) {
	kvmtest.Open(t)
	ownState(t)
	dir := t.TempDir()
	copyTo := func(name, from string) string {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program, kernel := copyTo("qenex", os.Args[0]), copyTo("kernel", bareguest.Kernel(t, bareguest.PowerOff))
	initramfs := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(initramfs, []byte("an initial RAM disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmdline := "quiet"
	launch := func(t *testing.T) {
		t.Helper()
		cmd := command("run", "--kernel", kernel, "--initrd", initramfs, "--cmdline", cmdline, "--boot", "direct", "--mem", "32M", "--tables", "none", "--measure")
		cmd.Path = program
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	stop := keeper(t, os.Args[0])
	launch(t)
	policy := filepath.Join(dir, "policy.json")
	out, err := command("attest", "policy").Output()
	if err == nil {
		err = os.WriteFile(policy, out, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	evidence := quote(t, testNonce)
	attest := func(t *testing.T, nonce, evidence, want string) {
		t.Helper()
		code, stdout, stderr := qenex(t, "attest", "verify", "--policy", policy, "--nonce", nonce, evidence)
		if want == "" {
			if code != 0 || !strings.Contains(stdout, "the evidence is good") {
				t.Errorf("exit code %d, %s %s", code, stdout, stderr)
			}
		} else if code != exitFailure || !strings.Contains(stderr, want) {
			t.Errorf("exit code %d, want %d and %q: %s", code, exitFailure, want, stderr)
		}
	}
	attest(t, testNonce, evidence, "")
	t.Run("tools", func(t *testing.T) { checkWithTools(t, readEvidence(t, evidence)) })
	attest(t, strings.Repeat("ff", 16), evidence, "nonce") // it is replayed
	for name, change := range map[string]func(e *tpm.Evidence){
		"event log": func(e *tpm.Evidence) { e.Log[len(e.Log)-1] ^= 1 },
		"signature": func(e *tpm.Evidence) { e.Quoted[len(e.Quoted)-1] ^= 1 },
		"nonce":     func(e *tpm.Evidence) { e.Claims[0] ^= 1 }, // which is bound to it
		"key":       func(e *tpm.Evidence) { e.AK[len(e.AK)-1] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			e := readEvidence(t, evidence)
			change(&e)
			b, err := json.Marshal(e)
			file := filepath.Join(t.TempDir(), "e")
			if err == nil {
				err = os.WriteFile(file, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			attest(t, testNonce, file, name)
		})
	}
	flip := func(path string, at int64) func() {
		change := func() {
			b, err := os.ReadFile(path)
			if err == nil {
				b[(at+int64(len(b)))%int64(len(b))] ^= 1
				err = os.WriteFile(path, b, 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		change()
		return change
	}
	for _, tt := range []struct {
		name   string
		tamper func() (undo func())
	}{
		{"nothing", func() func() { return func() {} }},
		{"kernel", func() func() { return flip(kernel, -1) }},
		{"initramfs", func() func() { return flip(initramfs, 3) }},
		{"cmdline", func() func() { cmdline = "quie\x75"; return func() { cmdline = "quiet" } }},
		{"binary", func() func() { return flip(program, -1) }}, // in the symbol table's strings
	} {
		t.Run(tt.name, func(t *testing.T) {
			stop()
			stop = keeper(t, os.Args[0])
			defer stop()
			undo := tt.tamper()
			defer undo()
			launch(t)
			want := "value: " + tt.name + " "
			if tt.name == "nothing" {
				want = ""
			}
			attest(t, testNonce, quote(t, testNonce), want)
		})
	}
}

// checkWithTools lets tpm2-tools check a quote and replay its event log.
func checkWithTools(t *testing.T, e tpm.Evidence) {
	for _, tool := range []string{"tpm2_checkquote", "tpm2_eventlog"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT RUN: %s is not installed", tool)
		}
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.AK)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	q := tpm.QualifyingData(e.Nonce, e.Claims)
	check := func(quoted []byte) error {
		return exec.Command("tpm2_checkquote", "-u", file("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "-m", file("quoted", quoted),
			"-s", file("signature", e.Signature), "-g", "sha256", "-q", hex.EncodeToString(q[:])).Run()
	}
	if err := check(e.Quoted); err != nil {
		t.Errorf("tpm2_checkquote refuses the quote: %v", err)
	}
	bad := bytes.Clone(e.Quoted)
	bad[len(bad)-1] ^= 1
	if check(bad) == nil {
		t.Error("tpm2_checkquote takes a quote that was changed")
	}
	out, err := exec.Command("tpm2_eventlog", file("log", e.Log)).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("EV_IPL")) {
		t.Errorf("tpm2_eventlog: %v: %s", err, out)
	}
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](e.Quoted)
	if err != nil {
		t.Fatal(err)
	}
	quote, err := attest.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	// The digest in the quote is that of the PCRs as tpm2_eventlog makes them.
	_, replayed, _ := strings.Cut(string(out), "\npcrs:")
	_, replayed, _ = strings.Cut(replayed, "sha256:")
	replayed, _, _ = strings.Cut(replayed, "sha384:")
	var values []byte
	for _, pcr := range []int{8, 9, 12, 13, 14} {
		value := make([]byte, 32)
		if _, text, ok := strings.Cut(replayed, fmt.Sprintf("%-3d: 0x", pcr)); ok {
			if _, err := hex.Decode(value, []byte(text[:64])); err != nil {
				t.Fatal(err)
			}
		}
		values = append(values, value...)
	}
	if sum := sha256.Sum256(values); !bytes.Equal(sum[:], quote.PCRDigest.Buffer) {
		t.Errorf("tpm2_eventlog makes other PCRs than were quoted:\n%s", replayed)
	}
}

// auditRecords reads the audit log with `qenex audit show`.
func auditRecords(t testing.TB, args ...string) (list []auditchain.Record) {
	t.Helper()
	out, err := command(append([]string{"audit", "show", "--json"}, args...)...).Output()
	if err != nil {
		t.Fatalf("audit show: %v", err)
	}
	for line := range bytes.Lines(out) {
		var e struct {
			Index  uint64
			Record json.RawMessage
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		var r struct {
			Kind, Who, Verb, VM, Detail string
			Result                      int64
		}
		if err := json.Unmarshal(e.Record, &r); err != nil {
			t.Fatal(err)
		}
		for k := auditchain.Command; k <= auditchain.Trim; k++ {
			if k.String() == r.Kind {
				list = append(list, auditchain.Record{Kind: k, Who: r.Who, Verb: r.Verb, VM: r.VM, Detail: r.Detail, Result: r.Result})
			}
		}
	}
	return list
}

func has(list []auditchain.Record, kind auditchain.Kind, verb, detail string) bool {
	for _, r := range list {
		if r.Kind == kind && r.Verb == verb && strings.Contains(r.Detail, detail) {
			return true
		}
	}
	return false
}

// TestAudit audits a program, a machine and a command, and checks, proves, and exports the log.
func TestAudit(t *testing.T) {
	kvmtest.Open(t)
	state := ownState(t)
	keeper(t, os.Args[0])
	if code, out, stderr := qenex(t, "run", "--audit", "security", "--", "/bin/sh", "-c", "/bin/cat /etc/hostname >/dev/null; exit 7"); code != 7 {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	calls := auditRecords(t, "--kind", "syscall")
	for verb, detail := range map[string]string{"execve": "/bin/cat", "openat": "/etc/hostname", "exit_group": ""} {
		if !has(calls, auditchain.Syscall, verb, detail) {
			t.Errorf("no %s %s among %d system calls", verb, detail, len(calls))
		}
	}
	if has(calls, auditchain.Syscall, "read", "") {
		t.Error("security has reads")
	}
	if code, _, stderr := qenex(t, bare(t, bareguest.TripleFault, "--audit", "events", "--name", "falls")...); code != exitTripleFault {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if code, _, _ := qenex(t, "stop", "nobody"); code == 0 {
		t.Fatal("nobody was stopped")
	}
	list := auditRecords(t)
	for _, want := range []auditchain.Record{
		{Kind: auditchain.Launch, Verb: "run"}, {Kind: auditchain.Stop, Verb: "end"}, {Kind: auditchain.Launch, Verb: "boot"}, {Kind: auditchain.Fault, Verb: "fault"},
		{Kind: auditchain.Stop, Verb: "end", Detail: "triple-fault"}, {Kind: auditchain.Command, Verb: "run"}, {Kind: auditchain.Command, Verb: "stop", Detail: "ended"},
	} {
		if !has(list, want.Kind, want.Verb, want.Detail) {
			t.Errorf("no record %v %s %s", want.Kind, want.Verb, want.Detail)
		}
	}
	for _, r := range list {
		if r.Kind == auditchain.Stop && r.VM != "falls" && r.Result != 7 {
			t.Errorf("the program ended with %d, %q", r.Result, r.Detail)
		}
		if r.Kind == auditchain.Command && r.Verb == "stop" && (r.VM != "nobody" || r.Detail == "ended" && r.Result == 0) {
			t.Errorf("the command: %+v", r)
		}
	}
	out := must(t, "audit", "verify")
	if !strings.Contains(out, "the log is good") || strings.Contains(out, "not compared") {
		t.Errorf("audit verify: %s", out)
	}
	text, err := os.ReadFile(filepath.Join(state, "audit.pub"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verify.ParseKeys(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var proof struct {
		Record []byte
		Proof  string
	}
	if err := json.Unmarshal([]byte(must(t, "audit", "prove", "--json", "1")), &proof); err != nil {
		t.Fatal(err)
	}
	if i, _, err := verify.Inclusion(keys, proof.Record, []byte(proof.Proof)); i != 1 || err != nil {
		t.Errorf("the proof is of record %d, %v", i, err)
	}
	quote(t, testNonce) // seals a block
	var block struct{ End uint64 }
	if err := json.Unmarshal([]byte(must(t, "audit", "block", "--json", "0")), &block); err != nil || block.End == 0 {
		t.Errorf("block 0 ends at %d, %v", block.End, err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	must(t, "audit", "export", copied)
	if out := must(t, "audit", "verify", "--log", filepath.Join(copied, "log"), "--key", filepath.Join(copied, "key.pub")); !strings.Contains(out, "the log is good") {
		t.Errorf("the copy: %s", out)
	}
	// A record in the copy is changed: the last, in the newest bundle, and in those before that have fewer.
	names, err := filepath.Glob(filepath.Join(copied, "log/tile/entries/000.p/*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, file := range names {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := qenex(t, "audit", "verify", "--log", filepath.Join(copied, "log")); code != exitFailure {
		t.Errorf("a log that was changed: exit code %d: %s", code, stderr)
	}
	for _, bad := range []string{"some", "sampled=", "sampled=0", "sampled=x"} {
		if code, _, stderr := qenex(t, "run", "--audit", bad, "--", "/bin/true"); code != exitNative || !strings.Contains(stderr, "--audit") {
			t.Errorf("--audit %s: exit code %d: %s", bad, code, stderr)
		}
	}
}

// TestAuditEnds kills a program's process, which is recorded, and then the keeper: who is audited ends.
func TestAuditEnds(t *testing.T) {
	kvmtest.Open(t)
	ownState(t)
	stop := keeper(t, os.Args[0])
	begin := func() (*exec.Cmd, *bufio.Reader, *bytes.Buffer) {
		cmd := command("run", "--audit", "all", "--", "/bin/sh", "-c", "echo up; while :; do read x </dev/null; done")
		out, err := cmd.StdoutPipe()
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(out)
		if line, err := r.ReadString('\n'); line != "up\n" {
			t.Fatalf("%q, %v: %s", line, err, &errs)
		}
		return cmd, r, &errs
	}
	cmd, _, _ := begin()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for end := time.Now().Add(time.Minute); !has(auditRecords(t, "--kind", "fault"), auditchain.Fault, "vanished", ""); {
		if time.Now().After(end) {
			t.Fatal("nobody has noticed that the program's process was killed")
		}
	}
	cmd, rest, errs := begin()
	stop()
	_, _ = io.Copy(io.Discard, rest)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitNative || !strings.Contains(errs.String(), errAuditLost.Error()) {
		t.Errorf("without a keeper: exit code %d: %s", code, errs)
	}
}

// TestKeeperByItself wants a keeper to be started, to say once that a program stands for the TPM, and to end when nobody needs it.
func TestKeeperByItself(t *testing.T) {
	kvmtest.Open(t)
	state := ownState(t)
	t.Setenv("QENEX_KEEPER_IDLE", "3s")
	const warning = "proves nothing against"
	for i, want := range []bool{true, false} {
		code, _, stderr := qenex(t, "run", "--measure", "--audit", "sampled=3", "--", "/bin/true")
		if code != 0 || strings.Contains(stderr, warning) != (want && !exists(tpm.Device)) {
			t.Errorf("run %d: exit code %d: %s", i, code, stderr)
		}
	}
	lock, err := os.OpenFile(filepath.Join(state, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX) // until the keeper has ended
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := must(t, "audit", "verify"); !strings.Contains(out, "the log is good") {
		t.Errorf("%s", out)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestMachineTPM gives a machine a TPM, whose event log lies beside what the fleet knows of it while it lives.
func TestMachineTPM(t *testing.T) {
	kvmtest.Open(t)
	ownState(t)
	r := ownFleet(t)
	args := []string{"run", "--kernel", bareguest.Kernel(t, bareguest.Halt), "--boot", "direct", "--mem", "32M", "--tpm", "--name", "t", "--detach"}
	must(t, args...)
	vm, err := r.Get("t")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(vm.Path("tpm/eventlog"))
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []tpm.What{tpm.Binary, tpm.Kernel, tpm.CommandLine, tpm.Config} {
		if n := bytes.Count(log, []byte("qenex "+string(what)+" ")); n != 1 {
			t.Errorf("%s was measured %d times", what, n)
		}
	}
	must(t, "kill", "t")
	if code, _, stderr := qenex(t, bare(t, bareguest.PowerOff, "--tpm")...); code != exitInput {
		t.Errorf("a TPM without ACPI: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := qenex(t, "run", "--tpm", "--", "/bin/true"); code != exitNative || !strings.Contains(stderr, "--tpm") {
		t.Errorf("a program with a TPM: exit code %d: %s", code, stderr)
	}
}

// BenchmarkAudit is a guest that makes 10,000 system calls a second, all of them audited, beside the same guest without an audit.
func BenchmarkAudit(b *testing.B) {
	ownState(b)
	keeper(b, os.Args[0])
	spins := 0
	guest := func(audit string) time.Duration {
		cmd := command("run", "--audit", audit, "--env", guestEnv+"="+strconv.Itoa(spins), "--", os.Args[0])
		out, err := cmd.Output()
		first, _, _ := strings.Cut(string(out), " ")
		ns, perr := strconv.ParseInt(first, 10, 64)
		if err != nil || perr != nil {
			b.Fatalf("%v %v: %s", err, perr, out)
		}
		return time.Duration(ns)
	}
	// So much work that 20,000 calls take two seconds.
	const some = 50000
	calls := guest("off")
	spins = some
	spins = int(some * float64(2*time.Second-calls) / float64(guest("off")-calls))
	plain, audited := time.Hour, time.Hour // the quickest, in turn: a host that is busy with others makes all of them slower
	for b.Loop() {
		plain = min(plain, guest("off"))
		audited = min(audited, guest("all"))
	}
	b.ReportMetric(guestLoad/audited.Seconds(), "calls/s")
	b.ReportMetric(100*(float64(audited)/float64(plain)-1), "%slower")
}
