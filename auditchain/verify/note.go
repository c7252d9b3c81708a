package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"filippo.io/mldsa"
)

// Keys are the public keys of a log.
type Keys struct {
	name    string
	ed25519 ed25519.PublicKey
	mldsa   *mldsa.PublicKey
}

// ParseKeys reads a public key file: its four lines are a header, the log's name, "ed25519" and "mldsa44" with the key in base64.
func ParseKeys(text string) (*Keys, error) {
	var name, ed, pq string
	n, err := fmt.Sscanf(text, "qenex-audit-public-key/v1\n%s\ned25519 %s\nmldsa44 %s\n", &name, &ed, &pq)
	if err != nil || n != 3 {
		return nil, fmt.Errorf("verify: not a public key: %v", err)
	}
	edKey, err := base64.StdEncoding.DecodeString(ed)
	if err != nil || len(edKey) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("verify: public key: its Ed25519 line does not hold %d bytes", ed25519.PublicKeySize)
	}
	pqKey, err := base64.StdEncoding.DecodeString(pq)
	if err != nil {
		return nil, fmt.Errorf("verify: public key: its ML-DSA-44 line: %w", err)
	}
	k := &Keys{name: name, ed25519: edKey}
	if k.mldsa, err = mldsa.NewPublicKey(mldsa.MLDSA44(), pqKey); err != nil {
		return nil, fmt.Errorf("verify: public key: %w", err)
	}
	return k, nil
}

// Head is what a checkpoint says.
type Head struct {
	Size uint64
	Root [32]byte
}

// Checkpoint checks a checkpoint's signature by the log and returns what it says.
func (k *Keys) Checkpoint(msg []byte) (Head, error) {
	text, sigs, err := splitNote(msg)
	if err != nil {
		return Head{}, err
	}
	lines := strings.Split(text, "\n")
	if lines[0] != k.name {
		return Head{}, bad(OtherLog, "checkpoint", "it is of the log %q, not %q", lines[0], k.name)
	}
	if !signedBy(text, sigs, k.name, 1, k.ed25519) {
		return Head{}, bad(BadSignature, "checkpoint", "the log's key did not sign it")
	}
	return parseHead(lines)
}

func parseHead(lines []string) (Head, error) {
	if len(lines) < 4 {
		return Head{}, bad(BadCheckpoint, "checkpoint", "it has fewer than 3 lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return Head{}, bad(BadCheckpoint, "checkpoint", "its size is %q", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != hashSize {
		return Head{}, bad(BadCheckpoint, "checkpoint", "its root is %q", lines[2])
	}
	return Head{size, [32]byte(root)}, nil
}

// Cosigned counts the witnesses that signed a checkpoint. A key is NAME+HASH+KEY of type 4 (C2SP tlog-cosignature).
func Cosigned(msg []byte, witnesses []string) (int, error) {
	text, sigs, err := splitNote(msg)
	if err != nil {
		return 0, err
	}
	count := 0
	for _, w := range witnesses {
		name, rest, _ := strings.Cut(w, "+")
		_, b64, _ := strings.Cut(rest, "+")
		key, err := base64.StdEncoding.DecodeString(b64)
		if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != 4 {
			return 0, fmt.Errorf("verify: witness key %q is not an Ed25519 cosignature key (type 4)", w)
		}
		if signedBy(text, sigs, name, 4, key[1:]) {
			count++
		}
	}
	return count, nil
}

// signature is a signature line of a note: a key's name, 4 bytes of its hash, and what the algorithm makes of it.
type signature struct {
	name string
	data []byte
}

// splitNote takes a signed note apart (C2SP signed-note).
func splitNote(msg []byte) (text string, sigs []signature, err error) {
	i := bytes.LastIndex(msg, []byte("\n\n"))
	if i < 0 || len(msg) > maxNote {
		return "", nil, bad(BadCheckpoint, "checkpoint", "it is not a signed note")
	}
	text = string(msg[:i+1])
	rest, ok := strings.CutSuffix(string(msg[i+2:]), "\n")
	if !ok {
		return "", nil, bad(BadCheckpoint, "checkpoint", "its last signature is not a line")
	}
	for line := range strings.SplitSeq(rest, "\n") {
		name, b64, ok := strings.Cut(strings.TrimPrefix(line, "— "), " ")
		data, err := base64.StdEncoding.Strict().DecodeString(b64)
		if !ok || !strings.HasPrefix(line, "— ") || err != nil || len(data) < 5 {
			return "", nil, bad(BadSignature, "checkpoint", "its signature line %q is not one", line)
		}
		sigs = append(sigs, signature{name, data})
	}
	return text, sigs, nil
}

// signedBy says whether one of the signatures is the key's. Algorithm 1 is Ed25519, 4 Ed25519 with the time.
func signedBy(text string, sigs []signature, name string, algorithm byte, key ed25519.PublicKey) bool {
	id := sha256.Sum256(append([]byte(name+"\n"+string(rune(algorithm))), key...))
	for _, s := range sigs {
		if s.name != name || !bytes.Equal(s.data[:4], id[:4]) {
			continue
		}
		sig, signed := s.data[4:], text
		if algorithm == 4 && len(sig) > 8 {
			signed = fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), text)
			sig = sig[8:]
		}
		if len(sig) == ed25519.SignatureSize && ed25519.Verify(key, []byte(signed), sig) {
			return true
		}
	}
	return false
}
