// Package verify checks an audit log that package auditchain wrote, from its files alone.
//
// It is the second opinion: it shares no code with the writer, so that a mistake is not made twice. It reads the formats as they are
// documented, takes the tree from github.com/transparency-dev/merkle, and may import nothing of QENEX.
package verify

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Reason names what is wrong with a log.
type Reason string

// The reasons.
const (
	BadCheckpoint  Reason = "checkpoint"           // it is missing, or not a checkpoint
	BadSignature   Reason = "checkpoint signature" // it is not signed by the log's key
	OtherLog       Reason = "other log"            // it is of a log with another name
	BadEntries     Reason = "entries"              // a bundle is missing or malformed
	BadTile        Reason = "tile"                 // a tile is missing, or says other than the records
	BadRoot        Reason = "root"                 // the records make another root than the checkpoint's
	BadRecord      Reason = "record"               // a record is not encoded as it must be, or names a block that is not there
	BadBlock       Reason = "block"                // a block is malformed or does not fit the records
	BlockSignature Reason = "block signature"      // one of a block's signatures is wrong
	BlockChain     Reason = "block chain"          // a block does not follow the one before
	ProofOfWork    Reason = "proof of work"        // a block's hash has too few leading zero bits
	Rollback       Reason = "rollback"             // the log is older than what is known of it
	Forked         Reason = "fork"                 // the log differs from what is known of it
	BadProof       Reason = "proof"                // a proof is malformed, or proves something else
)

// Error says what is wrong and where.
type Error struct {
	Reason Reason
	Where  string // a file, a record, a block
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("verify: %s: %s: %s", e.Reason, e.Where, e.Detail) }

func bad(r Reason, where, format string, args ...any) error {
	return &Error{r, where, fmt.Sprintf(format, args...)}
}

// Options is what is known of the log beside its keys.
type Options struct {
	Trusted    [][]byte // checkpoints that were seen before, as signed notes: the log must contain them
	Anchored   uint64   // how many blocks the anchor counts: the log must have so many
	AnchorHash [32]byte // and the last of them must have this hash
	Difficulty int      // every block's proof of work must be at least that good
	Unsealed   uint64   // at most so many records may be in no block, and so without an ML-DSA-44 signature; 0 for any number
}

// Report is what a good log holds.
type Report struct {
	Size   uint64            `json:"size"` // records
	Root   Hash              `json:"root"`
	Blocks uint64            `json:"blocks"`
	Sealed uint64            `json:"sealed"` // the first so many records are in blocks
	Kinds  map[string]uint64 `json:"kinds"`  // records by kind
	Gaps   uint64            `json:"gaps"`   // records that were dropped, by what the log says
	Last   time.Time         `json:"last"`   // the last block's time
}

// Hash is a SHA-256 digest, hexadecimal in JSON.
type Hash [32]byte

// MarshalText gives the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

var hasher = rfc6962.DefaultHasher

const (
	tileWidth = 256
	hashSize  = 32
	maxBundle = tileWidth * (2 + 1<<16)
	maxNote   = 1 << 20
)

// readFile reads a file of at most limit bytes: who wrote it is not trusted.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}

// Log checks a whole log: every record, tile, block and signature. The error is an *Error if the log is bad.
func Log(fsys fs.FS, keys *Keys, o Options) (*Report, error) {
	msg, err := readFile(fsys, "checkpoint", maxNote)
	if err != nil {
		return nil, bad(BadCheckpoint, "checkpoint", "%v", err)
	}
	head, err := keys.Checkpoint(msg)
	if err != nil {
		return nil, err
	}
	v := &verifier{fsys: fsys, keys: keys, opts: o, head: head, report: &Report{Size: head.Size, Root: Hash(head.Root), Kinds: map[string]uint64{}}}
	if err := v.run(); err != nil {
		return nil, err
	}
	return v.report, nil
}

