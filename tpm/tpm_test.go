package tpm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-tpm/tpm2"
	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
)

func start(t testing.TB, dir string) *TPM {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed")
	}
	d, err := StartSoftware(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func stop(t testing.TB, d *TPM) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// measureAll measures a machine.
func measureAll(t testing.TB, d *TPM) *Measurements {
	t.Helper()
	m, err := d.Measure()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what What
		text string
	}{{Binary, "qenex"}, {Core, "ring0"}, {Kernel, "vmlinuz"}, {Initramfs, "initramfs"}, {Config, "{}"}, {CommandLine, "console=ttyS0"}, {Snapshot, "none"}} {
		if err := m.Bytes(c.what, "test/"+string(c.what), []byte(c.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.File(Rootfs, "image", strings.NewReader("root file system")); err != nil {
		t.Fatal(err)
	}
	return m
}

func digestOf(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

func policyFor(t testing.TB, d *TPM) Policy {
	t.Helper()
	ak, err := d.AK()
	if err != nil {
		t.Fatal(err)
	}
	return Policy{AK: ak, Golden: map[What][]string{Kernel: {digestOf("other"), digestOf("vmlinuz")}, CommandLine: {digestOf("console=ttyS0")}, Rootfs: {digestOf("root file system")}}}
}

func TestQuote(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir)
	if !d.Software() {
		t.Error("a swtpm is said to be hardware")
	}
	m := measureAll(t, d)
	policy := policyFor(t, d)
	e, err := m.Quote([]byte("nonce 1"), []byte("checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var again Evidence
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	result, err := Verify(&again, []byte("nonce 1"), policy)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Measured) != 8 || result.Measured[2] != (Measured{Kernel, "test/kernel", digestOf("vmlinuz")}) {
		t.Errorf("%+v", result)
	}
	if hashing, tpm := m.Times(); hashing <= 0 || tpm <= 0 {
		t.Errorf("hashing took %v, the TPM %v", hashing, tpm)
	}
	t.Run("go-eventlog", func(t *testing.T) { replayWithGoEventlog(t, d, m.Log()) })
	t.Run("tpm2-tools", func(t *testing.T) { checkWithTools(t, d, e) })
	stop(t, d)

	// The same TPM after a reset has the same key, and empty PCRs.
	d = start(t, dir)
	defer stop(t, d)
	if ak, err := d.AK(); err != nil || !bytes.Equal(ak, policy.AK) {
		t.Errorf("another attestation key after a reset (%v)", err)
	}
	pcrs, err := d.PCRs(8, 9)
	if err != nil || pcrs[8] != [32]byte{} || pcrs[9] != [32]byte{} {
		t.Errorf("%x, %v", pcrs, err)
	}
	policy.Since = result.Clock
	e, err = measureAll(t, d).Quote([]byte("nonce 2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	later, err := Verify(e, []byte("nonce 2"), policy)
	if err != nil || later.Clock.Resets <= result.Clock.Resets {
		t.Errorf("%+v, %v", later, err)
	}
}

// replayWithGoEventlog replays the log with another program's parser, in every bank.
func replayWithGoEventlog(t *testing.T, d *TPM, log []byte) {
	if len(d.banks) < 2 {
		t.Errorf("%d banks", len(d.banks))
	}
	for _, b := range d.banks {
		if b.hash == crypto.SHA512 {
			continue // go-eventlog replays no SHA-512
		}
		var mrs []register.MR
		for _, pcr := range []uint{8, 9, 12, 13, 14} {
			rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: b.alg, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)}}}}.Execute(d.conn)
			if err != nil {
				t.Fatal(err)
			}
			mrs = append(mrs, register.FakeMR{Index: int(pcr), Digest: rsp.PCRValues.Digests[0].Buffer, DigestAlg: b.hash})
		}
		events, err := tcg.ParseAndReplay(log, mrs, tcg.ParseOpts{})
		if err != nil || len(events) != 8 {
			t.Errorf("%v: %d events, %v", b.hash, len(events), err)
		}
		mrs[1] = register.FakeMR{Index: 9, Digest: make([]byte, b.hash.Size()), DigestAlg: b.hash}
		if _, err := tcg.ParseAndReplay(log, mrs, tcg.ParseOpts{}); err == nil {
			t.Errorf("%v: other PCRs were taken", b.hash)
		}
	}
}

// checkWithTools checks the quote with tpm2_checkquote and the log with tpm2_eventlog.
func checkWithTools(t *testing.T, d *TPM, e *Evidence) {
	for _, tool := range []string{"tpm2_checkquote", "tpm2_eventlog"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
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
	ak := file("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	quoted, signature := file("quoted", e.Quoted), file("signature", e.Signature)
	check := func(nonce string) error {
		q := QualifyingData([]byte(nonce), e.Claims)
		out, err := exec.Command("tpm2_checkquote", "-u", ak, "-m", quoted, "-s", signature, "-g", "sha256", "-q", hex.EncodeToString(q[:])).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := check("nonce 1"); err != nil {
		t.Error(err)
	}
	if err := check("nonce 2"); err == nil {
		t.Error("tpm2_checkquote takes another nonce")
	}
	out, err := exec.Command("tpm2_eventlog", file("log", e.Log)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pcrs, err := d.PCRs(8, 9, 12, 13)
	if err != nil {
		t.Fatal(err)
	}
	_, replayed, _ := bytes.Cut(out, []byte("\npcrs:"))
	_, replayed, _ = bytes.Cut(replayed, []byte("sha256:"))
	replayed, _, _ = bytes.Cut(replayed, []byte("sha384:"))
	for pcr, want := range pcrs {
		if !strings.Contains(string(replayed), fmt.Sprintf("%d", pcr)) || !strings.Contains(string(replayed), hex.EncodeToString(want[:])) {
			t.Errorf("tpm2_eventlog does not make PCR %d %x:\n%s", pcr, want, replayed)
		}
	}
}

// TestTamper is the tamper matrix of evidence: every cell is rejected for the reason it names.
func TestTamper(t *testing.T) {
	d := start(t, t.TempDir())
	defer stop(t, d)
	m := measureAll(t, d)
	policy := policyFor(t, d)
	nonce := []byte("nonce")
	good, err := m.Quote(nonce, []byte("claims"))
	if err != nil {
		t.Fatal(err)
	}
	other := start(t, t.TempDir())
	defer stop(t, other)
	stranger, err := measureAll(t, other).Quote(nonce, []byte("claims"))
	if err != nil {
		t.Fatal(err)
	}
	// Another machine on the same TPM: one of its objects has another bit.
	changed := func(what What) func(*Evidence, *Policy) {
		return func(e *Evidence, p *Policy) {
			events, _, err := parseLog(e.Log)
			if err != nil {
				t.Fatal(err)
			}
			log := logHeader(d.banks)
			for _, ev := range events {
				if mm, err := measured(ev, false); err == nil && mm.What == what {
					ev.data = bytes.Replace(ev.data, []byte(mm.Digest), []byte(digestOf("evil")), 1)
				}
				log = appendEvent(log, ev.pcr, digests(d.banks, ev.data), ev.data)
			}
			e.Log = log
		}
	}
	flip := func(f func(*Evidence) []byte, at int) func(*Evidence, *Policy) {
		return func(e *Evidence, _ *Policy) {
			b := f(e)
			if at < 0 {
				at += len(b)
			}
			b[at] ^= 1
		}
	}
	edit := func(f func(e *Evidence)) func(*Evidence, *Policy) { return func(e *Evidence, _ *Policy) { f(e) } }
	header := len(logHeader(d.banks))
	first := len(appendEvent(nil, 8, digests(d.banks, nil), []byte("qenex binary test/binary sha256:"+digestOf("qenex"))))
	for _, c := range []struct {
		name   string
		tamper func(*Evidence, *Policy)
		want   Reason
	}{
		{"nothing", edit(func(*Evidence) {}), ""},
		{"bit in the kernel, log rewritten", changed(Kernel), BadLog},
		{"bit in the command line, log rewritten", changed(CommandLine), BadLog},
		{"bit in the initramfs, log rewritten", changed(Initramfs), BadLog},
		{"bit in the binary, log rewritten", changed(Binary), BadLog},
		{"bit in the log's header", flip(func(e *Evidence) []byte { return e.Log }, 40), BadLog},
		{"bit in an event's digest", flip(func(e *Evidence) []byte { return e.Log }, header+20), BadLog},
		{"bit in an event's text", flip(func(e *Evidence) []byte { return e.Log }, -1), BadLog},
		{"bit in an event's PCR", flip(func(e *Evidence) []byte { return e.Log }, header), BadLog},
		{"the first event dropped", edit(func(e *Evidence) { e.Log = append(e.Log[:header:header], e.Log[header+first:]...) }), BadLog},
		{"an event replayed", edit(func(e *Evidence) { e.Log = append(e.Log, e.Log[header:][:first]...) }), BadLog},
		{"the log cut", edit(func(e *Evidence) { e.Log = e.Log[:len(e.Log)-1] }), BadLog},
		{"no log", edit(func(e *Evidence) { e.Log = nil }), BadLog},
		{"bit in the quote", flip(func(e *Evidence) []byte { return e.Quoted }, -1), BadSignature},
		{"bit in the quote's magic", flip(func(e *Evidence) []byte { return e.Quoted }, 0), BadSignature},
		{"bit in the signature", flip(func(e *Evidence) []byte { return e.Signature }, -1), BadSignature},
		{"bit in the signature's type", flip(func(e *Evidence) []byte { return e.Signature }, 1), BadSignature},
		{"bit in the key", flip(func(e *Evidence) []byte { return e.AK }, -1), BadKey},
		{"bit in the nonce", flip(func(e *Evidence) []byte { return e.Nonce }, 0), BadNonce},
		{"bit in the claims", flip(func(e *Evidence) []byte { return e.Claims }, 0), BadNonce},
		{"another TPM", edit(func(e *Evidence) { *e = *stranger }), BadKey},
		{"another TPM's signature", edit(func(e *Evidence) { e.Quoted, e.Signature = stranger.Quoted, stranger.Signature }), BadSignature},
		{"another kernel is wanted", func(_ *Evidence, p *Policy) { p.Golden = map[What][]string{Kernel: {digestOf("other")}} }, BadValue},
		{"a program is wanted", func(_ *Evidence, p *Policy) { p.Golden = map[What][]string{Program: {digestOf("other")}} }, BadValue},
		{"a clock that goes back", func(_ *Evidence, p *Policy) { p.Since = Clock{Resets: 1 << 30} }, BadClock},
		{"the host's TPM is wanted", func(_ *Evidence, p *Policy) { p.Shared = true }, BadQuote},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Evidence{
				Nonce: bytes.Clone(good.Nonce), Claims: bytes.Clone(good.Claims), AK: bytes.Clone(good.AK), Quoted: bytes.Clone(good.Quoted),
				Signature: bytes.Clone(good.Signature), Log: bytes.Clone(good.Log),
			}
			p := policy
			c.tamper(e, &p)
			_, err := Verify(e, nonce, p)
			expect(t, err, c.want)
		})
	}
	t.Run("a nonce replayed", func(t *testing.T) {
		_, err := Verify(good, []byte("the next nonce"), policy)
		expect(t, err, BadNonce)
		forged := *good
		forged.Nonce = []byte("the next nonce")
		_, err = Verify(&forged, []byte("the next nonce"), policy)
		expect(t, err, BadNonce)
	})
	t.Run("nothing measured and a log without SHA-256", func(t *testing.T) {
		fresh := start(t, t.TempDir())
		defer stop(t, fresh)
		m, err := fresh.Measure()
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.Quote(nonce, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := policyFor(t, fresh)
		_, err = Verify(e, nonce, p)
		expect(t, err, BadValue)
		events, _, err := parseLog(good.Log)
		if err != nil {
			t.Fatal(err)
		}
		for _, banks := range [][]bank{nil, hashes[:1], {hashes[0], hashes[0]}} {
			e.Log = logHeader(banks)
			for _, ev := range events {
				e.Log = appendEvent(e.Log, ev.pcr, digests(banks, ev.data), ev.data)
			}
			_, err = Verify(e, nonce, p)
			expect(t, err, BadLog)
		}
	})
	t.Run("another machine on the same TPM", func(t *testing.T) {
		if err := m.Bytes(Kernel, "second", []byte("evil")); err != nil {
			t.Fatal(err)
		}
		e, err := m.Quote(nonce, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(e, nonce, policy)
		expect(t, err, BadValue)
		e.Log = good.Log // the log from before
		_, err = Verify(e, nonce, policy)
		expect(t, err, BadLog)
	})
}

func expect(t *testing.T, err error, want Reason) {
	t.Helper()
	var e *Error
	if want == "" && err == nil {
		return
	}
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("%v; want the reason %q", err, want)
	}
}

func TestMeasureRefuses(t *testing.T) {
	d := start(t, t.TempDir())
	defer stop(t, d)
	m, err := d.Measure()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Bytes(Kernel, "vmlinuz", nil); err != nil {
			t.Error(err)
		}
		if _, err := d.Measure(); err == nil {
			t.Error("a second log was begun, which could not explain the PCRs")
		}
		m.log = make([]byte, maxLogSize)
		if err := m.Bytes(Kernel, "vmlinuz", nil); !errors.Is(err, ErrLogFull) {
			t.Error(err)
		}
	}()
	for _, name := range []string{"", "a b", "a\nb", strings.Repeat("a", 5000)} {
		if err := m.Digest(Kernel, name, [32]byte{}); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
	if err := m.Digest("nothing", "a", [32]byte{}); err == nil {
		t.Error("an unknown kind was taken")
	}
	if pcrs, err := d.PCRs(8, 9, 12, 13, 14); err != nil || len(pcrs) != 5 || pcrs[9] != [32]byte{} {
		t.Errorf("%x, %v", pcrs, err)
	}
}

func TestSeal(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir)
	measureAll(t, d)
	secret := []byte("the snapshot's key")
	blob, err := d.Seal(secret, 8, 9)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(blob, secret) {
		t.Error("the secret is in the clear")
	}
	for range 10 { // objects and sessions are given back
		if got, err := d.Unseal(blob); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for at := range blob {
		b := bytes.Clone(blob)
		if b[at] ^= 1; at%17 == 0 {
			if got, err := d.Unseal(b); err == nil {
				t.Errorf("bit in byte %d: unsealed %q", at, got)
			}
		}
	}
	stop(t, d)

	d = start(t, dir)
	if _, err := d.Unseal(blob); err == nil {
		t.Error("unsealed before anything was measured")
	}
	m := measureAll(t, d)
	if got, err := d.Unseal(blob); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("after a reset, the same measured: %q, %v", got, err)
	}
	if err := m.Bytes(Kernel, "more", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unseal(blob); err == nil {
		t.Error("unsealed with another kernel")
	}
	stop(t, d)
	other := start(t, t.TempDir())
	defer stop(t, other)
	measureAll(t, other)
	if _, err := other.Unseal(blob); err == nil {
		t.Error("unsealed by another TPM")
	}
	for _, s := range [][]byte{nil, make([]byte, MaxSecret+1)} {
		if _, err := other.Seal(s, 8); err == nil {
			t.Errorf("a secret of %d bytes was sealed", len(s))
		}
	}
}

// copyDir copies a swtpm's or a log's state.
func copyDir(t *testing.T, from string) string {
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestAuditAnchor binds an audit log to the TPM, and rolls back the log, the TPM, and both.
func TestAuditAnchor(t *testing.T) {
	key, err := auditchain.NewKey("tpm.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("0123456789abcdef")
	dir := t.TempDir()
	tpmDir, logDir := filepath.Join(dir, "tpm"), filepath.Join(dir, "log")
	var clock Clock
	var policy Policy
	// session opens the log with the TPM, adds records and a block, and quotes.
	session := func(tpmDir, logDir string) (*Evidence, uint64, [32]byte, error) {
		d := start(t, tpmDir)
		defer stop(t, d)
		m := measureAll(t, d)
		policy = policyFor(t, d)
		a, err := d.NewAnchor(1, secret, m)
		if err != nil {
			return nil, 0, [32]byte{}, err
		}
		l, err := auditchain.Open(logDir, auditchain.Config{Key: key, Anchor: a, BlockInterval: time.Hour})
		if err != nil {
			return nil, 0, [32]byte{}, err
		}
		if _, err := l.Append(auditchain.Record{Kind: auditchain.Launch, Who: "test", Verb: "vm.start"}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		n, hash, err := a.Last()
		if err != nil {
			t.Fatal(err)
		}
		checkpoint, err := os.ReadFile(filepath.Join(logDir, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.Quote([]byte("nonce"), checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		return e, n, hash, nil
	}
	must := func() (*Evidence, uint64, [32]byte) {
		e, n, hash, err := session(tpmDir, logDir)
		if err != nil {
			t.Fatal(err)
		}
		return e, n, hash
	}
	must()
	oldTPM, oldLog := copyDir(t, tpmDir), copyDir(t, logDir)
	must()
	e, n, hash := must()
	result, err := Verify(e, []byte("nonce"), policy)
	if err != nil {
		t.Fatal(err)
	}
	if last := result.Measured[len(result.Measured)-1]; last.What != AuditRoot || n != 3 {
		t.Errorf("%+v, %d blocks", last, n)
	}
	clock = result.Clock
	keys, err := verify.ParseKeys(key.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	report, err := verify.Log(os.DirFS(logDir), keys, verify.Options{Anchored: n, AnchorHash: hash, Trusted: [][]byte{e.Claims}})
	if err != nil || report.Blocks != 3 {
		t.Errorf("%+v, %v", report, err)
	}

	t.Run("log rolled back", func(t *testing.T) {
		if _, _, _, err := session(copyDir(t, tpmDir), oldLog); !errors.Is(err, auditchain.ErrRollback) {
			t.Error(err)
		}
		var bad *verify.Error
		if _, err := verify.Log(os.DirFS(oldLog), keys, verify.Options{Anchored: n, AnchorHash: hash}); !errors.As(err, &bad) || bad.Reason != verify.Rollback {
			t.Error(err)
		}
	})
	t.Run("TPM rolled back", func(t *testing.T) {
		if _, _, _, err := session(copyDir(t, oldTPM), logDir); !errors.Is(err, auditchain.ErrAnchor) {
			t.Error(err)
		}
	})
	t.Run("both rolled back", func(t *testing.T) {
		// This machine alone cannot know; a verifier does who saw the evidence before.
		e, _, _, err := session(copyDir(t, oldTPM), oldLog)
		if err != nil {
			t.Fatal(err)
		}
		p := policy
		p.Since = clock
		_, err = Verify(e, []byte("nonce"), p)
		expect(t, err, BadClock)
	})
	t.Run("another TPM", func(t *testing.T) {
		if _, _, _, err := session(t.TempDir(), logDir); !errors.Is(err, auditchain.ErrAnchor) {
			t.Error(err)
		}
	})
	t.Run("another secret", func(t *testing.T) {
		d := start(t, copyDir(t, tpmDir))
		defer stop(t, d)
		if _, err := d.NewAnchor(1, []byte("fedcba9876543210"), nil); err == nil {
			t.Error("who does not know the secret opened the anchor")
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		d := start(t, copyDir(t, tpmDir))
		defer stop(t, d)
		m, err := d.Measure()
		if err != nil {
			t.Fatal(err)
		}
		a, err := d.NewAnchor(1, secret, m)
		if err != nil {
			t.Fatal(err)
		}
		base, blocks, _, err := a.state()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.write(base, blocks+1, [32]byte{1}); err != nil { // the first of two writes
			t.Fatal(err)
		}
		if n, h, err := a.Last(); err != nil || n != blocks+1 || h != [32]byte{1} {
			t.Errorf("%d %x, %v", n, h, err)
		}
		m.log = make([]byte, maxLogSize) // a full log does not stop the audit
		if err := a.Extend(blocks+2, [32]byte{1}, [32]byte{}); err != nil {
			t.Error(err)
		}
		blocks++
		if err := a.Extend(blocks+5, [32]byte{}, [32]byte{}); err == nil {
			t.Error("a block was left out")
		}
		if err := a.write(base, blocks-1, [32]byte{1}); err != nil { // the space put back
			t.Fatal(err)
		}
		if _, _, err := a.Last(); !errors.Is(err, ErrRolledBack) {
			t.Error(err)
		}
	})
}

// TestAnchorSecret opens anchors with zero bytes in their secrets, where authorization values end for some.
func TestAnchorSecret(t *testing.T) {
	d := start(t, t.TempDir())
	defer stop(t, d)
	for i, at := range []int{0, 7, 31} {
		secret := bytes.Repeat([]byte{0xa5}, 32)
		secret[at] = 0
		for range 2 {
			a, err := d.NewAnchor(uint8(i), secret, nil)
			if err != nil {
				t.Fatalf("zero in byte %d: %v", at, err)
			}
			if _, _, err := a.Last(); err != nil {
				t.Errorf("zero in byte %d: %v", at, err)
			}
		}
	}
}

func TestSoftware(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir)
	if _, err := StartSoftware(dir); err == nil {
		t.Error("two swtpms share a state")
	}
	random := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8} // TPM2_GetRandom of 8 bytes
	if rsp, err := d.Command(random); err != nil || len(rsp) != 20 || !bytes.Equal(rsp[:12], []byte{0x80, 0x01, 0, 0, 0, 20, 0, 0, 0, 0, 0, 8}) {
		t.Errorf("%x, %v", rsp, err)
	}
	for _, cmd := range [][]byte{nil, random[:11], append(random, 0), make([]byte, 5000)} {
		if _, err := d.Command(cmd); err == nil {
			t.Errorf("the command %x was sent", cmd)
		}
	}
	pid := d.software.cmd.Process.Pid
	stop(t, d)
	if _, err := os.Stat(fmt.Sprint("/proc/", pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("swtpm %d is still there: %v", pid, err)
	}
	if _, err := OpenDevice(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := StartSoftware(filepath.Join(dir, "a,b")); err == nil {
		t.Error("a comma was taken")
	}
}

func FuzzEventLog(f *testing.F) {
	banks := []bank{hashes[0], hashes[1]}
	log := logHeader(banks)
	data := []byte("qenex kernel vmlinuz sha256:" + digestOf("x"))
	f.Add(appendEvent(log, 9, digests(banks, data), data))
	f.Add(log)
	f.Fuzz(func(t *testing.T, b []byte) {
		events, pcrs, err := parseLog(b)
		if err != nil {
			return
		}
		for _, e := range events {
			if _, ok := pcrs[e.pcr]; !ok {
				t.Fatalf("event %q made no PCR", e.data)
			}
			_, _ = measured(e, false)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte{0, 0x23}, []byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, []byte{0, 0x18}, []byte("log"))
	f.Fuzz(func(t *testing.T, ak, quoted, signature, log []byte) {
		e := &Evidence{AK: ak, Quoted: quoted, Signature: signature, Log: log}
		var bad *Error
		if _, err := Verify(e, nil, Policy{AK: ak}); !errors.As(err, &bad) {
			t.Fatal(err)
		}
		// Beyond the key and its signature.
		if attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](quoted); err == nil {
			_, _ = checkPCRs(attest, log, false)
		}
	})
}

// BenchmarkMeasure measures a kernel of 16 MiB: hashing and the TPM's part are shown apart.
func BenchmarkMeasure(b *testing.B) {
	d := start(b, b.TempDir())
	defer stop(b, d)
	m, err := d.Measure()
	if err != nil {
		b.Fatal(err)
	}
	kernel := make([]byte, 16<<20)
	n := 0
	for b.Loop() {
		n++
		if err := m.Bytes(Kernel, "vmlinuz", kernel); err != nil {
			b.Fatal(err)
		}
	}
	hashing, tpm := m.Times()
	b.ReportMetric(float64(hashing.Microseconds())/float64(n), "hashing-us/op")
	b.ReportMetric(float64(tpm.Microseconds())/float64(n), "tpm-us/op")
}
