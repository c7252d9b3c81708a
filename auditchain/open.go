package auditchain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Open opens the log in dir to write it, and makes it if there is none. Only one process at a time can; others get ErrLocked.
//
// It checks what it continues: the checkpoint's signature, the edge of the tree, the last block and the anchor, and refuses with
// ErrTampered, ErrRollback or ErrAnchor what does not fit. To check all of a log is the work of package verify.
func Open(dir string, cfg Config) (*Log, error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("auditchain: open %s: %w", dir, err)
	}
	l, err := open(d, d, cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("auditchain: open %s: %w", dir, err), d.Close())
	}
	return l, nil
}

// open opens the log in s; Close closes c.
func open(s storage, c io.Closer, cfg Config) (*Log, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	l := &Log{
		cfg: cfg, w: &writer{s, map[string]bool{}}, close: c, cur: newBatch(),
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), lastSeal: time.Now(),
	}
	l.changed = sync.Cond{L: &l.mu}
	o := opening{Log: l, pub: cfg.Key.Public()}
	if err := o.run(); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// opening brings a Log to where the files are.
type opening struct {
	*Log
	pub   *Public
	trims []Record
}

func (o *opening) run() error {
	msg, err := readOptional(o.w, checkpointFile)
	if err != nil {
		return err
	}
	if msg == nil {
		// The log is new: its first checkpoint, of nothing, comes before anything else.
		if o.head.Root = (&tree{}).root(); o.exists(blocksFile) || o.exists("tile") {
			return fmt.Errorf("there is no checkpoint, but records or blocks: %w", ErrTampered)
		}
		if msg, err = o.cfg.Key.signHead(o.head); err != nil {
			return err
		}
		if err := o.w.replace(checkpointFile, checkpointNew, msg); err != nil {
			return err
		}
	}
	if o.head, err = o.pub.openHead(msg); err != nil {
		return fmt.Errorf("checkpoint: %w: %w", err, ErrTampered)
	}
	o.next = o.head.Size
	r := &Reader{o.w, o.pub, o.head, msg}
	for _, step := range []func(*Reader) error{o.edge, o.tail, o.chain, o.anchor} {
		if err := step(r); err != nil {
			return err
		}
	}
	for _, t := range o.trims {
		if _, err := o.add(t, true); err != nil {
			return err
		}
	}
	if o.block != nil && o.named == 0 {
		p, err := o.add(o.block.record(), true)
		o.named = p.Index + 1
		return err
	}
	return nil
}

func (o *opening) exists(name string) bool {
	_, err := fs.Stat(o.w, name)
	return err == nil
}

// edge reads the right edge of the tree.
func (o *opening) edge(r *Reader) (err error) {
	if o.tree, err = resume(o.head.Size, r.tile); err != nil {
		return fmt.Errorf("%w: %w", err, ErrTampered)
	}
	if root := o.tree.root(); root != o.head.Root {
		return fmt.Errorf("the last tiles make the root %v, the checkpoint says %v: %w", root, o.head.Root, ErrTampered)
	}
	if o.head.Size == 0 {
		return nil
	}
	// The last bundle must be what the tree says, for its records are written again.
	for e, err := range r.Records((o.head.Size-1)/tileWidth*tileWidth, o.head.Size) {
		if err != nil {
			return err
		}
		data, err := e.Record.AppendBinary(nil)
		if err != nil {
			return err
		}
		o.last = tlog.RecordHash(data)
		if o.head.Size%tileWidth != 0 {
			o.bundle = appendEntry(o.bundle, data)
		}
	}
	return nil
}

// tail removes what an interrupted commit left beyond the checkpoint.
func (o *opening) tail(*Reader) error {
	var files, bytes int64
	remove := func(name string) error {
		var found bool
		err := fs.WalkDir(o.w, name, func(_ string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if found = true; err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				files, bytes = files+1, bytes+info.Size()
			}
			return err
		})
		if err != nil || !found {
			return err
		}
		return o.w.RemoveAll(name)
	}
	names := []string{checkpointNew}
	for level := entriesLevel; level <= levels(o.head.Size+maxBatch); level++ {
		nodes := o.head.Size >> (tileHeight * max(level, 0))
		n, width := nodes/tileWidth, int(nodes%tileWidth)
		names = append(names, tilePath(level, n, tileWidth))
		partials, err := fs.ReadDir(o.w, partialDir(level, n))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, p := range partials {
			if w, err := strconv.Atoi(p.Name()); err != nil || w > width {
				names = append(names, path.Join(partialDir(level, n), p.Name()))
			}
		}
		for i := n + 1; i <= n+1+maxBatch>>(tileHeight*(max(level, 0)+1)); i++ {
			names = append(names, tilePath(level, i, tileWidth), partialDir(level, i))
		}
	}
	for _, name := range names {
		if err := remove(name); err != nil {
			return fmt.Errorf("remove the remains of an interrupted commit: %w", err)
		}
	}
	if files > 0 {
		o.trims = append(o.trims, Record{Kind: Trim, Who: "auditchain", Verb: "trim", Result: bytes,
			Detail: fmt.Sprintf("%d files of a commit after record %d that was never acknowledged", files, o.head.Size)})
	}
	return nil
}

