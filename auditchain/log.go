// Package auditchain keeps an audit log that cannot be quietly changed: typed records in an RFC 6962 Merkle tree, signed
// checkpoints over it, and a chain of blocks, each signed and handed to an anchor outside of the log.
//
// A log is a directory in the layout of C2SP tlog-tiles, so that standard tools read and check it: "checkpoint" is a signed note,
// tile/LEVEL/N and tile/entries/N are the tree and the records. Beside them lie "blocks", one after the other, and "cosigned",
// the checkpoints that witnesses signed. Package verify checks all of it and shares no code with this one.
//
// A commit writes, in this order: the entry bundles and tiles (fsync of each), their directories (fsync of each), checkpoint.new
// (fsync), which is renamed to checkpoint (fsync of the directory). Then its records are acknowledged. What a crash leaves behind of
// an unfinished commit is removed by the next Open, which says so in a Trim record. Blocks are made of what is committed.
//
// The package knows nothing of virtual machines, TPMs or commands: it may import no other room.
package auditchain

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// What errors.Is finds in this package's errors.
var (
	ErrLocked   = errors.New("another process writes this log")
	ErrClosed   = errors.New("the log is closed")
	ErrDropped  = errors.New("the record was dropped: too many wait for the disk; a gap record will say so")
	ErrTampered = errors.New("the log was changed by somebody else")
	ErrRollback = errors.New("the log is older than its anchor or its blocks say")
	ErrAnchor   = errors.New("the anchor is older than the log")
)

// Policy says what happens to a record when MaxPending bytes wait for the disk.
type Policy int

const (
	Wait Policy = iota // Add waits
	Drop               // Add returns ErrDropped, and a Gap record counts what was dropped
)

// maxBatch is the greatest number of records of a commit, and so of tiles that an interrupted one can leave behind.
const maxBatch = 1 << 16

// Config says how a log is written. Zero means the default.
type Config struct {
	Key            *Key          // signs; its name is the log's
	CommitInterval time.Duration // how long a record may wait for others to share a commit; 10 ms
	MaxPending     int           // bytes of records that may wait for the disk, and as many again may be on their way; 4 MiB
	Policy         Policy        // what happens beyond that
	BlockInterval  time.Duration // a block is sealed that long after the one before, if there is something new; 1 s
	BlockRecords   uint64        // or after that many records; 65536
	Difficulty     int           // leading zero bits of a block's hash: it costs 2^Difficulty hashes. 0 to MaxDifficulty; 0
	Anchor         Anchor        // is told every block; nil for none
	Adopt          bool          // the anchor is new: an anchor without any block is told those that the log has, and not refused
}

func (c *Config) setDefaults() error {
	if c.Key == nil {
		return errors.New("no key")
	}
	if c.Difficulty < 0 || c.Difficulty > MaxDifficulty {
		return fmt.Errorf("difficulty %d is not between 0 and %d", c.Difficulty, MaxDifficulty)
	}
	if c.CommitInterval <= 0 {
		c.CommitInterval = 10 * time.Millisecond
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 4 << 20
	}
	if c.BlockInterval <= 0 {
		c.BlockInterval = time.Second
	}
	if c.BlockRecords == 0 {
		c.BlockRecords = 1 << 16
	}
	return nil
}

// Log is a log that is being written. Its methods may be called by any goroutine.
type Log struct {
	cfg   Config
	w     *writer
	close io.Closer

	// Owned by run.
	tree   *tree
	bundle []byte // the entries of the last bundle, if it is not full

	wake    chan struct{} // tells run to look
	stopped chan struct{} // closed when run has returned

	mu       sync.Mutex
	changed  sync.Cond    // anything below changed; with mu
	err      error        // why the log cannot be written any more
	closed   bool         // no more records from outside
	cur      *batch       // what the next commit writes
	next     uint64       // index of the next record
	last     tlog.Hash    // leaf hash of the record before
	gap      gap          // what was dropped since cur began
	head     Head         // what is committed
	plain    uint64       // the last committed record that is not a Block, plus one
	flushTo  uint64       // records up to here are wanted on disk at once
	sealTo   uint64       // and these in a block
	block    *SealedBlock // the last one; nil if there is none
	sealing  bool         // a goroutine makes the next one
	named    uint64       // the place of the last block's record, plus one: the next block waits for it
	lastSeal time.Time
}

// batch is what one commit writes.
type batch struct {
	since   time.Time
	entries []byte      // as in a bundle
	leaves  []tlog.Hash // one each
	plain   uint64      // as Log.plain, 0 if there is none
	done    chan struct{}
	err     error // set before done is closed
}