type verifier struct {
	fsys   fs.FS
	keys   *Keys
	opts   Options
	head   Head
	report *Report

	size    uint64         // records so far
	tree    *compact.Range // over them
	levels  [8][]byte      // of each level of tiles above the leaves the hashes of the one that is not full
	counts  [len(kinds)]uint64
	trusted []Head
	next    io.ReadCloser // the blocks that were not read yet
	last    *block        // the last one that was: its end is ahead; nil if there is none
	named   uint64        // how many blocks the records name
	unnamed [][32]byte    // the hashes of the blocks after these
}

func (v *verifier) run() error {
	for _, msg := range v.opts.Trusted {
		h, err := v.keys.Checkpoint(msg)
		if err != nil {
			return err
		}
		if h.Size > v.head.Size {
			return bad(Rollback, "checkpoint", "it has %d records, a trusted one had %d", v.head.Size, h.Size)
		}
		v.trusted = append(v.trusted, h)
	}
	f, err := v.fsys.Open("blocks")
	switch {
	case err == nil:
		v.next = f
	case errors.Is(err, fs.ErrNotExist):
		v.next = io.NopCloser(bytes.NewReader(nil))
	default:
		return bad(BadBlock, "blocks", "%v", err)
	}
	defer v.next.Close()

	v.tree = (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0)
	if err := v.readBlock(); err != nil {
		return err
	}
	if err := v.reached(); err != nil {
		return err
	}
	for v.size < v.head.Size {
		if err := v.bundle(); err != nil {
			return err
		}
	}
	return v.finish()
}

// bundle checks the next entry bundle against its tile, and the tiles above that it fills.
func (v *verifier) bundle() error {
	n, width := v.size/tileWidth, int(min(v.head.Size-v.size, tileWidth))
	name, tile := tileName("entries", n, width), tileName("0", n, width)
	data, err := readFile(v.fsys, name, maxBundle)
	if err != nil {
		return bad(BadEntries, name, "%v", err)
	}
	leaves, err := readFile(v.fsys, tile, tileWidth*hashSize)
	if err != nil {
		return bad(BadTile, tile, "%v", err)
	}
	if len(leaves) != width*hashSize {
		return bad(BadTile, tile, "it has %d bytes, not %d", len(leaves), width*hashSize)
	}
	for i := range width {
		if len(data) < 2 || len(data) < 2+int(data[0])<<8+int(data[1]) {
			return bad(BadEntries, name, "it ends within record %d", v.size)
		}
		entry := data[2 : 2+int(data[0])<<8+int(data[1])]
		data = data[2+len(entry):]
		leaf := hasher.HashLeaf(entry)
		if !bytes.Equal(leaf, leaves[i*hashSize:][:hashSize]) {
			return bad(BadTile, tile, "its hash %d is not that of record %d in %s", i, v.size, name)
		}
		if err := v.record(entry, leaf); err != nil {
			return err
		}
		if err := v.reached(); err != nil {
			return err
		}
	}
	if len(data) != 0 {
		return bad(BadEntries, name, "it has %d bytes more than its %d records", len(data), width)
	}
	return nil
}

// record checks the next record and adds it to the tree.
func (v *verifier) record(entry, leaf []byte) error {
	var visitErr error
	err := v.tree.Append(leaf, func(id compact.NodeID, hash []byte) {
		if id.Level%8 == 0 && id.Level > 0 && visitErr == nil {
			visitErr = v.node(int(id.Level/8), id.Index, hash)
		}
	})
	if err = errors.Join(err, visitErr); err != nil {
		return err
	}
	r, err := parseRecord(entry)
	if err != nil {
		return bad(BadRecord, fmt.Sprintf("record %d", v.size), "%v", err)
	}
	switch r.kind {
	case kindBlock:
		if err := v.blockRecord(r); err != nil {
			return err
		}
	case kindGap:
		v.report.Gaps += uint64(r.result)
	}
	v.counts[r.kind]++
	v.size++
	return nil
}

