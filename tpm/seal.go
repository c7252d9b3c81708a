package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// MaxSecret is how long a sealed secret may be, in bytes: a key, not a file.
const MaxSecret = 128

// Seal encrypts a secret so that only this TPM gives it out, and only while these PCRs are as they are now.
func (t *TPM) Seal(secret []byte, pcrs ...uint) (blob []byte, err error) {
	if blob, err = t.seal(secret, pcrs); err != nil {
		return nil, fmt.Errorf("tpm: seal: %w", err)
	}
	return blob, nil
}

func (t *TPM) seal(secret []byte, pcrs []uint) (blob []byte, err error) {
	if len(secret) == 0 || len(secret) > MaxSecret || len(pcrs) == 0 {
		return nil, fmt.Errorf("a secret of %d bytes for %d PCRs: want 1 to %d bytes and a PCR", len(secret), len(pcrs), MaxSecret)
	}
	policy, err := t.pcrPolicy(pcrs)
	if err != nil {
		return nil, err
	}
	srk, err := t.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return nil, fmt.Errorf("make the storage key: %w", err)
	}
	defer func() { err = errors.Join(err, t.flush(srk.ObjectHandle)) }()
	public, err := srk.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16,
			tpm2.AESEncryption(128, tpm2.EncryptIn), tpm2.Salted(srk.ObjectHandle, *public))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
		}),
	}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	for _, part := range [][]byte{tpm2.Marshal(selection(pcrs)), rsp.OutPrivate.Buffer, rsp.OutPublic.Bytes()} {
		blob = append(binary.BigEndian.AppendUint16(blob, uint16(len(part))), part...)
	}
	return blob, nil
}

// pcrPolicy is the policy that these PCRs are as they are now.
func (t *TPM) pcrPolicy(pcrs []uint) ([]byte, error) {
	session, done, err := tpm2.PolicySession(t.conn, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return nil, err
	}
	_, err = tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection(pcrs)}.Execute(t.conn)
	var rsp *tpm2.PolicyGetDigestResponse
	if err == nil {
		rsp, err = tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t.conn)
	}
	if err := errors.Join(err, done()); err != nil {
		return nil, err
	}
	return rsp.PolicyDigest.Buffer, nil
}

// Unseal gives out what Seal encrypted.
func (t *TPM) Unseal(blob []byte) (secret []byte, err error) {
	if secret, err = t.unseal(blob); err != nil {
		return nil, fmt.Errorf("tpm: unseal: %w", err)
	}
	return secret, nil
}

func (t *TPM) unseal(blob []byte) (secret []byte, err error) {
	var parts [3][]byte
	for i := range parts {
		if len(blob) < 2 || len(blob)-2 < int(binary.BigEndian.Uint16(blob)) {
			return nil, errors.New("it is not a sealed secret")
		}
		n := 2 + int(binary.BigEndian.Uint16(blob))
		parts[i], blob = blob[2:n], blob[n:]
	}
	pcrs, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](parts[0])
	if err != nil || len(blob) != 0 {
		return nil, fmt.Errorf("it is not a sealed secret (%v)", err)
	}
	srk, err := t.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return nil, fmt.Errorf("make the storage key: %w", err)
	}
	defer func() { err = errors.Join(err, t.flush(srk.ObjectHandle)) }()
	public, err := srk.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	object, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: parts[1]},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](parts[2]),
	}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.flush(object.ObjectHandle)) }()
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(conn transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicyPCR{PolicySession: session, Pcrs: *pcrs}.Execute(conn)
			return err
		}, tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(srk.ObjectHandle, *public)),
	}}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	return rsp.OutData.Buffer, nil
}
