package tpm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// What says what was measured.
type What string

// What is measured, and where (see the package comment).
const (
	Binary       What = "binary"       // PCR 8
	Core         What = "core"         // PCR 8
	Kernel       What = "kernel"       // PCR 9
	Program      What = "program"      // PCR 9
	Initramfs    What = "initramfs"    // PCR 9
	Rootfs       What = "rootfs"       // PCR 9
	Config       What = "config"       // PCR 12
	CommandLine  What = "cmdline"      // PCR 12
	Snapshot     What = "snapshot"     // PCR 13
	AuditRoot    What = "audit-root"   // PCR 14
	sharedPCR    uint = 23             // on a TPM that is not ours alone
	prefix            = "qenex "       // of every event
	digestWord        = " sha256:"     // before its digest
	maxEventName      = maxEvent - 200 // bytes
)

var pcrOf = map[What]uint{
	Binary: 8, Core: 8, Kernel: 9, Program: 9, Initramfs: 9, Rootfs: 9, Config: 12, CommandLine: 12, Snapshot: 13, AuditRoot: 14,
}

func sum256(b []byte) [32]byte { return sha256.Sum256(b) }

// Measurements extends PCRs and keeps the event log. Each event is a text,
//
//	qenex WHAT NAME sha256:DIGEST
//
// and what the PCRs are extended with is the text's hash: so large files are hashed once, whatever banks there are.
type Measurements struct {
	t *TPM

	mu        sync.Mutex
	log       []byte
	hashing   time.Duration
	measuring time.Duration
}

// ErrLogFull is found in the error when the event log has grown to 64 MiB.
var ErrLogFull = errors.New("the event log is full")

// Measure begins to measure. In a TPM of our own it can be done once after StartSoftware; the host's has its PCR 23 reset.
func (t *TPM) Measure() (*Measurements, error) {
	if !t.Software() {
		if _, err := (tpm2.PCRReset{PCRHandle: pcrHandle(sharedPCR)}).Execute(t.conn); err != nil {
			return nil, fmt.Errorf("tpm: reset PCR %d: %w", sharedPCR, err)
		}
	}
	pcrs, err := t.PCRs(t.pcrsUsed()...)
	if err != nil {
		return nil, err
	}
	for pcr, value := range pcrs {
		if value != [32]byte{} {
			return nil, fmt.Errorf("tpm: measure: PCR %d was extended before: the TPM must be reset first", pcr)
		}
	}
	return &Measurements{t: t, log: logHeader(t.banks)}, nil
}

func pcrHandle(pcr uint) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}
}

// pcrsUsed are the PCRs that are quoted.
func (t *TPM) pcrsUsed() []uint {
	if t.Software() {
		return []uint{8, 9, 12, 13, 14}
	}
	return []uint{sharedPCR}
}

// File measures what r has to say, to its end.
func (m *Measurements) File(what What, name string, r io.Reader) error {
	begin := time.Now()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("tpm: measure %s %s: %w", what, name, err)
	}
	m.mu.Lock()
	m.hashing += time.Since(begin)
	m.mu.Unlock()
	return m.Digest(what, name, [32]byte(h.Sum(nil)))
}

// Bytes measures b.
func (m *Measurements) Bytes(what What, name string, b []byte) error {
	begin := time.Now()
	h := sha256.Sum256(b)
	m.mu.Lock()
	m.hashing += time.Since(begin)
	m.mu.Unlock()
	return m.Digest(what, name, h)
}

// Digest measures something by its SHA-256 digest. name has no spaces and no control characters.
func (m *Measurements) Digest(what What, name string, digest [32]byte) error {
	pcr, ok := pcrOf[what]
	if !ok {
		return fmt.Errorf("tpm: measure %s %s: there is no PCR for that", what, name)
	}
	if name == "" || len(name) > maxEventName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }) {
		return fmt.Errorf("tpm: measure %s %q: the name must have 1 to %d bytes without spaces", what, name, maxEventName)
	}
	if !m.t.Software() {
		pcr = sharedPCR
	}
	data := []byte(prefix + string(what) + " " + name + digestWord + hex.EncodeToString(digest[:]))
	list := digests(m.t.banks, data)

	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.log)+maxEvent > maxLogSize {
		return fmt.Errorf("tpm: measure %s %s: %w", what, name, ErrLogFull)
	}
	begin := time.Now()
	if _, err := (tpm2.PCRExtend{PCRHandle: pcrHandle(pcr), Digests: tpm2.TPMLDigestValues{Digests: list}}).Execute(m.t.conn); err != nil {
		return fmt.Errorf("tpm: measure %s %s: extend PCR %d: %w", what, name, pcr, err)
	}
	m.measuring += time.Since(begin)
	m.log = appendEvent(m.log, pcr, list, data)
	return nil
}

// Log returns the event log, in TCG's crypto-agile form.
func (m *Measurements) Log() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.log...)
}

// Times returns how long the hashing took, and the TPM.
func (m *Measurements) Times() (hashing, tpm time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hashing, m.measuring
}

// Measured is something that was measured, as an event log says.
type Measured struct {
	What   What   `json:"what"`
	Name   string `json:"name"`
	Digest string `json:"digest"` // SHA-256 in hexadecimal
}

// measured reads an event's text.
func measured(e event, shared bool) (Measured, error) {
	text, ok := strings.CutPrefix(string(e.data), prefix)
	what, rest, ok2 := strings.Cut(text, " ")
	name, digest, ok3 := strings.Cut(rest, digestWord)
	b, err := hex.DecodeString(digest)
	if !ok || !ok2 || !ok3 || err != nil || len(b) != 32 || hex.EncodeToString(b) != digest {
		return Measured{}, fmt.Errorf("the event %q is none of ours", e.data)
	}
	want, known := pcrOf[What(what)]
	if shared {
		want = sharedPCR
	}
	if !known || e.pcr != want {
		return Measured{}, fmt.Errorf("the event %q is in PCR %d, where it does not belong", e.data, e.pcr)
	}
	return Measured{What(what), name, digest}, nil
}
