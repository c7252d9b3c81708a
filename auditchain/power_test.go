package auditchain

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/qenex/qenex-kernel/auditchain/verify"
)

var errPower = errors.New("the power is gone")

// inode is a file or a directory.
type inode struct {
	dir   bool
	data  []byte // as programs see it
	disk  []byte // as it surely is on disk
	dirty bool   // data was not synced: beyond the first keep bytes of disk any mixture of both may be on disk
	keep  int
}

// powerFS is a storage in memory that can lose its power at any step: then whatever was not synced is there or is not.
type powerFS struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	live  map[string]*inode // as programs see it
	disk  map[string]*inode // the names that are surely on disk
	steps int               // so far
	limit int               // the step at which the power goes; 0 for never
}

func newPowerFS(seed uint64) *powerFS {
	root := &inode{dir: true}
	return &powerFS{rnd: rand.New(rand.NewPCG(seed, 1)), live: map[string]*inode{".": root}, disk: map[string]*inode{".": root}}
}

// step is taken before every change; mu is held.
func (p *powerFS) step() error {
	if p.steps++; p.limit > 0 && p.steps >= p.limit {
		return errPower
	}
	return nil
}

func (p *powerFS) write(name string, keep int64, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	if d := p.live[path.Dir(name)]; d == nil || !d.dir {
		return fs.ErrNotExist
	}
	i := p.live[name]
	if i == nil {
		i = &inode{}
		p.live[name] = i
	}
	i.dirty, i.keep = true, int(min(keep, int64(len(i.disk))))
	if err := p.step(); err != nil {
		return err
	}
	i.data = append(append(bytes.Clone(i.data[:min(keep, int64(len(i.data)))]), make([]byte, max(0, keep-int64(len(i.data))))...), data...)
	if err := p.step(); err != nil {
		return err
	}
	i.disk, i.dirty = i.data, false
	return nil
}

func (p *powerFS) WriteSync(name string, data []byte) error { return p.write(name, 0, data) }

func (p *powerFS) AppendSync(name string, size int64, data []byte) error {
	return p.write(name, size, data)
}

func (p *powerFS) Mkdir(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	for ; p.live[name] == nil; name = path.Dir(name) {
		p.live[name] = &inode{dir: true}
	}
	return nil
}

func (p *powerFS) SyncDir(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	for name := range p.disk {
		if path.Dir(name) == dir && p.live[name] == nil {
			delete(p.disk, name)
		}
	}
	for name, i := range p.live {
		if path.Dir(name) == dir {
			p.disk[name] = i
		}
	}
	return nil
}

func (p *powerFS) Rename(from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	p.live[to] = p.live[from]
	delete(p.live, from)
	return nil
}

func (p *powerFS) RemoveAll(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.live {
		if n == name || len(n) > len(name) && n[:len(name)+1] == name+"/" {
			if err := p.step(); err != nil {
				return err
			}
			delete(p.live, n)
		}
	}
	return nil
}

func (p *powerFS) Open(name string) (fs.File, error) { return p.files(name).Open(name) }

// files is what lies at or below name.
func (p *powerFS) files(name string) fstest.MapFS {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := fstest.MapFS{}
	for n, i := range p.live {
		if n == name || name == "." || len(n) > len(name) && n[:len(name)+1] == name+"/" {
			m[n] = &fstest.MapFile{Data: i.data}
			if i.dir {
				m[n].Mode = fs.ModeDir | 0o700
			}
		}
	}
	return m
}

// restart is the file system that is found when the power is back.
func (p *powerFS) restart(seed uint64) *powerFS {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := newPowerFS(seed)
	names := map[string]bool{}
	for name := range p.live {
		names[name] = true
	}
	for name := range p.disk {
		names[name] = true
	}
	for name := range names {
		i := p.disk[name]
		if l := p.live[name]; l != i && n.rnd.IntN(2) == 0 {
			i = l
		}
		if i == nil || name == "." {
			continue
		}
		c := &inode{dir: i.dir, data: i.disk}
		if i.dirty {
			tail := i.data[min(i.keep, len(i.data)):]
			switch n.rnd.IntN(5) {
			case 0:
				tail = i.disk[i.keep:]
			case 1:
				tail = nil
			case 2: // a part of it
				tail = tail[:n.rnd.IntN(len(tail)+1)]
			case 3: // its length, but not its contents
				tail = make([]byte, len(tail))
			}
			c.data = append(bytes.Clone(i.disk[:i.keep]), tail...)
		}
		c.disk = c.data
		n.live[name] = c
	}
	for lost := true; lost; { // what lay in a directory that is not there
		lost = false
		for name := range n.live {
			if d := n.live[path.Dir(name)]; d == nil || !d.dir {
				delete(n.live, name)
				lost = true
			}
		}
	}
	for name, i := range n.live {
		n.disk[name] = i
	}
	return n
}

