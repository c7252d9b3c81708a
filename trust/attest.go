package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/qenex/qenex-kernel/auditchain/verify"
	"github.com/qenex/qenex-kernel/tpm"
)

// Policy says what a host's evidence must be: what tpm.Policy says, and of the audit log, its key and how many records were seen of it.
type Policy struct {
	tpm.Policy
	AuditKey  string `json:"audit_key"`  // the log's public key
	AuditSize uint64 `json:"audit_size"` // records that the log had before; it has no fewer
}

// Verdict is what good evidence says.
type Verdict struct {
	Measured []tpm.Measured `json:"measured"`
	Clock    tpm.Clock      `json:"clock"`
	Records  uint64         `json:"audit_records"` // of the audit log
	Root     verify.Hash    `json:"audit_root"`
}

// ParsePolicy reads a policy and refuses fields that it does not know: a mistyped one would allow everything.
func ParsePolicy(text []byte) (p Policy, err error) {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err = d.Decode(&p); err == nil && (len(p.AK) == 0 || p.AuditKey == "") {
		err = fmt.Errorf("it names no ak or no audit_key")
	}
	if err != nil {
		return p, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

// Verify checks evidence for a nonce. It needs no TPM and nothing of the host. The error is a *tpm.Error or a *verify.Error.
func Verify(e *tpm.Evidence, nonce []byte, p Policy) (*Verdict, error) {
	r, err := tpm.Verify(e, nonce, p.Policy)
	if err != nil {
		return nil, err
	}
	keys, err := verify.ParseKeys(p.AuditKey)
	if err != nil {
		return nil, err
	}
	head, err := keys.Checkpoint(e.Claims)
	if err != nil {
		return nil, err
	}
	if head.Size < p.AuditSize {
		return nil, &verify.Error{Reason: verify.Rollback, Where: "checkpoint", Detail: fmt.Sprintf("the audit log has %d records; %d were seen", head.Size, p.AuditSize)}
	}
	return &Verdict{r.Measured, r.Clock, head.Size, verify.Hash(head.Root)}, nil
}

// PolicyOf makes a policy that the host's evidence meets now: whoever trusts the host this once may trust it from then on.
func PolicyOf(t *Client, public string) (Policy, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	e, err := t.Quote(nonce)
	if err != nil {
		return Policy{}, err
	}
	p := Policy{Policy: tpm.Policy{AK: e.AK}, AuditKey: public}
	v, err := Verify(e, nonce, p)
	if err != nil {
		p.Shared = true // the host's TPM
		if v, err = Verify(e, nonce, p); err != nil {
			return Policy{}, err
		}
	}
	p.Golden, p.Since, p.AuditSize = map[tpm.What][]string{}, v.Clock, v.Records
	for _, m := range v.Measured {
		if m.What != tpm.AuditRoot && !slices.Contains(p.Golden[m.What], m.Digest) {
			p.Golden[m.What] = append(p.Golden[m.What], m.Digest)
		}
	}
	return p, nil
}

// ArgsDigest is the digest of a launch for its record: SHA-256 of the lines of its items.
func ArgsDigest(list []Measured) [32]byte {
	var b strings.Builder
	for _, m := range list {
		b.WriteString(m.Line() + "\n")
	}
	return sha256.Sum256([]byte(b.String()))
}
