package auditchain

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Reader reads a log as its checkpoint was when the Reader was made; the log may be written meanwhile. Every record it returns was
// checked against the checkpoint.
type Reader struct {
	fsys fs.FS
	pub  *Public
	head Head
	msg  []byte
}

// Entry is a record and its place.
type Entry struct {
	Index  uint64
	Record Record
}

// OpenReader reads the log in dir.
func OpenReader(dir string, pub *Public) (*Reader, error) {
	r, err := openReader(os.DirFS(dir), pub)
	if err != nil {
		return nil, fmt.Errorf("auditchain: read %s: %w", dir, err)
	}
	return r, nil
}

func openReader(fsys fs.FS, pub *Public) (*Reader, error) {
	msg, err := fs.ReadFile(fsys, checkpointFile)
	if err != nil {
		return nil, err
	}
	head, err := pub.openHead(msg)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w: %w", err, ErrTampered)
	}
	return &Reader{fsys, pub, head, msg}, nil
}

// Next returns a Reader of the log as it is now, which must contain the log as it was.
func (r *Reader) Next() (*Reader, error) {
	next, err := openReader(r.fsys, r.pub)
	if err != nil {
		return nil, fmt.Errorf("auditchain: read on: %w", err)
	}
	if next.head.Size < r.head.Size {
		return nil, fmt.Errorf("auditchain: read on: %d records now, %d before: %w", next.head.Size, r.head.Size, ErrRollback)
	}
	if r.head.Size > 0 {
		if root, err := tlog.TreeHash(int64(r.head.Size), next.hashes()); err != nil || root != r.head.Root {
			return nil, fmt.Errorf("auditchain: read on: the first %d records are others than before (%v): %w", r.head.Size, err, ErrTampered)
		}
	}
	return next, nil
}

// Head returns the log's size and root.
func (r *Reader) Head() Head { return r.head }

// Checkpoint returns the signed note that says so.
func (r *Reader) Checkpoint() []byte { return append([]byte(nil), r.msg...) }

// tile returns the first width hashes of a tile.
func (r *Reader) tile(level int, n uint64, width int) ([]byte, error) {
	data, err := r.read(level, n, width)
	if err != nil {
		return nil, err
	}
	if len(data) < width*tlog.HashSize {
		return nil, fmt.Errorf("%s has %d bytes, fewer than %d hashes", tilePath(level, n, width), len(data), width)
	}
	return data[:width*tlog.HashSize], nil
}

// read reads a tile or a bundle; when a partial one is gone, the full one has it.
func (r *Reader) read(level int, n uint64, width int) ([]byte, error) {
	data, err := fs.ReadFile(r.fsys, tilePath(level, n, width))
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		if data, full := fs.ReadFile(r.fsys, tilePath(level, n, tileWidth)); full == nil {
			return data, nil
		}
	}
	return data, err
}

// tiles is a Reader as a tlog.TileReader.
type tiles struct{ *Reader }

func (t tiles) Height() int { return tileHeight }

func (t tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(list))
	for i, want := range list {
		var err error
		if data[i], err = t.tile(want.L, uint64(want.N), want.W); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// hashes reads the tree's hashes, checked against the root.
func (r *Reader) hashes() tlog.HashReader { return tlog.TileHashReader(r.head.tree(), tiles{r}) }

// bundle returns the entries of the bundle n, checked.
func (r *Reader) bundle(n uint64) ([][]byte, error) {
	width := int(min(r.head.Size-n*tileWidth, tileWidth))
	data, err := r.read(entriesLevel, n, width)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	indexes := make([]int64, width)
	for i := range indexes {
		var e []byte
		if e, data, err = nextEntry(data); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", tilePath(entriesLevel, n, width), err, ErrTampered)
		}
		entries = append(entries, e)
		indexes[i] = tlog.StoredHashIndex(0, int64(n)*tileWidth+int64(i))
	}
	leaves, err := r.hashes().ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrTampered)
	}
	for i, e := range entries {
		if tlog.RecordHash(e) != leaves[i] {
			return nil, fmt.Errorf("record %d is not the one that was logged: %w", n*tileWidth+uint64(i), ErrTampered)
		}
	}
	return entries, nil
}