func (p *powerFS) Close() error { return nil }

// memoryAnchor is an Anchor that outlives the power.
type memoryAnchor struct {
	blocks uint64
	hash   [32]byte
}

func (a *memoryAnchor) Last() (uint64, [32]byte, error) { return a.blocks, a.hash, nil }
func (a *memoryAnchor) Extend(blocks uint64, hash, _ [32]byte) error {
	if blocks != a.blocks+1 {
		return fmt.Errorf("block %d was anchored after %d", blocks, a.blocks)
	}
	a.blocks, a.hash = blocks, hash
	return nil
}

// session writes to a log until it is done or the power goes, and notes what was acknowledged.
func session(p *powerFS, k *Key, anchor Anchor, acked map[uint64]string, rounds int) error {
	l, err := open(p, p, Config{Key: k, Anchor: anchor, CommitInterval: time.Nanosecond, BlockInterval: time.Hour})
	if err != nil {
		return err
	}
	for round := range rounds {
		var pending []Pending
		for n := range []int{1, 7, 100, 250, 3}[round%5] {
			q, err := l.Add(testRecord(n))
			if err != nil {
				return errors.Join(err, l.Close())
			}
			pending = append(pending, q)
		}
		for n, q := range pending {
			if err := q.Wait(); err != nil {
				return errors.Join(err, l.Close())
			}
			acked[q.Index] = testRecord(n).Verb
		}
		if round%3 == 1 {
			if _, err := l.Seal(); err != nil {
				return errors.Join(err, l.Close())
			}
		}
	}
	return l.Close()
}

// TestPowerLoss cuts the power at every step of writing, some of them twice: the second time while the log is opened again.
func TestPowerLoss(t *testing.T) {
	k := testKey(t)
	whole := newPowerFS(0)
	if err := session(whole, k, &memoryAnchor{}, map[uint64]string{}, 8); err != nil {
		t.Fatal(err)
	}
	stride, seeds := 1, 4
	if testing.Short() {
		stride, seeds = 7, 1
	}
	var cuts, trims, found int
	for i := 0; i < seeds*whole.steps; i += stride {
		limit := 1 + i%whole.steps
		p, anchor, acked := newPowerFS(uint64(i)), &memoryAnchor{}, map[uint64]string{}
		p.limit = limit
		for again := 0; ; again++ {
			err := session(p, k, anchor, acked, 8>>again)
			p = p.restart(uint64(i))
			if err == nil {
				break
			}
			if !errors.Is(err, errPower) || again == 2 {
				t.Fatalf("step %d, session %d: %v", limit, again, err)
			}
			cuts++
			if again == 0 && limit%2 == 0 {
				p.limit = 1 + p.rnd.IntN(40)
			}
		}
		files := p.files(".")
		report := verifyFS(t, files, k, verify.Options{Anchored: anchor.blocks, AnchorHash: anchor.hash})
		trims += int(report.Kinds["trim"])
		msg, err := fs.ReadFile(files, checkpointFile)
		if err != nil {
			t.Fatal(err)
		}
		head, err := k.Public().openHead(msg)
		if err != nil {
			t.Fatal(err)
		}
		r := &Reader{files, k.Public(), head, msg}
		for e, err := range r.Records(0, head.Size) {
			if err != nil {
				t.Fatal(err)
			}
			if verb, ok := acked[e.Index]; ok {
				found++
				if verb != e.Record.Verb {
					t.Errorf("step %d: record %d is %q, acknowledged was %q", limit, e.Index, e.Record.Verb, verb)
				}
				delete(acked, e.Index)
			}
		}
		if len(acked) != 0 {
			t.Errorf("step %d: %d acknowledged records are lost", limit, len(acked))
		}
	}
	t.Logf("%d power cuts at %d steps: %d acknowledged records are all there; %d torn commits were trimmed and recorded", cuts, whole.steps, found, trims)
	if cuts == 0 || trims == 0 || found == 0 {
		t.Error("the test did not do its work")
	}
}

// The simulation must be able to fail: a storage that forgets to sync loses acknowledged records.
func TestPowerLossFindsMissingSync(t *testing.T) {
	k := testKey(t)
	for seed := range uint64(50) {
		p, acked := newPowerFS(seed), map[uint64]string{}
		lazy := &lazyFS{p}
		l, err := open(lazy, p, Config{Key: k, CommitInterval: time.Nanosecond, BlockInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		q, err := l.Add(testRecord(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Wait(); err != nil {
			t.Fatal(err)
		}
		acked[q.Index] = ""
		after := p.restart(seed)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := open(after, after, Config{Key: k})
		if err != nil {
			return
		}
		lost := again.Head().Size == 0
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if lost {
			return
		}
	}
	t.Error("directories were never synced, and nothing was ever lost")
}

// lazyFS does not sync directories.
type lazyFS struct{ *powerFS }

func (lazyFS) SyncDir(string) error { return nil }
