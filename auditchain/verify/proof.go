package verify

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/proof"
)

// Inclusion checks a proof (C2SP tlog-proof) that the log has the record with this encoding, and returns its place and the
// checkpoint in the proof.
func Inclusion(keys *Keys, entry, text []byte) (index uint64, head Head, err error) {
	body, checkpoint, ok := strings.Cut(string(text), "\n\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return 0, head, bad(BadProof, "proof", "it does not begin as one")
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return 0, head, bad(BadProof, "proof", "it has no index")
	}
	if index, err = strconv.ParseUint(strings.TrimPrefix(lines[0], "index "), 10, 63); err != nil {
		return 0, head, bad(BadProof, "proof", "its index: %v", err)
	}
	var path [][]byte
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != hashSize {
			return 0, head, bad(BadProof, "proof", "%q is not a hash", line)
		}
		path = append(path, h)
	}
	if head, err = keys.Checkpoint([]byte(checkpoint)); err != nil {
		return 0, head, err
	}
	if err := proof.VerifyInclusion(hasher, index, head.Size, hasher.HashLeaf(entry), path, head.Root[:]); err != nil {
		return 0, head, bad(BadProof, "proof", "%v", err)
	}
	return index, head, nil
}

// Consistency checks that the newer checkpoint's log contains the older's.
func Consistency(keys *Keys, older, newer []byte, path [][]byte) error {
	a, err := keys.Checkpoint(older)
	if err != nil {
		return err
	}
	b, err := keys.Checkpoint(newer)
	if err != nil {
		return err
	}
	if a.Size > b.Size {
		return bad(Rollback, "checkpoint", "it has %d records, the one before had %d", b.Size, a.Size)
	}
	if err := proof.VerifyConsistency(hasher, a.Size, b.Size, path, a.Root[:], b.Root[:]); err != nil {
		return bad(Forked, "checkpoint", "%v", err)
	}
	return nil
}