// node checks a hash above the leaves against its tile when the tile is full.
func (v *verifier) node(level int, index uint64, hash []byte) error {
	v.levels[level] = append(v.levels[level], hash...)
	if len(v.levels[level]) < tileWidth*hashSize {
		return nil
	}
	err := v.tile(level, index/tileWidth)
	v.levels[level] = v.levels[level][:0]
	return err
}

func (v *verifier) tile(level int, n uint64) error {
	want := v.levels[level]
	name := tileName(strconv.Itoa(level), n, len(want)/hashSize)
	got, err := readFile(v.fsys, name, tileWidth*hashSize)
	if err != nil {
		return bad(BadTile, name, "%v", err)
	}
	if !bytes.Equal(got, want) {
		return bad(BadTile, name, "its hashes are not those of the tiles below")
	}
	return nil
}

// reached looks whether a block or a trusted checkpoint ends at the records so far.
func (v *verifier) reached() error {
	var root []byte
	compute := func() (err error) {
		if root == nil {
			root, err = v.root()
		}
		return err
	}
	for v.last != nil && v.last.end == v.size {
		if err := compute(); err != nil {
			return err
		}
		if !bytes.Equal(root, v.last.root[:]) {
			return bad(BadBlock, fmt.Sprintf("block %d", v.last.height), "its root is not that of its %d records", v.size)
		}
		v.report.Blocks, v.report.Sealed, v.report.Last = v.last.height+1, v.last.end, time.Unix(0, v.last.time).UTC()
		v.unnamed = append(v.unnamed, v.last.hash)
		if err := v.readBlock(); err != nil {
			return err
		}
	}
	for _, t := range v.trusted {
		if t.Size != v.size {
			continue
		}
		if err := compute(); err != nil {
			return err
		}
		if !bytes.Equal(root, t.Root[:]) {
			return bad(Forked, fmt.Sprintf("record %d", v.size), "the records before make another root than a trusted checkpoint's")
		}
	}
	return nil
}

func (v *verifier) root() ([]byte, error) {
	if v.size == 0 {
		return hasher.EmptyRoot(), nil
	}
	return v.tree.GetRootHash(nil)
}

// finish checks what is left when all records were read.
func (v *verifier) finish() error {
	for level, hashes := range v.levels {
		if len(hashes) > 0 {
			if err := v.tile(level, v.head.Size>>(8*(level+1))); err != nil {
				return err
			}
		}
	}
	for kind, n := range v.counts {
		if n > 0 {
			v.report.Kinds[kinds[kind]] = n
		}
	}
	root, err := v.root()
	if err != nil {
		return err
	}
	if !bytes.Equal(root, v.head.Root[:]) {
		return bad(BadRoot, "checkpoint", "the records make the root %x, it says %x", root, v.head.Root)
	}
	if v.last != nil {
		return bad(Rollback, fmt.Sprintf("block %d", v.last.height), "it has %d records, the checkpoint only %d", v.last.end, v.head.Size)
	}
	if n := v.head.Size - v.report.Sealed; v.opts.Unsealed > 0 && n > v.opts.Unsealed {
		return bad(BadBlock, "blocks", "the last %d records are in none", n)
	}
	if len(v.unnamed) > 1 {
		return bad(BadBlock, fmt.Sprintf("block %d", v.named), "no record names it")
	}
	if n := v.opts.Anchored; n > v.report.Blocks {
		return bad(Rollback, "blocks", "there are %d, but %d were anchored", v.report.Blocks, n)
	}
	return nil
}

// tileName is the path of a tile or a bundle.
func tileName(level string, n uint64, width int) string {
	s := fmt.Sprintf("%03d", n%1000)
	for rest := n / 1000; rest > 0; rest /= 1000 {
		s = fmt.Sprintf("x%03d/", rest%1000) + s
	}
	if width < tileWidth {
		s += fmt.Sprintf(".p/%d", width)
	}
	return "tile/" + level + "/" + s
}
