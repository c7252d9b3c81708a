package tpm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// ErrRolledBack is found in an Anchor's errors when its two NV indexes do not belong together.
var ErrRolledBack = errors.New("the TPM's NV memory was put back or written by somebody else")

// Anchor keeps in the TPM's NV memory how many blocks an audit log has, and the last one's hash: a counter that never goes back, and
// beside it a space that only who has the secret can write. It is an auditchain.Anchor.
type Anchor struct {
	t       *TPM
	m       *Measurements // nil: roots are not measured
	secret  []byte
	counter tpm2.NamedHandle
	space   tpm2.NamedHandle
	mu      sync.Mutex
}

const (
	counterBase = 0x01815100 // NV indexes: a counter and a space for each log
	spaceSize   = 8 + 8 + 32 // the counter at the beginning, blocks, hash
)

// NewAnchor opens the anchor with that number, or makes it if there is none. The secret, 16 to 32 bytes, is kept by who writes the log,
// best derived from its key. If m is not nil, every root is measured into PCR 14
// as well, as long as the event log has room.
func (t *TPM) NewAnchor(number uint8, secret []byte, m *Measurements) (*Anchor, error) {
	// go-tpm cuts an authorization value at its first zero byte, the TPM at its trailing ones only: there are to be none.
	a := &Anchor{t: t, m: m, secret: bytes.ReplaceAll(secret, []byte{0}, []byte{0xff})}
	if err := a.open(tpm2.TPMHandle(counterBase + 2*uint32(number))); err != nil {
		return nil, fmt.Errorf("tpm: open the anchor %d: %w", number, err)
	}
	return a, nil
}

func (a *Anchor) open(index tpm2.TPMHandle) error {
	if len(a.secret) < 16 || len(a.secret) > 32 {
		return fmt.Errorf("the secret has %d bytes, not 16 to 32", len(a.secret))
	}
	made, err := a.define(&a.counter, index, tpm2.TPMNTCounter, 8)
	if err == nil && made {
		err = a.increment() // which makes it readable
	}
	if err == nil {
		made, err = a.define(&a.space, index+1, tpm2.TPMNTOrdinary, spaceSize)
	}
	if err != nil {
		return err
	}
	if !made {
		_, err = a.read(a.space, spaceSize)
		if !errors.Is(err, tpm2.TPMRCNVUninitialized) {
			return err
		}
	}
	count, err := a.count()
	if err != nil {
		return err
	}
	return a.write(count, 0, [32]byte{})
}

// define finds the NV index or makes it, and fills in its name.
func (a *Anchor) define(h *tpm2.NamedHandle, index tpm2.TPMHandle, typ tpm2.TPMNT, size uint16) (made bool, err error) {
	pub := tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, NT: typ},
	})
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		Auth:       tpm2.TPM2BAuth{Buffer: a.secret},
		PublicInfo: pub,
	}.Execute(a.t.conn)
	made = err == nil
	if err != nil && !errors.Is(err, tpm2.TPMRCNVDefined) {
		return false, fmt.Errorf("define NV index %#x: %w", index, err)
	}
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(a.t.conn)
	if err != nil {
		return false, fmt.Errorf("read NV index %#x: %w", index, err)
	}
	*h = tpm2.NamedHandle{Handle: index, Name: rsp.NVName}
	public, err := rsp.NVPublic.Contents()
	if err == nil && (public.Attributes.NT != typ || public.DataSize != size || public.Attributes.OwnerWrite || public.Attributes.PPWrite) {
		err = fmt.Errorf("NV index %#x is not one of an anchor: %w", index, ErrRolledBack)
	}
	return made, err
}

// auth opens an index with the secret, which does not pass over the wire.
func (a *Anchor) auth(h tpm2.NamedHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(a.secret))}
}

// refresh reads an index's name again: its first write changes it.
func (a *Anchor) refresh(h *tpm2.NamedHandle) error {
	rsp, err := tpm2.NVReadPublic{NVIndex: h.Handle}.Execute(a.t.conn)
	if err == nil {
		h.Name = rsp.NVName
	}
	return err
}

func (a *Anchor) increment() error {
	if _, err := (tpm2.NVIncrement{AuthHandle: a.auth(a.counter), NVIndex: a.counter}).Execute(a.t.conn); err != nil {
		return fmt.Errorf("increment the counter: %w", err)
	}
	return a.refresh(&a.counter)
}

func (a *Anchor) read(h tpm2.NamedHandle, size uint16) ([]byte, error) {
	rsp, err := tpm2.NVRead{AuthHandle: a.auth(h), NVIndex: h, Size: size}.Execute(a.t.conn)
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", h.Handle, err)
	}
	if len(rsp.Data.Buffer) != int(size) {
		return nil, fmt.Errorf("read NV index %#x: %d bytes, not %d", h.Handle, len(rsp.Data.Buffer), size)
	}
	return rsp.Data.Buffer, nil
}

func (a *Anchor) count() (uint64, error) {
	b, err := a.read(a.counter, 8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

func (a *Anchor) write(base, blocks uint64, hash [32]byte) error {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, base), blocks)
	w := tpm2.NVWrite{AuthHandle: a.auth(a.space), NVIndex: a.space, Data: tpm2.TPM2BMaxNVBuffer{Buffer: append(b, hash[:]...)}}
	if _, err := w.Execute(a.t.conn); err != nil {
		return fmt.Errorf("write NV index %#x: %w", a.space.Handle, err)
	}
	return a.refresh(&a.space)
}

// state reads both indexes. An Extend that was interrupted between its two writes is completed.
func (a *Anchor) state() (base, blocks uint64, hash [32]byte, err error) {
	b, err := a.read(a.space, spaceSize)
	if err != nil {
		return 0, 0, hash, err
	}
	base, blocks, hash = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), [32]byte(b[16:])
	count, err := a.count()
	if err != nil {
		return 0, 0, hash, err
	}
	switch count {
	case base + blocks:
	case base + blocks - 1:
		err = a.increment()
	default:
		err = fmt.Errorf("the counter says %d blocks, the space beside it %d: %w", count-base, blocks, ErrRolledBack)
	}
	return base, blocks, hash, err
}

// Last returns how many blocks were anchored, and the last one's hash.
func (a *Anchor) Last() (blocks uint64, hash [32]byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, blocks, hash, err = a.state(); err != nil {
		return 0, hash, fmt.Errorf("tpm: read the anchor: %w", err)
	}
	return blocks, hash, nil
}

// Extend anchors one more block, and measures its root.
func (a *Anchor) Extend(blocks uint64, hash, root [32]byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	base, before, _, err := a.state()
	if err == nil && blocks != before+1 {
		err = fmt.Errorf("%d blocks were anchored, so %d cannot be", before, blocks)
	}
	if err == nil {
		err = a.write(base, blocks, hash)
	}
	if err == nil {
		err = a.increment()
	}
	if err == nil && a.m != nil {
		// When the event log is full, after about 150,000 blocks, the NV memory goes on alone.
		if err = a.m.Digest(AuditRoot, fmt.Sprintf("%d:%s", blocks-1, hex.EncodeToString(hash[:])), root); errors.Is(err, ErrLogFull) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("tpm: anchor block %d: %w", blocks-1, err)
	}
	return nil
}