type gap struct {
	count  uint64
	digest [32]byte
	time   int64 // of the first dropped record
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// Pending is a record on its way to the disk.
type Pending struct {
	Index uint64 // the record's place in the log
	batch *batch
}

// Wait waits until the record is on disk, where it survives a crash of the host, or cannot get there.
func (p Pending) Wait() error {
	<-p.batch.done
	return p.batch.err
}

// Add puts a record into the log. When it returns without error the record has its place; Wait says when it is durable. Strings that
// are too long or not UTF-8 are made to fit, and a missing time is set.
func (l *Log) Add(r Record) (Pending, error) {
	if r.Kind == Block || r.Kind == Gap || r.Kind == Trim {
		return Pending{}, fmt.Errorf("auditchain: add a record: kind %v is the log's own", r.Kind)
	}
	return l.add(r, false)
}

// Append is Add and Wait: it takes at least the rest of the commit interval.
func (l *Log) Append(r Record) (index uint64, err error) {
	p, err := l.Add(r)
	if err != nil {
		return 0, err
	}
	return p.Index, p.Wait()
}

func (l *Log) add(r Record, own bool) (Pending, error) {
	r = r.Clean()
	var buf [256]byte
	data, err := r.AppendBinary(buf[:0])
	if err != nil {
		return Pending{}, err
	}
	leaf := tlog.RecordHash(data)

	l.mu.Lock()
	defer l.mu.Unlock()
	for !own && l.err == nil && !l.closed && l.full() {
		if l.cfg.Policy == Drop {
			l.drop(r.Time, leaf)
			return Pending{}, fmt.Errorf("auditchain: add a record: %w", ErrDropped)
		}
		l.changed.Wait()
	}
	if l.err != nil {
		return Pending{}, l.err
	}
	if l.closed && !own {
		return Pending{}, fmt.Errorf("auditchain: add a record: %w", ErrClosed)
	}
	return l.put(r.Kind, data, leaf), nil
}

// put adds an encoded record to the next commit.
func (l *Log) put(kind Kind, data []byte, leaf tlog.Hash) Pending {
	b := l.cur
	if len(b.leaves) == 0 {
		b.since = time.Now()
		l.poke()
	}
	b.entries = appendEntry(b.entries, data)
	b.leaves = append(b.leaves, leaf)
	p := Pending{l.next, b}
	l.next++
	l.last = leaf
	if kind != Block {
		b.plain = l.next
	}
	if l.full() {
		l.poke()
	}
	return p
}

func (l *Log) full() bool {
	// Room is left for the log's own records.
	return len(l.cur.entries) >= l.cfg.MaxPending || len(l.cur.leaves) >= maxBatch-16
}

func (l *Log) drop(now int64, leaf tlog.Hash) {
	if l.gap.count == 0 {
		l.gap = gap{digest: l.last, time: now}
	}
	l.gap.count++
	l.gap.digest = chainGap(l.gap.digest, leaf)
}

func chainGap(digest [32]byte, leaf tlog.Hash) [32]byte {
	return sha256.Sum256(append(digest[:], leaf[:]...))
}

// GapDigest is the digest in the Args of the Gap record for the dropped records, where before is the last one that was not: SHA-256 of
// the digest so far and the next dropped record's leaf hash, again and again, beginning with the leaf hash of before. So whoever
// has the dropped records from elsewhere can prove that they are the ones, and where they belong.
func GapDigest(before Record, dropped []Record) ([32]byte, error) {
	data, err := before.AppendBinary(nil)
	digest := [32]byte(tlog.RecordHash(data))
	for i := 0; i < len(dropped) && err == nil; i++ {
		data, err = dropped[i].AppendBinary(nil)
		digest = chainGap(digest, tlog.RecordHash(data))
	}
	return digest, err
}

// poke makes run look.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fail ends the writing. Whether an fsync that failed once has lost something, a later one does not say; so only Open can go on.
func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("auditchain: write the log: %w", err)
		l.cur.err = l.err
		close(l.cur.done)
	}
	l.changed.Broadcast()
	l.poke()
}

// Err says why the log cannot be written any more, and nil while it can.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Head returns what is committed.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Flush commits what was added, now.
func (l *Log) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := l.next
	l.flushTo = max(l.flushTo, target)
	l.poke()
	for l.err == nil && l.head.Size < target {
		l.changed.Wait()
	}
	return l.err
}

// Seal commits what was added and makes a block of it, now. The last block is returned; nil if the log is empty.
func (l *Log) Seal() (*SealedBlock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := max(l.plain, l.cur.plain)
	l.flushTo, l.sealTo = max(l.flushTo, l.next), max(l.sealTo, target)
	l.poke()
	for l.err == nil && l.sealed() < target {
		l.changed.Wait()
	}
	return l.block, l.err
}

// sealed returns the end of the last block.
func (l *Log) sealed() uint64 {
	if l.block == nil {
		return 0
	}
	return l.block.End
}

// Close commits what was added, seals it into a block, and gives the log free. It waits for the proof of work, if there is one.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("auditchain: close the log: %w", ErrClosed)
	}
	l.closed = true
	l.changed.Broadcast()
	l.poke()
	l.mu.Unlock()
	<-l.stopped
	return errors.Join(l.err, l.close.Close())
}

