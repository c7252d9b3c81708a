package auditchain

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Head is the state of a log: its size in records, and the root of the Merkle tree over them.
type Head struct {
	Size uint64
	Root tlog.Hash
}

func (h Head) tree() tlog.Tree { return tlog.Tree{N: int64(h.Size), Hash: h.Root} }

// text is the checkpoint that is signed (C2SP tlog-checkpoint).
func (h Head) text(origin string) string { return fmt.Sprintf("%s\n%d\n%v\n", origin, h.Size, h.Root) }

func (k *Key) signHead(h Head) ([]byte, error) {
	return note.Sign(&note.Note{Text: h.text(k.name)}, noteSigner{k})
}

// openHead returns the head of a checkpoint that this key signed.
func (p *Public) openHead(msg []byte) (Head, error) {
	n, err := note.Open(msg, note.VerifierList(noteVerifier{p}))
	if err != nil {
		return Head{}, err
	}
	lines := bytes.Split([]byte(n.Text), []byte("\n"))
	if len(lines) < 4 || string(lines[0]) != p.name {
		return Head{}, fmt.Errorf("not a checkpoint of %s", p.name)
	}
	size, err := strconv.ParseUint(string(lines[1]), 10, 64)
	if err != nil || size > math.MaxInt64 {
		return Head{}, fmt.Errorf("size %q of a checkpoint is not a number of records", lines[1])
	}
	root, err := tlog.ParseHash(string(lines[2]))
	if err != nil {
		return Head{}, fmt.Errorf("root of a checkpoint: %w", err)
	}
	h := Head{size, root}
	if h.text(p.name) != n.Text {
		return Head{}, fmt.Errorf("a checkpoint of %s is not written as it should be", p.name)
	}
	return h, nil
}
