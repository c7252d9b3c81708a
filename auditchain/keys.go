package auditchain

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
)

const (
	keyHeader    = "qenex-audit-key/v1"
	publicHeader = "qenex-audit-public-key/v1"
)

// Key signs a log: checkpoints with Ed25519, blocks with Ed25519 and ML-DSA-44, so that a block stands as long as one of them does.
type Key struct {
	name    string
	ed25519 ed25519.PrivateKey
	mldsa   *mldsa.PrivateKey
}

// Public is what verifies a Key's signatures.
type Public struct {
	name    string
	ed25519 ed25519.PublicKey
	mldsa   *mldsa.PublicKey
}

// NewKey makes a key for the log of that name, the origin in its checkpoints: by convention like a URL without scheme,
// host.example/audit. It has neither space nor plus.
func NewKey(name string) (*Key, error) {
	seeds := make([]byte, ed25519.SeedSize+mldsa.PrivateKeySize)
	rand.Read(seeds)
	return newKey(name, seeds[:ed25519.SeedSize], seeds[ed25519.SeedSize:])
}

func newKey(name string, ed, pq []byte) (*Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if len(ed) != ed25519.SeedSize {
		return nil, fmt.Errorf("auditchain: an Ed25519 seed has %d bytes, not %d", ed25519.SeedSize, len(ed))
	}
	k, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), pq)
	if err != nil {
		return nil, fmt.Errorf("auditchain: ML-DSA-44 key: %w", err)
	}
	return &Key{name, ed25519.NewKeyFromSeed(ed), k}, nil
}

func checkName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '+' || r == unicode.ReplacementChar
	}) {
		return fmt.Errorf("auditchain: log name %q: it must have 1 to 255 bytes, all printable, and neither space nor plus", name)
	}
	return nil
}

// CreateKey makes a key and keeps it in a new file, readable for its owner only.
func CreateKey(file, name string) (*Key, error) {
	k, err := NewKey(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("auditchain: create a key: %w", err)
	}
	_, err = f.WriteString(formatKey(keyHeader, name, k.ed25519.Seed(), k.mldsa.Bytes()))
	if err = finish(f, err); err == nil {
		var dir *os.File
		if dir, err = os.Open(filepath.Dir(file)); err == nil {
			err = finish(dir, nil)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("auditchain: create a key: %w", errors.Join(err, os.Remove(file)))
	}
	return k, nil
}

// LoadKey reads a key that CreateKey made. It refuses a file that others than its owner may read or write.
func LoadKey(file string) (*Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("auditchain: load a key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("auditchain: load a key: %w", err)
	}
	if st.Mode()&0o077 != 0 {
		return nil, fmt.Errorf("auditchain: load a key: %s has mode %04o, so others than its owner can reach it: chmod 600 it, or make a new key if they may have",
			file, st.Mode().Perm())
	}
	text := make([]byte, 1<<10)
	n, err := f.Read(text)
	if err != nil {
		return nil, fmt.Errorf("auditchain: load a key: %s: %w", file, err)
	}
	name, ed, pq, err := parseKey(keyHeader, string(text[:n]))
	if err != nil {
		return nil, fmt.Errorf("auditchain: load a key: %s: %w", file, err)
	}
	return newKey(name, ed, pq)
}

func formatKey(header, name string, ed, pq []byte) string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s\n%s\ned25519 %s\nmldsa44 %s\n", header, name, b64(ed), b64(pq))
}

func parseKey(header, text string) (name string, ed, pq []byte, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 5 || lines[0] != header || lines[4] != "" {
		return "", nil, nil, fmt.Errorf("not a file of 4 lines that begins with %s", header)
	}
	for i, f := range []struct {
		prefix string
		to     *[]byte
	}{{"ed25519 ", &ed}, {"mldsa44 ", &pq}} {
		s, ok := strings.CutPrefix(lines[2+i], f.prefix)
		if *f.to, err = base64.StdEncoding.DecodeString(s); !ok || err != nil {
			return "", nil, nil, fmt.Errorf("line %d is not %sand base64", 3+i, f.prefix)
		}
	}
	return lines[1], ed, pq, nil
}

// Public returns the key's public part.
func (k *Key) Public() *Public {
	return &Public{k.name, k.ed25519.Public().(ed25519.PublicKey), k.mldsa.PublicKey()}
}

// ParsePublic reads what Public.String wrote.
func ParsePublic(text string) (*Public, error) {
	name, ed, pq, err := parseKey(publicHeader, text)
	if err == nil {
		err = checkName(name)
	}
	if err == nil && len(ed) != ed25519.PublicKeySize {
		err = fmt.Errorf("an Ed25519 key has %d bytes, not %d", ed25519.PublicKeySize, len(ed))
	}
	if err != nil {
		return nil, fmt.Errorf("auditchain: public key: %w", err)
	}
	p, err := mldsa.NewPublicKey(mldsa.MLDSA44(), pq)
	if err != nil {
		return nil, fmt.Errorf("auditchain: public key: %w", err)
	}
	return &Public{name, ed, p}, nil
}

// String is the public key as text of four lines.
func (p *Public) String() string { return formatKey(publicHeader, p.name, p.ed25519, p.mldsa.Bytes()) }

// Name is the log's name.
func (p *Public) Name() string { return p.name }

// NoteKey is the Ed25519 key as signed-note tools want it.
func (p *Public) NoteKey() string {
	return fmt.Sprintf("%s+%08x+%s", p.name, p.keyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, p.ed25519...)))
}

func (p *Public) keyHash() uint32 {
	h := sha256.Sum256(append([]byte(p.name+"\n\x01"), p.ed25519...))
	return binary.BigEndian.Uint32(h[:])
}

// noteVerifier is p as a note.Verifier.
type noteVerifier struct{ *Public }

func (v noteVerifier) KeyHash() uint32             { return v.keyHash() }
func (v noteVerifier) Verify(msg, sig []byte) bool { return ed25519.Verify(v.ed25519, msg, sig) }

// noteSigner is k as a note.Signer.
type noteSigner struct{ *Key }

func (s noteSigner) Name() string                    { return s.name }
func (s noteSigner) KeyHash() uint32                 { return s.Public().keyHash() }
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.ed25519, msg), nil }

var (
	_ note.Verifier = noteVerifier{}
	_ note.Signer   = noteSigner{}
)