// chain finds the last block. One that was not written to its end has no record in the log; it does not count.
func (o *opening) chain(r *Reader) error {
	size, count, err := r.blocks()
	if err != nil {
		return err
	}
	var prev *SealedBlock
	if count > 1 {
		if prev, err = r.block(count - 2); err == nil {
			err = prev.checkOwn(o.pub)
		}
		if err != nil {
			return fmt.Errorf("block %d: %w: %w", count-2, err, ErrTampered)
		}
	}
	if count > 0 {
		if o.block, err = r.block(count - 1); err == nil {
			err = o.block.check(o.pub, prev)
		}
		if err != nil {
			o.block = prev
		}
	}
	if b := o.block; b != nil {
		if b.End > o.head.Size {
			return fmt.Errorf("block %d has %d records, the checkpoint only %d: it was put back: %w", b.Height, b.End, o.head.Size, ErrRollback)
		}
		root, err := tlog.TreeHash(int64(b.End), r.hashes())
		if err != nil || root != b.Root {
			return fmt.Errorf("block %d does not fit the records (%v): %w", b.Height, err, ErrTampered)
		}
	}
	o.plain = o.sealed()
	for e, err := range r.Records(o.sealed(), o.head.Size) {
		switch {
		case err != nil:
			return err
		case e.Record.Kind != Block:
			o.plain = e.Index + 1
		case uint64(e.Record.Result) >= o.count():
			return fmt.Errorf("record %d names block %d, but there are only %d good ones: %w", e.Index, e.Record.Result, o.count(), ErrTampered)
		case uint64(e.Record.Result) == o.block.Height && e.Record.Args != o.block.Hash():
			return fmt.Errorf("record %d names another block %d: %w", e.Index, e.Record.Result, ErrTampered)
		case uint64(e.Record.Result) == o.block.Height:
			o.named = e.Index + 1
		}
	}
	if torn := size - o.blocksSize(); torn > 0 {
		o.trims = append(o.trims, Record{Kind: Trim, Who: "auditchain", Verb: "trim", Result: torn,
			Detail: fmt.Sprintf("block %d was not written to its end", o.count())})
	}
	return nil
}

// anchor holds the chain against the anchor, removes what is left of a torn block, and anchors what the anchor was not told in time.
func (o *opening) anchor(r *Reader) error {
	var n uint64
	if o.cfg.Anchor != nil {
		var hash [32]byte
		var err error
		if n, hash, err = o.cfg.Anchor.Last(); err != nil {
			return fmt.Errorf("anchor: %w", err)
		}
		if n > o.count() {
			return fmt.Errorf("%d blocks were anchored, there are only %d good ones: %w", n, o.count(), ErrRollback)
		}
		if n > 0 {
			if b, err := r.block(n - 1); err != nil || b.Hash() != hash {
				return fmt.Errorf("another block %d was anchored (%v): %w", n-1, err, ErrTampered)
			}
		}
		// A crash leaves no more than one block that was not anchored, and that has no record yet.
		if missing := o.count() - n; missing > 1 || missing == 1 && o.named > 0 {
			if n > 0 || !o.cfg.Adopt {
				return fmt.Errorf("%d blocks were anchored, but there are %d: it was put back, or is new: %w", n, o.count(), ErrAnchor)
			}
		}
	}
	if err := o.w.AppendSync(blocksFile, o.blocksSize(), nil); err != nil {
		return err
	}
	if err := o.w.SyncDir("."); err != nil {
		return err
	}
	for ; o.cfg.Anchor != nil && n < o.count(); n++ {
		b, err := r.block(n)
		if err == nil {
			err = b.checkOwn(o.pub)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrTampered)
		}
		if err := o.cfg.Anchor.Extend(n+1, b.Hash(), b.Root); err != nil {
			return fmt.Errorf("anchor block %d: %w", n, err)
		}
	}
	return nil
}

func (o *opening) blocksSize() int64 { return int64(o.count()) * int64(blockSize) }

func (o *opening) count() uint64 {
	if o.block == nil {
		return 0
	}
	return o.block.Height + 1
}