// Records returns the records from to to-1, as far as there are so many. After an error it ends.
func (r *Reader) Records(from, to uint64) iter.Seq2[Entry, error] {
	to = min(to, r.head.Size)
	return func(yield func(Entry, error) bool) {
		for from < to {
			n := from / tileWidth
			entries, err := r.bundle(n)
			if err != nil {
				yield(Entry{}, fmt.Errorf("auditchain: read records: %w", err))
				return
			}
			for ; from < to && from/tileWidth == n; from++ {
				e := Entry{Index: from}
				if err := e.Record.UnmarshalBinary(entries[from%tileWidth]); err != nil {
					yield(Entry{}, fmt.Errorf("record %d: %w", from, err))
					return
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// Prove returns the record's encoding and the proof that the log has it (C2SP tlog-proof), which package verify checks and any
// other verifier of that format.
func (r *Reader) Prove(index uint64) (entry, proof []byte, err error) {
	if index >= r.head.Size {
		return nil, nil, fmt.Errorf("auditchain: prove record %d: the log has %d", index, r.head.Size)
	}
	entries, err := r.bundle(index / tileWidth)
	if err != nil {
		return nil, nil, fmt.Errorf("auditchain: prove record %d: %w", index, err)
	}
	path, err := tlog.ProveRecord(int64(r.head.Size), int64(index), r.hashes())
	if err != nil {
		return nil, nil, fmt.Errorf("auditchain: prove record %d: %w", index, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "c2sp.org/tlog-proof@v1\nindex %d\n", index)
	for _, h := range path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	fmt.Fprintf(&b, "\n%s", r.msg)
	return entries[index%tileWidth], []byte(b.String()), nil
}

// ProveConsistency returns the proof that the log's first size records are those it had when it had no more.
func (r *Reader) ProveConsistency(size uint64) (tlog.TreeProof, error) {
	if size == 0 || size > r.head.Size {
		return nil, fmt.Errorf("auditchain: prove consistency with %d records: the log has %d", size, r.head.Size)
	}
	return tlog.ProveTree(int64(r.head.Size), int64(size), r.hashes())
}

// blocks returns the size of the file of blocks, and how many are whole.
func (r *Reader) blocks() (size int64, count uint64, err error) {
	info, err := fs.Stat(r.fsys, blocksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	return info.Size(), uint64(info.Size()) / uint64(blockSize), nil
}

func (r *Reader) block(height uint64) (*SealedBlock, error) {
	f, err := r.fsys.Open(blocksFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s is not a file", blocksFile)
	}
	p := make([]byte, blockSize)
	if _, err := at.ReadAt(p, int64(height)*int64(blockSize)); err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	b, err := decodeBlock(p)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	return b, nil
}

// Blocks returns how many blocks there are.
func (r *Reader) Blocks() (uint64, error) {
	_, count, err := r.blocks()
	return count, err
}

// Block returns a block, whose signatures and predecessor were checked.
func (r *Reader) Block(height uint64) (*SealedBlock, error) {
	var prev *SealedBlock
	var err error
	if height > 0 {
		if prev, err = r.block(height - 1); err != nil {
			return nil, fmt.Errorf("auditchain: read %w", err)
		}
	}
	b, err := r.block(height)
	if err != nil {
		return nil, fmt.Errorf("auditchain: read %w", err)
	}
	if err := b.check(r.pub, prev); err != nil {
		return nil, fmt.Errorf("auditchain: read block %d: %w: %w", height, err, ErrTampered)
	}
	return b, nil
}

// MarshalJSON gives the block without its signatures, hashes in hexadecimal.
func (b *SealedBlock) MarshalJSON() ([]byte, error) {
	hash := b.Hash()
	return json.Marshal(struct {
		Height     uint64    `json:"height"`
		Hash       string    `json:"hash"`
		Previous   string    `json:"previous"`
		Time       time.Time `json:"time"`
		First      uint64    `json:"first"`
		End        uint64    `json:"end"`
		Root       string    `json:"root"`
		Difficulty uint8     `json:"difficulty"`
		Nonce      uint64    `json:"nonce"`
	}{
		b.Height, hex.EncodeToString(hash[:]), hex.EncodeToString(b.Previous[:]), time.Unix(0, b.Time).UTC(), b.First, b.End,
		hex.EncodeToString(b.Root[:]), b.Difficulty, b.Nonce,
	})
}
