package auditchain

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/qenex/qenex-kernel/auditchain/verify"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// history is a log as it was at some times, and what its anchor said then.
type history struct {
	key    *Key
	states []fstest.MapFS
	anchor []verify.Options
}

// makeHistory makes a log of three blocks and a rest: 300, 301 and 301 records, then 5.
func makeHistory(t testing.TB, k *Key, verb string) *history {
	dir := t.TempDir()
	anchor := FileAnchor(filepath.Join(t.TempDir(), "anchor"))
	l := mustOpen(t, dir, Config{Key: k, Anchor: anchor, BlockInterval: time.Hour})
	h := &history{key: k}
	add := func(count int) {
		for n := range count {
			r := testRecord(n)
			r.Verb += verb
			if _, err := l.Add(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep := func() {
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		n, hash, err := anchor.Last()
		if err != nil {
			t.Fatal(err)
		}
		h.states = append(h.states, copyLog(t, dir))
		h.anchor = append(h.anchor, verify.Options{Anchored: n, AnchorHash: hash})
	}
	for range 3 {
		add(300)
		if _, err := l.Seal(); err != nil {
			t.Fatal(err)
		}
		keep()
	}
	add(5)
	keep()
	mustClose(t, l)
	return h
}

// copyLog copies what a verifier reads of a log.
func copyLog(t testing.TB, dir string) fstest.MapFS {
	m := fstest.MapFS{}
	f := readFS{os.DirFS(dir), map[string]bool{}}
	verifyFS(t, f, testKeyOf(t, dir), verify.Options{})
	for name := range f.names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		m[name] = &fstest.MapFile{Data: b}
	}
	return m
}

func testKeyOf(t testing.TB, dir string) *Key {
	b, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range testKeys {
		if strings.HasPrefix(string(b), k.name+"\n") {
			if _, err := k.Public().openHead(b); err == nil {
				return k
			}
		}
	}
	t.Fatalf("whose log is %s?", b)
	return nil
}

var testKeys []*Key

// readFS notes which files are opened.
type readFS struct {
	fs.FS
	names map[string]bool
}

func (f readFS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err == nil {
		f.names[name] = true
	}
	return file, err
}

func clone(m fstest.MapFS) fstest.MapFS {
	c := fstest.MapFS{}
	for name, f := range m {
		c[name] = &fstest.MapFile{Data: bytes.Clone(f.Data)}
	}
	return c
}

// bundleOf takes a bundle apart, and joinBundle puts it together again.
func bundleOf(t testing.TB, data []byte) (entries [][]byte) {
	for len(data) > 0 {
		var e []byte
		var err error
		if e, data, err = nextEntry(data); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

func joinBundle(entries [][]byte) (data []byte) {
	for _, e := range entries {
		data = appendEntry(data, e)
	}
	return data
}

// resign makes the tree and the checkpoint anew over changed entries, as somebody can who has that key.
func resign(t testing.TB, m fstest.MapFS, k *Key) {
	tr := &tree{}
	for name := range m {
		if strings.HasPrefix(name, "tile/0") || strings.HasPrefix(name, "tile/1") {
			delete(m, name)
		}
	}
	put := func(level int, n uint64, data []byte) {
		m[tilePath(level, n, len(data)/tlog.HashSize)] = &fstest.MapFile{Data: bytes.Clone(data)}
	}
	var names []string
	for name := range m {
		if strings.HasPrefix(name, "tile/entries/") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		for _, e := range bundleOf(t, m[name].Data) {
			tr.add(tlog.RecordHash(e), put)
		}
	}
	for level, data := range tr.tiles {
		if len(data) > 0 {
			put(level, tr.size>>(tileHeight*(level+1)), data)
		}
	}
	msg, err := k.signHead(Head{tr.size, tr.root()})
	if err != nil {
		t.Fatal(err)
	}
	m["checkpoint"] = &fstest.MapFile{Data: msg}
}

// editBlock changes a block of the file.
func editBlock(t testing.TB, m fstest.MapFS, n int, edit func(*SealedBlock)) {
	b, err := decodeBlock(m["blocks"].Data[n*blockSize:][:blockSize])
	if err != nil {
		t.Fatal(err)
	}
	edit(b)
	copy(m["blocks"].Data[n*blockSize:], b.encode())
}

// TestTamper is the tamper matrix of the log: one subtest a cell, and every one is rejected for the reason it names.
func TestTamper(t *testing.T) {
	k := testKey(t)
	other, err := NewKey(k.name) // another key of the same name
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := NewKey("qenex.test/other")
	if err != nil {
		t.Fatal(err)
	}
	testKeys = []*Key{k, other, elsewhere}
	h := makeHistory(t, k, "")
	fork := makeHistory(t, k, "-forked")
	strangers := makeHistory(t, other, "")
	another := makeHistory(t, elsewhere, "")
	last := len(h.states) - 1
	keys, err := verify.ParseKeys(k.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	full, partial := "tile/entries/000", ""
	for name := range h.states[last] {
		if strings.HasPrefix(name, "tile/entries/003.p/") {
			partial = name
		}
	}
	flip := func(name string, at int) func(*testing.T, fstest.MapFS, *verify.Options) {
		return func(t *testing.T, m fstest.MapFS, _ *verify.Options) {
			if at < 0 {
				at += len(m[name].Data)
			}
			m[name].Data[at] ^= 1
		}
	}
	tampered := func(f func(t *testing.T, m fstest.MapFS)) func(*testing.T, fstest.MapFS, *verify.Options) {
		return func(t *testing.T, m fstest.MapFS, _ *verify.Options) { f(t, m) }
	}
	edit := func(name string, f func([]byte) []byte) func(*testing.T, fstest.MapFS, *verify.Options) {
		return tampered(func(_ *testing.T, m fstest.MapFS) { m[name].Data = f(m[name].Data) })
	}
	replace := func(with fstest.MapFS) func(*testing.T, fstest.MapFS, *verify.Options) {
		return tampered(func(_ *testing.T, m fstest.MapFS) { clear(m); maps.Copy(m, clone(with)) })
	}
	bundle := func(name string, f func([][]byte) [][]byte) func(*testing.T, fstest.MapFS, *verify.Options) {
		return tampered(func(t *testing.T, m fstest.MapFS) { m[name].Data = joinBundle(f(bundleOf(t, m[name].Data))) })
	}
	block := func(n int, signed bool, f func(*SealedBlock)) func(*testing.T, fstest.MapFS, *verify.Options) {
		return tampered(func(t *testing.T, m fstest.MapFS) {
			editBlock(t, m, n, func(b *SealedBlock) {
				if f(b); signed {
					if err := b.sign(k); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
	swap := func(s [][]byte, i, j int) [][]byte { s[i], s[j] = s[j], s[i]; return s }
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	both := func(a, b func(*testing.T, fstest.MapFS, *verify.Options)) func(*testing.T, fstest.MapFS, *verify.Options) {
		return func(t *testing.T, m fstest.MapFS, o *verify.Options) { a(t, m, o); b(t, m, o) }
	}
	rewritten := tampered(func(t *testing.T, m fstest.MapFS) { resign(t, m, k) }) // by somebody who has the Ed25519 key
	rebuilt := func(f func([][]byte) [][]byte) func(*testing.T, fstest.MapFS, *verify.Options) {
		return tampered(func(t *testing.T, m fstest.MapFS) {
			e := f(bundleOf(t, m[partial].Data))
			delete(m, partial)
			m[tilePath(entriesLevel, 3, len(e))] = &fstest.MapFile{Data: joinBundle(e)}
			resign(t, m, k)
		})
	}

	for _, c := range []struct {
		name   string
		tamper func(*testing.T, fstest.MapFS, *verify.Options)
		want   verify.Reason
	}{
		// A bit.
		{"bit in a record", flip(full, 40), verify.BadTile},
		{"bit in a record's length", flip(full, 1), verify.BadTile},
		{"bit in a record of the last bundle", flip(partial, -3), verify.BadTile},
		{"bit in a record's version", flip(full, 2), verify.BadTile},
		{"bit in a block's magic", flip("blocks", 3), verify.BadBlock},
		{"bit in a block's log", flip("blocks", 20), verify.OtherLog},
		{"bit in a block's height", flip("blocks", 55), verify.BlockSignature},
		{"bit in a block's range", flip("blocks", 71), verify.BlockSignature},
		{"bit in a block's time", flip("blocks", blockSize+79), verify.BlockSignature},
		{"bit in a block's nonce", flip("blocks", 87), verify.BlockSignature},
		{"bit in a block's previous hash", flip("blocks", blockSize+90), verify.BlockSignature},
		{"bit in a block's root", flip("blocks", 2*blockSize+130), verify.BlockSignature},
		{"bit in a block's Ed25519 signature", flip("blocks", headerSize+5), verify.BlockSignature},
		{"bit in a block's ML-DSA-44 signature", flip("blocks", -1), verify.BlockSignature},
		{"bit in the checkpoint's name", flip("checkpoint", 0), verify.OtherLog},
		{"bit in the checkpoint's size", flip("checkpoint", len(k.name)+1), verify.BadSignature},
		{"bit in the checkpoint's root", flip("checkpoint", len(k.name)+9), verify.BadSignature},
		{"bit in the checkpoint's signature", flip("checkpoint", -20), verify.BadSignature},
		{"bit in a tile", flip("tile/0/001", 500), verify.BadTile},
		{"bit in the last tile", flip(strings.Replace(partial, "entries", "0", 1), 0), verify.BadTile},
		{"bit in a tile of level 1", flip("tile/1/000.p/3", 33), verify.BadTile},
		{"bit in a record, rewritten tree", both(flip(full, 40), rewritten), verify.BadBlock},
		{"bit in a record after the last block, rewritten tree", both(flip(partial, -3), func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			o.Trusted = [][]byte{m["checkpoint"].Data}
			rewritten(t, m, o)
		}), verify.Forked},

		// Drop.
		{"a record dropped", bundle(full, func(e [][]byte) [][]byte { return slices.Delete(e, 7, 8) }), verify.BadTile},
		{"the last record dropped", bundle(partial, func(e [][]byte) [][]byte { return e[:len(e)-1] }), verify.BadEntries},
		{"a record dropped, rewritten tree", rebuilt(func(e [][]byte) [][]byte { return e[1:] }), verify.BlockChain},
		{"a bundle dropped", tampered(func(_ *testing.T, m fstest.MapFS) { delete(m, "tile/entries/001") }), verify.BadEntries},
		{"a tile dropped", tampered(func(_ *testing.T, m fstest.MapFS) { delete(m, "tile/0/002") }), verify.BadTile},
		{"the checkpoint dropped", tampered(func(_ *testing.T, m fstest.MapFS) { delete(m, "checkpoint") }), verify.BadCheckpoint},
		{"the first block dropped", edit("blocks", func(b []byte) []byte { return b[blockSize:] }), verify.BlockChain},
		{"a block dropped", edit("blocks", func(b []byte) []byte { return slices.Delete(b, blockSize, 2*blockSize) }), verify.BlockChain},
		{"the last block dropped", edit("blocks", cut(blockSize)), verify.BlockChain},
		{"all blocks dropped", tampered(func(_ *testing.T, m fstest.MapFS) { delete(m, "blocks") }), verify.BlockChain},
		{"all blocks and their records dropped, rewritten tree", func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			var all [][]byte
			for _, name := range slices.Sorted(maps.Keys(m)) {
				if strings.HasPrefix(name, "tile/entries/") {
					all = append(all, bundleOf(t, m[name].Data)...)
					delete(m, name)
				}
			}
			delete(m, "blocks")
			all = slices.DeleteFunc(all, func(e []byte) bool { return Kind(e[1]) == Block })
			for n := 0; n*tileWidth < len(all); n++ {
				e := all[n*tileWidth : min(len(all), (n+1)*tileWidth)]
				m[tilePath(entriesLevel, uint64(n), len(e))] = &fstest.MapFile{Data: joinBundle(e)}
			}
			o.Unsealed = 500
			rewritten(t, m, o)
		}, verify.BadBlock},

		// Reorder.
		{"two records swapped", bundle(full, func(e [][]byte) [][]byte { return swap(e, 3, 4) }), verify.BadTile},
		{"two records swapped, rewritten tree", both(bundle(full, func(e [][]byte) [][]byte { return swap(e, 3, 4) }), rewritten), verify.BadBlock},
		{"two bundles swapped", tampered(func(_ *testing.T, m fstest.MapFS) {
			m["tile/entries/000"], m["tile/entries/002"] = m["tile/entries/002"], m["tile/entries/000"]
		}), verify.BadTile},
		{"two blocks swapped", edit("blocks", func(b []byte) []byte {
			return slices.Concat(b[:blockSize], b[2*blockSize:], b[blockSize:2*blockSize])
		}), verify.BlockChain},

		// Truncate.
		{"a bundle cut", edit(full, cut(1)), verify.BadEntries},
		{"a tile cut", edit("tile/0/000", cut(hashLen)), verify.BadTile},
		{"a block cut", edit("blocks", cut(100)), verify.BadBlock},
		{"the checkpoint cut", edit("checkpoint", cut(5)), verify.BadCheckpoint},
		{"the records cut to an older checkpoint", tampered(func(_ *testing.T, m fstest.MapFS) {
			blocks := m["blocks"]
			clear(m)
			maps.Copy(m, clone(h.states[1]))
			m["blocks"] = blocks
		}), verify.Rollback},
		{"something after a bundle", edit(full, func(b []byte) []byte { return append(b, 0, 0) }), verify.BadEntries},
		{"something after a tile", edit("tile/0/000", func(b []byte) []byte { return append(b, b[:32]...) }), verify.BadTile},
		{"something after the blocks", edit("blocks", func(b []byte) []byte { return append(b, 0) }), verify.BadBlock},

		// Fork: the same key signs another history.
		{"fork, a trusted checkpoint", func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			o.Trusted = [][]byte{h.states[1]["checkpoint"].Data}
			replace(fork.states[last])(t, m, o)
		}, verify.Forked},
		{"fork, the anchor", func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			*o = h.anchor[last]
			replace(fork.states[last])(t, m, o)
		}, verify.Forked},
		{"another fork's block", tampered(func(_ *testing.T, m fstest.MapFS) {
			copy(m["blocks"].Data, fork.states[0]["blocks"].Data)
		}), verify.BadBlock},
		{"another fork's last block", tampered(func(_ *testing.T, m fstest.MapFS) {
			copy(m["blocks"].Data[2*blockSize:], fork.states[2]["blocks"].Data[2*blockSize:])
		}), verify.BlockChain},
		{"a block for other records, signed", block(1, true, func(b *SealedBlock) { b.Root[0] ^= 1 }), verify.BadBlock},
		{"a block made again, signed", block(2, true, func(b *SealedBlock) { b.Time++ }), verify.BlockChain},
		{"a block with another range, signed", block(1, true, func(b *SealedBlock) { b.First++ }), verify.BlockChain},
		{"a block older than the one before, signed", block(1, true, func(b *SealedBlock) { b.Time = 0 }), verify.BlockChain},
		{"a block that lies about its work, signed", block(0, true, func(b *SealedBlock) { b.Difficulty = 30 }), verify.ProofOfWork},
		{"no work where some is wanted", func(_ *testing.T, _ fstest.MapFS, o *verify.Options) { o.Difficulty = 1 }, verify.ProofOfWork},
		{"a block with a stranger's ML-DSA-44 signature", tampered(func(t *testing.T, m fstest.MapFS) {
			editBlock(t, m, 2, func(b *SealedBlock) {
				mine := b.ed25519
				if err := b.sign(other); err != nil {
					t.Fatal(err)
				}
				b.ed25519 = mine
			})
		}), verify.BlockSignature},
		{"a block with a stranger's Ed25519 signature", tampered(func(t *testing.T, m fstest.MapFS) {
			editBlock(t, m, 2, func(b *SealedBlock) {
				mine := b.mldsa
				if err := b.sign(other); err != nil {
					t.Fatal(err)
				}
				b.mldsa = mine
			})
		}), verify.BlockSignature},

		// Replay.
		{"a bundle replayed", tampered(func(_ *testing.T, m fstest.MapFS) { m["tile/entries/001"] = m["tile/entries/000"] }), verify.BadTile},
		{"a block's record replayed, rewritten tree", rebuilt(func(e [][]byte) [][]byte {
			i := slices.IndexFunc(e, func(e []byte) bool { return Kind(e[1]) == Block })
			return append(e, e[i])
		}), verify.BadRecord},
		{"a record that is none, rewritten tree", rebuilt(func(e [][]byte) [][]byte { return append(e, []byte("hello")) }), verify.BadRecord},
		{"a block replayed", edit("blocks", func(b []byte) []byte { return append(b, b[2*blockSize:]...) }), verify.BlockChain},
		{"a log with a stranger's key", replace(strangers.states[last]), verify.BadSignature},
		{"a log of another name", replace(another.states[last]), verify.OtherLog},
		{"the blocks of another log", tampered(func(_ *testing.T, m fstest.MapFS) { m["blocks"] = another.states[last]["blocks"] }), verify.OtherLog},
		{"the blocks of a stranger", tampered(func(_ *testing.T, m fstest.MapFS) { m["blocks"] = strangers.states[last]["blocks"] }), verify.BlockSignature},

		// Roll back.
		{"files rolled back, the anchor not", func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			*o = h.anchor[last]
			replace(h.states[1])(t, m, o)
		}, verify.Rollback},
		{"files and anchor rolled back, a trusted checkpoint", func(t *testing.T, m fstest.MapFS, o *verify.Options) {
			*o = h.anchor[1]
			o.Trusted = [][]byte{m["checkpoint"].Data}
			replace(h.states[1])(t, m, o)
		}, verify.Rollback},
		{"nothing", func(_ *testing.T, _ fstest.MapFS, o *verify.Options) {
			*o = h.anchor[last]
			o.Trusted = [][]byte{h.states[0]["checkpoint"].Data, h.states[last]["checkpoint"].Data}
			o.Unsealed = 500
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := clone(h.states[last])
			var o verify.Options
			c.tamper(t, m, &o)
			_, err := verify.Log(m, keys, o)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect(t, c.name, err, c.want)
		})
	}

	// Every bit matters: any flipped bit of any file that a verifier reads is found.
	t.Run("any bit", func(t *testing.T) {
		good := h.states[last]
		names := slices.Sorted(maps.Keys(good))
		rnd := rand.New(rand.NewPCG(1, 2))
		tries := 400
		if testing.Short() {
			tries = 50
		}
		for range tries {
			name := names[rnd.IntN(len(names))]
			m := maps.Clone(good)
			b := bytes.Clone(good[name].Data)
			bit := rnd.IntN(8 * len(b))
			b[bit/8] ^= 1 << (bit % 8)
			m[name] = &fstest.MapFile{Data: b}
			var e *verify.Error
			if _, err := verify.Log(m, keys, verify.Options{}); !errors.As(err, &e) {
				t.Errorf("bit %d of %s: %v", bit, name, err)
			}
		}
	})
}

const hashLen = tlog.HashSize

// TestTamperedOpen is what a writer finds when it opens a log that was changed: it must not sign what comes after.
func TestTamperedOpen(t *testing.T) {
	k := testKey(t)
	testKeys = []*Key{k}
	h := makeHistory(t, k, "")
	fork := makeHistory(t, k, "-forked")
	last := len(h.states) - 1
	for _, c := range []struct {
		name   string
		files  fstest.MapFS
		anchor verify.Options
		tamper func(m fstest.MapFS)
		want   error
	}{
		{"nothing", h.states[last], h.anchor[last], func(fstest.MapFS) {}, nil},
		{"checkpoint", h.states[last], h.anchor[last], func(m fstest.MapFS) { m["checkpoint"].Data[20] ^= 1 }, ErrTampered},
		{"checkpoint gone", h.states[last], h.anchor[last], func(m fstest.MapFS) { delete(m, "checkpoint") }, ErrTampered},
		{"all gone", fstest.MapFS{}, h.anchor[last], func(fstest.MapFS) {}, ErrRollback},
		{"last tile", h.states[last], h.anchor[last], func(m fstest.MapFS) { m["tile/1/000.p/3"].Data[0] ^= 1 }, ErrTampered},
		{"last bundle", h.states[last], h.anchor[last], func(m fstest.MapFS) {
			for name, f := range m {
				if strings.HasPrefix(name, "tile/entries/003.p") {
					f.Data[30] ^= 1
				}
			}
		}, ErrTampered},
		{"last block", h.states[last], verify.Options{}, func(m fstest.MapFS) { m["blocks"].Data[3*blockSize-1] ^= 1 }, ErrTampered},
		{"block before", h.states[last], verify.Options{}, func(m fstest.MapFS) { m["blocks"].Data[2*blockSize-1] ^= 1 }, ErrTampered},
		{"last block gone", h.states[last], verify.Options{}, func(m fstest.MapFS) { m["blocks"].Data = m["blocks"].Data[:2*blockSize] }, ErrTampered},
		{"rolled back", h.states[1], h.anchor[last], func(fstest.MapFS) {}, ErrRollback},
		{"records rolled back", h.states[1], verify.Options{}, func(m fstest.MapFS) { m["blocks"] = h.states[last]["blocks"] }, ErrRollback},
		{"anchor rolled back", h.states[last], h.anchor[1], func(fstest.MapFS) {}, ErrAnchor},
		{"forked", fork.states[last], h.anchor[last], func(fstest.MapFS) {}, ErrTampered},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := clone(c.files)
			c.tamper(m)
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, m); err != nil {
				t.Fatal(err)
			}
			anchor := FileAnchor(filepath.Join(t.TempDir(), "anchor"))
			if c.anchor.Anchored > 0 {
				if err := os.WriteFile(string(anchor), fmt.Appendf(nil, "%d %x\n", c.anchor.Anchored, c.anchor.AnchorHash), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg := Config{Key: k}
			if c.anchor.Anchored > 0 {
				cfg.Anchor = anchor
			}
			l, err := Open(dir, cfg)
			if err == nil {
				err = errors.Join(err, l.Close())
			}
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// brokenAnchor is an Anchor that lost its power.
type brokenAnchor struct{ memoryAnchor }

func (*brokenAnchor) Extend(uint64, [32]byte, [32]byte) error { return errPower }

// A block that the anchor was not told, because of a crash in between, it is told by the next Open. An anchor that knows nothing is
// told all blocks if it is said to be new, and refused otherwise.
func TestAnchorCatchesUp(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Config{Anchor: &brokenAnchor{}, BlockInterval: time.Hour})
	addMany(t, l, 0, 10)
	if _, err := l.Seal(); !errors.Is(err, errPower) {
		t.Errorf("seal: %v", err)
	}
	if err := l.Close(); !errors.Is(err, errPower) {
		t.Errorf("close: %v", err)
	}
	anchor := &memoryAnchor{}
	l = mustOpen(t, dir, Config{Anchor: anchor, BlockInterval: time.Hour})
	if anchor.blocks != 1 {
		t.Errorf("%d blocks were anchored, want 1", anchor.blocks)
	}
	addMany(t, l, 10, 20)
	mustClose(t, l)
	verifyDir(t, dir, verify.Options{Anchored: 2, AnchorHash: anchor.hash})

	adopted := &memoryAnchor{}
	if _, err := Open(dir, Config{Key: testKey(t), Anchor: adopted}); !errors.Is(err, ErrAnchor) {
		t.Errorf("an anchor that knows nothing: %v", err)
	}
	mustClose(t, mustOpen(t, dir, Config{Anchor: adopted, Adopt: true}))
	if *adopted != *anchor {
		t.Errorf("%+v, want %+v", adopted, anchor)
	}
}

// Who reads on finds out that the log was put back or exchanged meanwhile.
func TestReadOn(t *testing.T) {
	k := testKey(t)
	testKeys = []*Key{k}
	h, fork := makeHistory(t, k, ""), makeHistory(t, k, "-forked")
	for _, c := range []struct {
		name string
		now  fstest.MapFS
		want error
	}{{"same", h.states[1], nil}, {"more", h.states[3], nil}, {"less", h.states[0], ErrRollback}, {"others", fork.states[3], ErrTampered}} {
		m := clone(h.states[1])
		r, err := openReader(m, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		clear(m)
		maps.Copy(m, c.now)
		next, err := r.Next()
		if !errors.Is(err, c.want) || err == nil && next.Head().Size < r.Head().Size {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestCosign(t *testing.T) {
	k := testKey(t)
	dir := t.TempDir()
	l := mustOpen(t, dir, Config{})
	addMany(t, l, 0, 10)
	r, err := OpenReader(dir, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	addMany(t, l, 10, 400)
	mustClose(t, l)

	var vkeys []string
	var verifiers []note.Verifier
	var lines []string
	for i := range 2 {
		vkey, line := cosign(t, fmt.Sprintf("witness-%d.test", i), r.Checkpoint())
		w, err := NewWitness(vkey)
		if err != nil {
			t.Fatal(err)
		}
		vkeys, verifiers, lines = append(vkeys, vkey), append(verifiers, w), append(lines, line)
	}
	if err := AddCosignatures(dir, k.Public(), r.Checkpoint(), verifiers...); err == nil {
		t.Error("a checkpoint without cosignatures was taken")
	}
	for i, line := range lines { // one after the other, and both are kept
		msg := append(r.Checkpoint(), line...)
		bad := bytes.Clone(msg)
		bad[len(bad)-10] ^= 1
		if err := AddCosignatures(dir, k.Public(), bad, verifiers[i]); err == nil {
			t.Error("a wrong cosignature was taken")
		}
		if err := AddCosignatures(dir, k.Public(), msg, verifiers[i]); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(filepath.Join(dir, "cosigned", "10"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := verify.Cosigned(kept, vkeys); err != nil || n != 2 {
		t.Errorf("%d cosignatures, %v:\n%s", n, err, kept)
	}
	verifyDir(t, dir, verify.Options{Trusted: [][]byte{kept}})
	bad := bytes.Replace(kept, []byte("\n10\n"), []byte("\n11\n"), 1)
	if n, _ := verify.Cosigned(bad, vkeys); n != 0 {
		t.Errorf("%d cosignatures of another checkpoint", n)
	}
	other, err := k.signHead(Head{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	_, line := cosign(t, "witness-0.test", other)
	if err := AddCosignatures(dir, k.Public(), append(other, line...), verifiers...); !errors.Is(err, ErrTampered) {
		t.Errorf("another log's checkpoint: %v", err)
	}
}