// run commits and seals until the log is closed.
func (l *Log) run() {
	defer close(l.stopped)
	timer := time.NewTimer(0)
	for {
		b, wait, stop := l.step()
		if stop {
			return
		}
		if b != nil {
			l.commit(b)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// step says what run does: commit a batch, wait so long, or stop. It starts the sealing of a block that is due.
func (l *Log) step() (b *batch, wait time.Duration, stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, time.Hour, l.closed && !l.sealing
	}
	now := time.Now()
	wait = time.Hour
	if len(l.cur.leaves) > 0 {
		wait = l.cfg.CommitInterval - now.Sub(l.cur.since)
		if wait <= 0 || l.closed || l.head.Size < l.flushTo || l.full() {
			return l.swap(), 0, false
		}
	}
	if l.sealing || l.head.Size < l.named {
		return nil, wait, false
	}
	if end := l.sealed(); l.plain > end {
		due := l.cfg.BlockInterval - now.Sub(l.lastSeal)
		if due > 0 && !l.closed && end >= l.sealTo && l.head.Size-end < l.cfg.BlockRecords {
			return nil, min(wait, due), false
		}
		l.sealing = true
		go l.seal(l.block, l.head)
		return nil, wait, false
	}
	return nil, wait, l.closed && len(l.cur.leaves) == 0
}

// swap takes what waits and makes room. What was dropped meanwhile is put into the log first.
func (l *Log) swap() *batch {
	b := l.cur
	l.cur = newBatch()
	if g := l.gap; g.count > 0 {
		l.gap = gap{}
		r := Record{Kind: Gap, Time: g.time, Who: "auditchain", Verb: "drop", Args: g.digest, Result: int64(g.count),
			Detail: "until " + time.Now().UTC().Format(time.RFC3339Nano)}
		data, _ := r.AppendBinary(nil) // which has no reason to fail
		l.put(Gap, data, tlog.RecordHash(data))
	}
	l.changed.Broadcast()
	return b
}

// commit writes a batch, and acknowledges it.
func (l *Log) commit(b *batch) {
	head, err := l.write(b)
	if err != nil {
		l.fail(err)
		b.err = l.Err()
		close(b.done)
		return
	}
	l.mu.Lock()
	l.head, l.plain = head, max(l.plain, b.plain)
	l.changed.Broadcast()
	l.mu.Unlock()
	close(b.done)
}

func (l *Log) write(b *batch) (Head, error) {
	var files []file
	stale := map[string]bool{}
	start := l.tree.size
	full := func(level int, n uint64, data []byte) {
		files = append(files, file{tilePath(level, n, tileWidth), data})
		if level >= 0 && n == start>>(tileHeight*(level+1)) {
			stale[partialDir(level, n)] = true
		}
	}
	rest := b.entries
	for _, leaf := range b.leaves {
		e, after, err := nextEntry(rest)
		if err != nil {
			return Head{}, err
		}
		l.bundle = append(l.bundle, rest[:2+len(e)]...)
		rest = after
		if l.tree.add(leaf, full); l.tree.size%tileWidth == 0 {
			n := l.tree.size/tileWidth - 1
			full(entriesLevel, n, l.bundle)
			if n == start/tileWidth {
				stale[partialDir(entriesLevel, n)] = true
			}
			l.bundle = nil
		}
	}
	size := l.tree.size
	if width := int(size % tileWidth); width > 0 {
		files = append(files, file{tilePath(entriesLevel, size/tileWidth, width), l.bundle})
	}
	for level, data := range l.tree.tiles {
		nodes := size >> (tileHeight * level)
		if len(data) > 0 && nodes != start>>(tileHeight*level) {
			files = append(files, file{tilePath(level, nodes/tileWidth, int(nodes%tileWidth)), data})
		}
	}
	if err := l.w.write(files); err != nil {
		return Head{}, err
	}
	head := Head{size, l.tree.root()}
	msg, err := l.cfg.Key.signHead(head)
	if err != nil {
		return Head{}, err
	}
	if err := l.w.replace(checkpointFile, checkpointNew, msg); err != nil {
		return Head{}, err
	}
	for dir := range stale {
		delete(l.w.made, dir)
		l.w.RemoveAll(dir) // if it fails, a few files lie there that nobody needs
	}
	return head, nil
}

// seal makes the block after prev, of what is committed.
func (l *Log) seal(prev *SealedBlock, head Head) {
	b := nextBlock(l.cfg.Key.name, prev, head, time.Now().UnixNano(), l.cfg.Difficulty)
	b.mine()
	err := b.sign(l.cfg.Key)
	if err == nil {
		err = l.w.AppendSync(blocksFile, int64(b.Height)*int64(blockSize), b.encode())
	}
	if err == nil && l.cfg.Anchor != nil {
		err = l.cfg.Anchor.Extend(b.Height+1, b.Hash(), b.Root)
	}
	var named Pending
	if err == nil {
		named, err = l.add(b.record(), true)
	}
	if err != nil {
		l.fail(fmt.Errorf("seal block %d: %w", b.Height, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.block, l.named = b, named.Index+1
	}
	l.sealing, l.lastSeal = false, time.Now()
	l.changed.Broadcast()
	l.poke()
}

// record is what the log itself says of a block.
func (b *SealedBlock) record() Record {
	return Record{Kind: Block, Time: b.Time, Who: "auditchain", Verb: "seal", Args: b.Hash(), Result: int64(b.Height)}
}
