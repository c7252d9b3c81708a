package auditchain

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// cosign is a witness: it returns its key and the line that it adds to a checkpoint (C2SP tlog-cosignature).
func cosign(t *testing.T, name string, checkpoint []byte) (vkey, line string) {
	seed := sha256.Sum256([]byte(name))
	k := ed25519.NewKeyFromSeed(seed[:])
	pub := append([]byte{4}, k.Public().(ed25519.PublicKey)...)
	id := sha256.Sum256(append([]byte(name+"\n"), pub...))
	text, _, _ := strings.Cut(string(checkpoint), "\n\n")
	const now = 1764000000
	sig := ed25519.Sign(k, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s\n", now, text))
	data := binary.BigEndian.AppendUint64(id[:4:4], now)
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s+%x+%s", name, id[:4], b64(pub)), fmt.Sprintf("— %s %s\n", name, b64(append(data, sig...)))
}
