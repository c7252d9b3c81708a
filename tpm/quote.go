package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// akTemplate is the attestation key: a restricted ECDSA P-256 key. It is a primary key of the endorsement hierarchy, so the TPM makes
// the same one each time, and nothing has to be kept.
var akTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}

// primary makes a primary key; the caller flushes it.
func (t *TPM) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t.conn)
}

// AK returns the attestation key's public part, a TPMT_PUBLIC: what Policy.AK wants.
func (t *TPM) AK() (public []byte, err error) {
	k, err := t.primary(tpm2.TPMRHEndorsement, akTemplate)
	if err != nil {
		return nil, fmt.Errorf("tpm: make the attestation key: %w", err)
	}
	return k.OutPublic.Bytes(), t.flush(k.ObjectHandle)
}

// Evidence is a quote and all that is needed to check it.
type Evidence struct {
	Nonce     []byte `json:"nonce"`     // the verifier's
	Claims    []byte `json:"claims"`    // what else the quote binds, such as an audit log's checkpoint
	AK        []byte `json:"ak"`        // TPMT_PUBLIC
	Quoted    []byte `json:"quoted"`    // TPMS_ATTEST
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
	Log       []byte `json:"log"`       // crypto-agile event log
}

// QualifyingData is what the quote signs of nonce and claims: SHA-256 of "qenex-quote/v1", a zero byte, the nonce's length in 4 bytes
// (big-endian), the nonce and the claims. tpm2_checkquote wants it as -q.
func QualifyingData(nonce, claims []byte) [32]byte {
	b := append([]byte("qenex-quote/v1\x00"), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[len(b)-4:], uint32(len(nonce)))
	return sha256.Sum256(append(append(b, nonce...), claims...))
}

// Quote quotes the PCRs for a verifier who sent the nonce.
func (m *Measurements) Quote(nonce, claims []byte) (*Evidence, error) {
	e, err := m.quote(nonce, claims)
	if err != nil {
		return nil, fmt.Errorf("tpm: quote: %w", err)
	}
	return e, nil
}

func (m *Measurements) quote(nonce, claims []byte) (e *Evidence, err error) {
	m.mu.Lock() // the log and the PCRs stay as they are
	defer m.mu.Unlock()
	t := m.t
	k, err := t.primary(tpm2.TPMRHEndorsement, akTemplate)
	if err != nil {
		return nil, fmt.Errorf("make the attestation key: %w", err)
	}
	defer func() { err = errors.Join(err, t.flush(k.ObjectHandle)) }()
	data := QualifyingData(nonce, claims)
	q, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: data[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(t.pcrsUsed()),
	}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	return &Evidence{
		Nonce: bytes.Clone(nonce), Claims: bytes.Clone(claims), AK: k.OutPublic.Bytes(), Quoted: q.Quoted.Bytes(),
		Signature: tpm2.Marshal(q.Signature), Log: bytes.Clone(m.log),
	}, nil
}
