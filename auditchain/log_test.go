package auditchain

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/auditchain/verify"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var oneKey = sync.OnceValues(func() (*Key, error) { return NewKey("qenex.test/audit") })

func testKey(t testing.TB) *Key {
	k, err := oneKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testRecord(n int) Record {
	return Record{Kind: Command, Time: int64(n + 1), Who: "uid 1000", Verb: fmt.Sprint("verb-", n), VM: "vm-1", Args: [32]byte{byte(n), byte(n >> 8)}}
}

func addMany(t testing.TB, l *Log, from, to int) {
	for n := from; n < to; n++ {
		if _, err := l.Add(testRecord(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
}

func verifyDir(t testing.TB, dir string, o verify.Options) *verify.Report {
	t.Helper()
	return verifyFS(t, os.DirFS(dir), testKey(t), o)
}

func verifyFS(t testing.TB, f fs.FS, k *Key, o verify.Options) *verify.Report {
	t.Helper()
	keys, err := verify.ParseKeys(k.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Log(f, keys, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustOpen(t testing.TB, dir string, cfg Config) *Log {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = testKey(t)
	}
	l, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "new", "log")
	anchor := FileAnchor(filepath.Join(t.TempDir(), "anchor"))
	var want []Record
	for range 3 {
		l := mustOpen(t, dir, Config{Anchor: anchor, BlockInterval: time.Hour})
		if _, err := Open(dir, Config{Key: testKey(t)}); !errors.Is(err, ErrLocked) {
			t.Errorf("a second writer: %v", err)
		}
		index, err := l.Append(testRecord(len(want)))
		if err != nil {
			t.Fatal(err)
		}
		if index != uint64(len(want)) {
			t.Errorf("record %d, want %d", index, len(want))
		}
		want = append(want, testRecord(len(want)))
		from := len(want)
		addMany(t, l, from, from+300)
		for n := from; n < from+300; n++ {
			want = append(want, testRecord(n))
		}
		b, err := l.Seal()
		if err != nil || b.End != uint64(from+300) || b.Root != l.headAt(t, dir, b.End) {
			t.Errorf("block %+v, %v", b, err)
		}
		want = append(want, b.record())
		mustClose(t, l)
		if _, err := l.Add(testRecord(0)); !errors.Is(err, ErrClosed) {
			t.Errorf("add to a closed log: %v", err)
		}
	}
	n, hash, err := anchor.Last()
	if err != nil || n != 3 {
		t.Fatalf("%d blocks anchored, %v", n, err)
	}
	report := verifyDir(t, dir, verify.Options{Anchored: n, AnchorHash: hash})
	if report.Size != uint64(len(want)) || report.Blocks != 3 || report.Kinds["command"] != 903 || report.Kinds["block"] != 3 {
		t.Errorf("%+v, want %d records", report, len(want))
	}
	r, err := OpenReader(dir, testKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	for e, err := range r.Records(0, 1<<40) {
		if err != nil {
			t.Fatal(err)
		}
		if w := want[next]; e.Index != uint64(next) || e.Record != w {
			t.Errorf("record %d: %+v, want %+v", e.Index, e.Record, w)
		}
		next++
	}
	if next != len(want) {
		t.Errorf("%d records, want %d", next, len(want))
	}
	for h := range uint64(3) {
		if b, err := r.Block(h); err != nil || b.Height != h {
			t.Errorf("block %d: %+v, %v", h, b, err)
		}
	}
	if _, err := r.Block(3); err == nil {
		t.Error("block 3 of 3")
	}
}

// headAt is the root of the first size records, read from the tiles.
func (l *Log) headAt(t *testing.T, dir string, size uint64) tlog.Hash {
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(dir, l.cfg.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	h, err := tlog.TreeHash(int64(size), r.hashes())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// standardTiles reads the tiles as anyone would who knows C2SP tlog-tiles and x/mod, and nothing of this package.
type standardTiles struct{ dir string }

func (standardTiles) Height() int { return 8 }
func (s standardTiles) ReadTiles(list []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range list {
		b, err := os.ReadFile(filepath.Join(s.dir, strings.Replace(tile.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}
func (standardTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func TestStandardProofs(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Config{})
	addMany(t, l, 0, 300)
	old, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	addMany(t, l, 300, 1500)
	mustClose(t, l)

	verifier, err := note.NewVerifier(testKey(t).Public().NoteKey())
	if err != nil {
		t.Fatal(err)
	}
	head := func(msg []byte) (tree tlog.Tree) {
		n, err := note.Open(msg, note.VerifierList(verifier))
		if err != nil {
			t.Fatal(err)
		}
		var root string
		if _, err := fmt.Sscanf(n.Text, verifier.Name()+"\n%d\n%s\n", &tree.N, &root); err != nil {
			t.Fatal(err)
		}
		if tree.Hash, err = tlog.ParseHash(root); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	before, now := head(old), head(msg)
	hashes := tlog.TileHashReader(now, standardTiles{dir})

	consistent, err := tlog.ProveTree(now.N, before.N, hashes)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckTree(consistent, now.N, now.Hash, before.N, before.Hash); err != nil {
		t.Error(err)
	}
	keys, err := verify.ParseKeys(testKey(t).Public().String())
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(dir, testKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := r.ProveConsistency(uint64(before.N))
	if err != nil || len(ours) != len(consistent) {
		t.Fatal(len(ours), err)
	}
	var path [][]byte
	for _, h := range ours {
		path = append(path, h[:])
	}
	if err := verify.Consistency(keys, old, msg, path); err != nil {
		t.Error(err)
	}
	path[0] = bytes.Clone(path[0])
	path[0][5] ^= 1
	expect(t, "a consistency proof with a flipped bit", verify.Consistency(keys, old, msg, path), verify.Forked)
	expect(t, "the checkpoints swapped", verify.Consistency(keys, msg, old, path), verify.Rollback)

	for _, i := range []int64{0, 1, 255, 256, 299, 1023, now.N - 1} {
		proof, err := tlog.ProveRecord(now.N, i, hashes)
		if err != nil {
			t.Fatal(err)
		}
		entry, text, err := r.Prove(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, now.N, now.Hash, i, tlog.RecordHash(entry)); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
		if got, h, err := verify.Inclusion(keys, entry, text); err != nil || got != uint64(i) || h.Size != uint64(now.N) {
			t.Errorf("record %d: %d, %+v, %v", i, got, h, err)
		}
		entry[20] ^= 1
		_, _, err = verify.Inclusion(keys, entry, text)
		expect(t, "another record", err, verify.BadProof)
		entry[20] ^= 1
		_, _, err = verify.Inclusion(keys, entry, bytes.Replace(text, fmt.Appendf(nil, "index %d\n", i), fmt.Appendf(nil, "index %d\n", i^2), 1))
		expect(t, "another index", err, verify.BadProof)
		_, _, err = verify.Inclusion(keys, entry, bytes.Replace(text, fmt.Appendf(nil, "\n%d\n", now.N), fmt.Appendf(nil, "\n%d\n", now.N+1), 1))
		expect(t, "another size", err, verify.BadSignature)
	}
	if _, _, err := r.Prove(uint64(now.N)); err == nil {
		t.Error("a record that is not there was proved")
	}
}

// expect checks that err is the verifier's, for this reason.
func expect(t *testing.T, what string, err error, want verify.Reason) {
	t.Helper()
	var e *verify.Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("%s: %v; want the reason %q", what, err, want)
	}
}

func TestSealing(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Config{BlockInterval: time.Millisecond, CommitInterval: time.Millisecond, Difficulty: 6})
	if _, err := l.Append(testRecord(0)); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	for l.block == nil { // the interval alone seals
		l.changed.Wait()
	}
	l.mu.Unlock()
	mustClose(t, l)
	size := l.Head().Size
	report := verifyDir(t, dir, verify.Options{Difficulty: 6})
	if report.Size != size || report.Blocks != 1 || size != 2 {
		t.Errorf("%+v: a block's own record must not make a block", report)
	}
	// Opening and closing alone adds nothing.
	mustClose(t, mustOpen(t, dir, Config{}))
	if r := verifyDir(t, dir, verify.Options{}); r.Size != size {
		t.Errorf("%+v", r)
	}
	l = mustOpen(t, dir, Config{BlockInterval: time.Hour, BlockRecords: 100})
	addMany(t, l, 0, 100)
	l.mu.Lock()
	for l.block.Height != 1 { // the number alone seals
		l.changed.Wait()
	}
	l.mu.Unlock()
	mustClose(t, l)
	verifyDir(t, dir, verify.Options{})
	if _, err := Open(dir, Config{Key: testKey(t), Difficulty: MaxDifficulty + 1}); err == nil {
		t.Error("an impossible difficulty was taken")
	}
}

// slowStorage holds commits back until they are let go.
type slowStorage struct {
	storage
	hold chan struct{}
	held chan struct{} // gets a value when a commit waits
}

func (s *slowStorage) Rename(from, to string) error {
	select {
	case s.held <- struct{}{}:
	default:
	}
	<-s.hold
	return s.storage.Rename(from, to)
}

func openSlow(t *testing.T, dir string, cfg Config) (*Log, *slowStorage) {
	d, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &slowStorage{d, make(chan struct{}, 1), make(chan struct{}, 1)}
	s.hold <- struct{}{} // the first checkpoint
	cfg.Key, cfg.CommitInterval, cfg.BlockInterval = testKey(t), time.Nanosecond, time.Hour
	l, err := open(s, d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-s.held
	return l, s
}

func TestDrop(t *testing.T) {
	dir := t.TempDir()
	l, s := openSlow(t, dir, Config{MaxPending: 1000, Policy: Drop})
	var kept, dropped []int
	for n := 0; len(dropped) < 50; n++ {
		if n == 1 {
			<-s.held // with record 0: nothing is taken off the others before the end
		}
		switch _, err := l.Add(testRecord(n)); {
		case err == nil && len(dropped) == 0:
			kept = append(kept, n)
		case errors.Is(err, ErrDropped):
			dropped = append(dropped, n)
		default:
			t.Fatalf("record %d: %v after %d dropped", n, err, len(dropped))
		}
	}
	close(s.hold)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	addMany(t, l, 1000, 1001)
	mustClose(t, l)

	report := verifyDir(t, dir, verify.Options{})
	if report.Gaps != 50 || report.Kinds["gap"] != 1 || report.Kinds["command"] != uint64(len(kept)+1) {
		t.Errorf("%+v, want %d records and 50 dropped", report, len(kept)+1)
	}
	r, err := OpenReader(dir, testKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	var records []Record
	for _, n := range dropped {
		records = append(records, testRecord(n))
	}
	digest, err := GapDigest(testRecord(kept[len(kept)-1]), records)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range r.Records(uint64(len(kept)), uint64(len(kept)+1)) {
		if err != nil || e.Record.Kind != Gap || e.Record.Args != digest || e.Record.Result != 50 {
			t.Errorf("%+v, %v; want a gap of 50 with the digest %x", e, err, digest)
		}
	}
}

func TestWaitIsBounded(t *testing.T) {
	dir := t.TempDir()
	l, s := openSlow(t, dir, Config{MaxPending: 1000})
	const writers, each = 4, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				if _, err := l.Add(testRecord(w*each + n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	l.mu.Lock()
	for !l.full() {
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
	if n := len(l.cur.entries); n > 1000+256 {
		t.Errorf("%d bytes wait, more than allowed", n)
	}
	l.mu.Unlock()
	close(s.hold)
	wg.Wait()
	mustClose(t, l)
	if r := verifyDir(t, dir, verify.Options{}); r.Kinds["command"] != writers*each || r.Gaps != 0 {
		t.Errorf("%+v", r)
	}
}

func TestFailure(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Config{})
	addMany(t, l, 0, 10)
	p, err := l.Add(testRecord(10))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	l.fail(broken)
	if err := p.Wait(); !errors.Is(err, broken) {
		t.Errorf("wait: %v", err)
	}
	if _, err := l.Add(testRecord(11)); !errors.Is(err, broken) {
		t.Errorf("add: %v", err)
	}
	if err := errors.Join(l.Flush(), l.Err()); !errors.Is(err, broken) {
		t.Errorf("flush: %v", err)
	}
	if err := l.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
	mustClose(t, mustOpen(t, dir, Config{}))
	if r := verifyDir(t, dir, verify.Options{}); r.Kinds["command"] != 10 {
		t.Errorf("%+v", r)
	}
}

func TestRefused(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Config{})
	defer mustClose(t, l)
	for _, k := range []Kind{0, Block, Gap, Trim, 200} {
		if _, err := l.Add(Record{Kind: k}); err == nil {
			t.Errorf("a record of kind %v was taken", k)
		}
	}
	if _, err := Open(t.TempDir(), Config{}); err == nil {
		t.Error("no key")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "log"), Config{Key: testKey(t)}); err == nil {
		t.Error("a log below a file")
	}
}

func TestKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	k, err := CreateKey(file, "host.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateKey(file, "host.example/audit"); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was written over: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	again, err := LoadKey(file)
	if err != nil || again.Public().String() != k.Public().String() {
		t.Fatal(err)
	}
	p, err := ParsePublic(k.Public().String())
	if err != nil || p.String() != k.Public().String() || p.Name() != "host.example/audit" {
		t.Fatal(p, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(file); err == nil {
		t.Error("a key that the group can read was taken")
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "a\xff", strings.Repeat("a", 256)} {
		if _, err := NewKey(name); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, text := range []string{"", "x\ny\nz\n", strings.Replace(p.String(), "mldsa44", "mldsa65", 1), strings.Replace(p.String(), "v1", "v2", 1), p.String() + "\n"} {
		if _, err := ParsePublic(text); err == nil {
			t.Errorf("public key %q was taken", text)
		}
	}
}
