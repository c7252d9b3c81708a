package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Reason names what is wrong with evidence.
type Reason string

// The reasons.
const (
	BadKey       Reason = "key"       // it was quoted by another TPM, or with a key that signs anything
	BadSignature Reason = "signature" // the quote was not signed by the key
	BadQuote     Reason = "quote"     // it is not a quote of the right PCRs
	BadNonce     Reason = "nonce"     // the quote is for another nonce, or other claims
	BadLog       Reason = "event log" // it is malformed, or does not make the PCRs that were quoted
	BadValue     Reason = "value"     // something was measured that the policy does not allow, or not measured
	BadClock     Reason = "clock"     // the TPM is older than it was: its state was put back
)

// Error says what is wrong with evidence.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("tpm: verify: %s: %s", e.Reason, e.Detail) }

func bad(r Reason, format string, args ...any) error { return &Error{r, fmt.Sprintf(format, args...)} }

// Clock is a TPM's idea of time: it never goes back, if the TPM's state is not put back.
type Clock struct {
	Resets       uint32 `json:"resets"`       // of the TPM
	Milliseconds uint64 `json:"milliseconds"` // that it was powered, since it was made
}

// Policy says what a machine must be.
type Policy struct {
	AK     []byte            `json:"ak"`     // the attestation key, as TPM.AK gave it on that machine
	Shared bool              `json:"shared"` // it is the host's TPM: everything is in PCR 23
	Golden map[What][]string `json:"golden"` // which digests, in hexadecimal, are allowed; what is named here must have been measured
	Since  Clock             `json:"since"`  // the clock of the evidence before
}

// Result is what good evidence says.
type Result struct {
	Measured []Measured
	Clock    Clock
}

// Verify checks evidence for a nonce: the key, its signature, the nonce and claims, the event log against the quoted PCRs, and the
// measured digests against the policy. What the policy does not name may be measured as it likes. It needs no TPM. The error is an
// *Error.
func Verify(e *Evidence, nonce []byte, p Policy) (*Result, error) {
	if !bytes.Equal(e.AK, p.AK) {
		return nil, bad(BadKey, "the quote is of another attestation key than the policy's")
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.AK)
	if err != nil {
		return nil, bad(BadKey, "%v", err)
	}
	if a := pub.ObjectAttributes; !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.SensitiveDataOrigin {
		return nil, bad(BadKey, "it is not a restricted signing key of a TPM")
	}
	anyKey, err := tpm2.Pub(*pub)
	key, ok := anyKey.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, bad(BadKey, "it is not an ECDSA key (%v)", err)
	}
	if err := checkSignature(key, e.Quoted, e.Signature); err != nil {
		return nil, err
	}
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](e.Quoted)
	if err != nil {
		return nil, bad(BadQuote, "%v", err)
	}
	if attest.Magic != tpm2.TPMGeneratedValue || attest.Type != tpm2.TPMSTAttestQuote {
		return nil, bad(BadQuote, "the TPM signed something else")
	}
	if data := QualifyingData(nonce, e.Claims); !bytes.Equal(e.Nonce, nonce) || !bytes.Equal(attest.ExtraData.Buffer, data[:]) {
		return nil, bad(BadNonce, "the quote is not for this nonce and these claims")
	}
	clock := Clock{attest.ClockInfo.ResetCount, attest.ClockInfo.Clock}
	if clock.Resets < p.Since.Resets || clock.Milliseconds < p.Since.Milliseconds {
		return nil, bad(BadClock, "%d resets and %d ms, before it were %d and %d", clock.Resets, clock.Milliseconds, p.Since.Resets, p.Since.Milliseconds)
	}
	list, err := checkPCRs(attest, e.Log, p.Shared)
	if err != nil {
		return nil, err
	}
	if err := checkGolden(list, p.Golden); err != nil {
		return nil, err
	}
	return &Result{list, clock}, nil
}

func checkSignature(key *ecdsa.PublicKey, quoted, signature []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return bad(BadSignature, "%v", err)
	}
	ecc, err := sig.Signature.ECDSA()
	if err != nil || ecc.Hash != tpm2.TPMAlgSHA256 {
		return bad(BadSignature, "it is not ECDSA with SHA-256 (%v)", err)
	}
	digest := sha256.Sum256(quoted)
	r, s := new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)
	if !ecdsa.Verify(key, digest[:], r, s) {
		return bad(BadSignature, "the key did not sign this quote")
	}
	return nil
}

// checkPCRs replays the log and holds it against the quote.
func checkPCRs(attest *tpm2.TPMSAttest, log []byte, shared bool) (list []Measured, err error) {
	quote, err := attest.Attested.Quote()
	if err != nil {
		return nil, bad(BadQuote, "%v", err)
	}
	used := []uint{8, 9, 12, 13, 14}
	if shared {
		used = []uint{sharedPCR}
	}
	if !bytes.Equal(tpm2.Marshal(quote.PCRSelect), tpm2.Marshal(selection(used))) {
		return nil, bad(BadQuote, "it is not of the PCRs %v of the SHA-256 bank", used)
	}
	events, pcrs, err := parseLog(log)
	if err != nil {
		return nil, bad(BadLog, "%v", err)
	}
	var values []byte
	for _, pcr := range used {
		v := pcrs[pcr]
		values = append(values, v[:]...)
	}
	if digest := sha256.Sum256(values); !bytes.Equal(quote.PCRDigest.Buffer, digest[:]) {
		return nil, bad(BadLog, "its events do not make the PCRs that were quoted")
	}
	for _, e := range events {
		m, err := measured(e, shared)
		if err != nil {
			return nil, bad(BadLog, "%v", err)
		}
		list = append(list, m)
	}
	return list, nil
}

func checkGolden(list []Measured, golden map[What][]string) error {
	seen := map[What]bool{}
	for _, m := range list {
		if allowed, ok := golden[m.What]; ok && !slices.Contains(allowed, m.Digest) {
			return bad(BadValue, "%s %s is %s, which the policy does not allow", m.What, m.Name, m.Digest)
		}
		seen[m.What] = true
	}
	for what := range golden {
		if !seen[what] {
			return bad(BadValue, "no %s was measured", what)
		}
	}
	return nil
}
