package auditchain

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// AddCosignatures keeps a checkpoint of the log in dir that witnesses signed, beside those that others signed: in cosigned/SIZE.
// The log must have signed it and have its root, and at least one of the witnesses must have. NewWitness makes a verifier of a
// witness's key.
func AddCosignatures(dir string, pub *Public, msg []byte, witnesses ...note.Verifier) error {
	if err := addCosignatures(dir, pub, msg, witnesses); err != nil {
		return fmt.Errorf("auditchain: add cosignatures: %w", err)
	}
	return nil
}

func addCosignatures(dir string, pub *Public, msg []byte, witnesses []note.Verifier) error {
	r, err := OpenReader(dir, pub)
	if err != nil {
		return err
	}
	head, err := pub.openHead(msg)
	if err != nil {
		return err
	}
	if head.Size > r.head.Size {
		return fmt.Errorf("the checkpoint has %d records, the log only %d: %w", head.Size, r.head.Size, ErrRollback)
	}
	if root, err := tlog.TreeHash(int64(head.Size), r.hashes()); err != nil || root != head.Root {
		return fmt.Errorf("the checkpoint of %d records is not of this log (%v): %w", head.Size, err, ErrTampered)
	}
	known := note.VerifierList(append([]note.Verifier{noteVerifier{pub}}, witnesses...)...)
	n, err := note.Open(msg, known)
	if err != nil {
		return err
	}
	if len(n.Sigs) < 2 {
		return errors.New("none of the witnesses signed the checkpoint")
	}
	d, err := openDir(path.Join(dir, cosignedDir))
	if err != nil {
		return err
	}
	defer d.Close()
	name := strconv.FormatUint(head.Size, 10)
	old, err := readOptional(d, name)
	if err != nil {
		return err
	}
	merged := &note.Note{Text: n.Text, Sigs: n.Sigs}
	if old != nil {
		o, err := note.Open(old, known)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", cosignedDir, name, err)
		}
		seen := map[string]bool{}
		for _, s := range n.Sigs {
			seen[fmt.Sprint(s.Name, s.Hash)] = true
		}
		for _, s := range append(o.Sigs, o.UnverifiedSigs...) {
			if !seen[fmt.Sprint(s.Name, s.Hash)] {
				merged.Sigs = append(merged.Sigs, s)
			}
		}
	}
	text, err := note.Sign(merged)
	if err != nil {
		return err
	}
	w := writer{storage: d}
	return w.replace(name, "new", text)
}

const witnessAlgorithm = 4 // C2SP tlog-cosignature: timestamped Ed25519

// witness is a note.Verifier of timestamped Ed25519 cosignatures (C2SP tlog-cosignature).
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// NewWitness reads a witness's key, NAME+HASH+KEY, of a cosignature key (type 4).
func NewWitness(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("auditchain: witness key %q is not NAME+HASH+KEY", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != witnessAlgorithm {
		return nil, fmt.Errorf("auditchain: witness key %q is not an Ed25519 cosignature key (type 4)", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	w := &witness{parts[0], binary.BigEndian.Uint32(sum[:]), key[1:]}
	if checkName(w.name) != nil || parts[1] != fmt.Sprintf("%08x", w.hash) {
		return nil, fmt.Errorf("auditchain: witness key %q: the hash is not the key's", vkey)
	}
	return w, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }

func (w *witness) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(w.key, signed, sig[8:])
}
