package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
	"github.com/qenex/qenex-kernel/tpm"
)

// needSwtpm skips without a swtpm, and fails where the tests must not skip.
func needSwtpm(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("NOT RUN: swtpm is not installed")
	}
}

// keep runs a keeper until stop is called, or the test ends.
func keep(t testing.TB, state State, o Options) (stop func()) {
	t.Helper()
	needSwtpm(t)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- Serve(ctx, state, o, func(bool) { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal("keeper:", err)
	}
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-ended; err != nil {
				t.Error("keeper:", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func connect(t testing.TB, state State, vm string) *Client {
	t.Helper()
	c, err := Connect(state, vm, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // some tests have closed it, or their keeper
	return c
}

func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openItem(t testing.TB, what tpm.What, path string) Item {
	t.Helper()
	it, err := OpenItem(what, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { it.File.Close() })
	return it
}

// records reads the whole log, verified.
func records(t testing.TB, state State) []auditchain.Record {
	t.Helper()
	text, err := state.Public()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verify.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Log(os.DirFS(state.Log()), keys, verify.Options{}); err != nil {
		t.Fatal(err)
	}
	pub, err := auditchain.ParsePublic(text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := auditchain.OpenReader(state.Log(), pub)
	if err != nil {
		t.Fatal(err)
	}
	var list []auditchain.Record
	for e, err := range r.Records(0, r.Head().Size) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Record)
	}
	return list
}

func digestOf(s string) string { d := sha256.Sum256([]byte(s)); return hex.EncodeToString(d[:]) }

// TestEvidence measures a launch, quotes it, and verifies the quote with a policy made before; then each thing of another launch that
// differs is refused by name.
func TestEvidence(t *testing.T) {
	state := State{t.TempDir()}
	keep(t, state, Options{})
	dir := t.TempDir()
	paths := map[tpm.What]string{}
	for _, w := range []tpm.What{tpm.Kernel, tpm.Initramfs, tpm.Rootfs} {
		paths[w] = writeFile(t, filepath.Join(dir, string(w)), string(w))
	}
	launch := func(t *testing.T, vm string, cmdline string) *Launch {
		c := connect(t, state, vm)
		items := []Item{{What: tpm.CommandLine, Name: "cmdline", Bytes: []byte(cmdline)}, {What: tpm.Config, Name: "config", Bytes: []byte("{}")}}
		for w, p := range paths {
			items = append(items, openItem(t, w, p))
		}
		l, err := c.Measure(items)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := launch(t, "a", "quiet")
	if self, err := os.ReadFile("/proc/self/exe"); err != nil || l.List[0].What != tpm.Binary || hex.EncodeToString(l.List[0].Digest[:]) != digestOf(string(self)) {
		t.Errorf("the binary was measured as %v (%v)", l.List[0].Line(), err)
	}
	if !l.Software {
		t.Error("a swtpm passes for the host's TPM")
	}
	c := connect(t, state, "")
	public, err := state.Public()
	if err != nil {
		t.Fatal(err)
	}
	policy, err := PolicyOf(c, public)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	if policy, err = ParsePolicy(text); err != nil {
		t.Fatal(err)
	}
	nonce := []byte("nonce of a verifier")
	attest := func(t *testing.T) error {
		e, err := c.Quote(nonce)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(e, nonce, policy)
		return err
	}
	launch(t, "b", "quiet") // the same again
	if err := attest(t); err != nil {
		t.Fatal(err)
	}
	t.Run("another audit key", func(t *testing.T) {
		k, err := auditchain.NewKey("x/audit")
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.Quote(nonce)
		if err != nil {
			t.Fatal(err)
		}
		p := policy
		p.AuditKey = k.Public().String()
		var bad *verify.Error
		if _, err := Verify(e, nonce, p); !errors.As(err, &bad) {
			t.Errorf("%v", err)
		}
		p = policy
		p.AuditSize = 1 << 40
		if _, err := Verify(e, nonce, p); !errors.As(err, &bad) || bad.Reason != verify.Rollback {
			t.Errorf("a shorter audit log: %v", err)
		}
	})
	// From here on the PCRs have more than the policy allows: each case is looked for by its own digest.
	for _, w := range []tpm.What{tpm.Kernel, tpm.Initramfs, tpm.Rootfs, tpm.CommandLine} {
		t.Run(string(w), func(t *testing.T) {
			line := "quiet"
			if w == tpm.CommandLine {
				line = "quiet "
			} else {
				b, err := os.ReadFile(paths[w])
				if err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1
				writeFile(t, paths[w], string(b))
			}
			launch(t, "tampered", line)
			p := policy
			p.Golden = map[tpm.What][]string{w: policy.Golden[w]}
			e, err := c.Quote(nonce)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Verify(e, nonce, p)
			var bad *tpm.Error
			if !errors.As(err, &bad) || bad.Reason != tpm.BadValue || !strings.Contains(bad.Detail, string(w)+" tampered:") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestFileChanges wants a file refused that changes between its opening and its measuring, and its digest not remembered too early.
func TestFileChanges(t *testing.T) {
	state := State{t.TempDir()}
	stop := keep(t, state, Options{})
	c := connect(t, state, "vm")
	path := writeFile(t, filepath.Join(t.TempDir(), "kernel"), "one")
	it := openItem(t, tpm.Kernel, path)
	writeFile(t, path, "two")
	if err := os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Measure([]Item{it}); err == nil || !strings.Contains(err.Error(), errChanged.Error()) {
		t.Errorf("measuring a file that has changed: %v", err)
	}
	l, err := c.Measure([]Item{openItem(t, tpm.Kernel, path)})
	if err != nil || hex.EncodeToString(l.List[1].Digest[:]) != digestOf("two") {
		t.Errorf("measured %v, %v", l, err)
	}
	for _, w := range []tpm.What{tpm.Binary, tpm.AuditRoot} {
		if _, err := c.Measure([]Item{{What: w, Name: "x", Bytes: []byte("x")}}); err == nil {
			t.Errorf("a client measured its own %s", w)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if n := count(records(t, state), func(r auditchain.Record) bool {
		return r.Kind == auditchain.Fault && r.Verb == "measure" && r.VM == "vm"
	}); n != 3 {
		t.Errorf("%d records of launches that were refused, want 3", n)
	}
}

func count(list []auditchain.Record, f func(auditchain.Record) bool) (n int) {
	for _, r := range list {
		if f(r) {
			n++
		}
	}
	return n
}

func TestHasher(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "f"), "text")
	old := func() Item {
		it := openItem(t, tpm.Kernel, path)
		return it
	}
	var h hasher
	it := old()
	if d, err := h.digest(it); err != nil || hex.EncodeToString(d[:]) != digestOf("text") {
		t.Fatal(d, err)
	}
	if len(h.known) != 0 {
		t.Error("the digest of a file that has just changed was remembered")
	}
	// As if it had lain there for long: what is remembered is taken, not the content.
	h.known = map[identity][32]byte{it.id: {1}}
	if d, _ := h.digest(old()); d != [32]byte{1} {
		t.Errorf("a digest that is known was made again: %x", d)
	}
	writeFile(t, path, "TEXT")
	if d, err := h.digest(old()); err != nil || hex.EncodeToString(d[:]) != digestOf("TEXT") {
		t.Errorf("the digest of the file before: %x, %v", d, err)
	}
}

func TestTreeItem(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), "a")
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	sum := func() [32]byte {
		it, err := TreeItem(tpm.Rootfs, dir)
		if err != nil {
			t.Fatal(err)
		}
		return it.Digest
	}
	seen := [][32]byte{sum()}
	if sum() != seen[0] {
		t.Fatal("the same tree has two digests")
	}
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(filepath.Join(dir, "a"), []byte("b"), 0o600) },
		"mode":    func() error { return os.Chmod(filepath.Join(dir, "a"), 0o700) },
		"name":    func() error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")) },
		"link": func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "link")), os.Symlink("b", filepath.Join(dir, "link")))
		},
		"directory": func() error { return os.Mkdir(filepath.Join(dir, "d"), 0o700) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if d := sum(); slices.Contains(seen, d) {
			t.Errorf("another %s does not change the digest", name)
		} else {
			seen = append(seen, d)
		}
	}
}

// TestRecords wants everything that was sent in the log, by whom the kernel says, and a VM whose process ends without a word in it too.
func TestRecords(t *testing.T) {
	state := State{t.TempDir()}
	stop := keep(t, state, Options{})
	c := connect(t, state, "web")
	const calls = 20000
	if err := c.Record(auditchain.Record{Kind: auditchain.Launch, Verb: "run", Who: "somebody else"}); err != nil {
		t.Fatal(err)
	}
	for range calls {
		if err := c.Record(auditchain.Record{Kind: auditchain.Syscall, Who: "pid 7", Verb: "openat", VM: "another"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := len(records(t, state)); n < calls+1 {
		t.Errorf("%d records are on disk after Flush", n)
	}
	if err := c.Close(); err != nil { // without a Stop
		t.Fatal(err)
	}
	other := connect(t, state, "")
	if err := other.Record(auditchain.Record{Kind: auditchain.Command, Verb: "ps", VM: "web", Time: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	if a, err := other.Anchored(); err != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	stop()
	list := records(t, state)
	for what, f := range map[string]func(auditchain.Record) bool{
		"launch": func(r auditchain.Record) bool { return r.Kind == auditchain.Launch && strings.Contains(r.Who, " pid ") },
		"vanished": func(r auditchain.Record) bool {
			return r.Kind == auditchain.Fault && r.Verb == "vanished" && r.VM == "web"
		},
		"command": func(r auditchain.Record) bool {
			return r.Kind == auditchain.Command && r.VM == "web" && r.Time <= time.Now().UnixNano()
		},
	} {
		if n := count(list, f); n != 1 {
			t.Errorf("%d records of kind %s, want 1", n, what)
		}
	}
	if n := count(list, func(r auditchain.Record) bool {
		return r.Kind == auditchain.Syscall && r.VM == "web" && r.Who == "pid 7"
	}); n != calls {
		t.Errorf("%d system calls, want %d", n, calls)
	}
}

// TestKeeperGone wants whoever is audited to hear that the log cannot be written any more.
func TestKeeperGone(t *testing.T) {
	state := State{t.TempDir()}
	stop := keep(t, state, Options{})
	c := connect(t, state, "vm")
	stop()
	for c.Record(auditchain.Record{Kind: auditchain.Command, Verb: "x"}) == nil {
		if c.drain() != nil {
			break
		}
	}
	<-c.Lost()
	if err := c.Flush(); err == nil {
		t.Error("Flush without a keeper")
	}
	if _, err := Connect(state, "vm", nil); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("Connect without a keeper: %v", err)
	}
}

// TestRollback puts the audit log back to what it was, and then the TPM: the keeper refuses both. Both together, as the host of a swtpm
// can, it cannot tell; but who has seen later evidence does.
func TestRollback(t *testing.T) {
	state := State{t.TempDir()}
	round := func() {
		stop := keep(t, state, Options{})
		c := connect(t, state, "vm")
		if err := c.Record(auditchain.Record{Kind: auditchain.Command, Verb: "x"}); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	round()
	before := t.TempDir()
	if err := os.CopyFS(before, os.DirFS(state.Dir)); err != nil {
		t.Fatal(err)
	}
	round()
	for _, part := range []string{logDir, tpmDir} {
		t.Run(part, func(t *testing.T) {
			old := State{filepath.Join(t.TempDir(), "state")}
			if err := os.CopyFS(old.Dir, os.DirFS(state.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(old.path(part)); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(old.path(part), os.DirFS(filepath.Join(before, part))); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(old.path(keyFile), 0o600); err != nil { // CopyFS gives the group its bits
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			err := Serve(ctx, old, Options{}, func(bool) { cancel() })
			if !errors.Is(err, auditchain.ErrRollback) && !errors.Is(err, auditchain.ErrAnchor) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("both", func(t *testing.T) {
		public, err := state.Public()
		if err != nil {
			t.Fatal(err)
		}
		stop := keep(t, state, Options{})
		policy, err := PolicyOf(connect(t, state, ""), public)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		old := State{before}
		if err := os.Chmod(old.path(keyFile), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(old.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		keep(t, old, Options{})
		e, err := connect(t, old, "").Quote([]byte("nonce"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(e, []byte("nonce"), policy)
		var clock *tpm.Error
		var size *verify.Error
		if !(errors.As(err, &clock) && clock.Reason == tpm.BadClock) && !(errors.As(err, &size) && size.Reason == verify.Rollback) {
			t.Errorf("%v", err)
		}
	})
}

// TestIdle wants a keeper to end when nobody needs it, and start to be called once for many that come at the same time.
func TestIdle(t *testing.T) {
	needSwtpm(t)
	state := State{t.TempDir()}
	ended := make(chan error, 100)
	start := func() error {
		ready := make(chan error, 1)
		go func() {
			err := Serve(context.Background(), state, Options{Idle: 50 * time.Millisecond, Wait: true}, func(bool) { ready <- nil })
			ended <- err
			ready <- err
		}()
		return <-ready
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			c, err := Connect(state, "vm", start)
			if err == nil {
				err = c.Record(auditchain.Record{Kind: auditchain.Command, Verb: "x"})
				err = errors.Join(err, c.Flush(), c.Close())
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := count(records(t, state), func(r auditchain.Record) bool { return r.Kind == auditchain.Command }); n != cap(results) {
		t.Errorf("%d records, want %d", n, cap(results))
	}
}

func TestParsePolicy(t *testing.T) {
	for _, text := range []string{``, `{}`, `{"ak":"AA=="}`, `{"ak":"AA==","audit_key":"x","goldn":{}}`, `[]`} {
		if _, err := ParsePolicy([]byte(text)); err == nil {
			t.Errorf("policy %q was accepted", text)
		}
	}
}
