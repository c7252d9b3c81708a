// Package tpm speaks to a TPM 2.0: it measures what a machine is made of into PCRs, keeps the event log that explains them, quotes
// them, seals secrets to them, and counts in NV memory what must not be rolled back.
//
// The TPM is the host's (/dev/tpmrm0) or a swtpm that this package starts. A swtpm's state lies in a directory: it protects nothing
// against who can read or write that, and TPM.Software says so.
//
// PCRs of a TPM of our own, all banks that it has:
//
//	8   QENEX: its binary and its ring-0 core
//	9   what the machine runs: kernel or program, initramfs, root file system
//	12  how it is run: configuration and command line
//	13  the snapshot it comes from
//	14  roots of the audit log's blocks
//
// The host's TPM has its firmware's and its boot loader's measurements in these; there all of ours go into PCR 23, which New resets.
//
// The package knows nothing of virtual machines or audit logs: it may import no other room.
package tpm

import (
	"crypto"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// Device is the host's TPM, behind the kernel's resource manager.
const Device = "/dev/tpmrm0"

// TPM is a TPM 2.0. Its methods may be called by any goroutine.
type TPM struct {
	conn     *conn
	software *software // nil if it is the host's
	banks    []bank
}

// bank is a set of PCRs with one hash.
type bank struct {
	alg  tpm2.TPMAlgID
	hash crypto.Hash
}

var hashes = []bank{
	{tpm2.TPMAlgSHA1, crypto.SHA1}, {tpm2.TPMAlgSHA256, crypto.SHA256}, {tpm2.TPMAlgSHA384, crypto.SHA384}, {tpm2.TPMAlgSHA512, crypto.SHA512},
}

func hashOf(alg tpm2.TPMAlgID) (crypto.Hash, bool) {
	for _, b := range hashes {
		if b.alg == alg {
			return b.hash, true
		}
	}
	return 0, false
}

// Open opens the host's TPM, or, where there is none, starts a swtpm with its state in stateDir. Ask Software which it is, and tell
// whoever relies on it.
func Open(stateDir string) (*TPM, error) {
	t, err := OpenDevice(Device)
	if errors.Is(err, os.ErrNotExist) {
		return StartSoftware(stateDir)
	}
	return t, err
}

// OpenDevice opens a TPM device.
func OpenDevice(path string) (*TPM, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("tpm: open %s: %w", path, err)
	}
	t, err := newTPM(f, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tpm: open %s: %w", path, err), f.Close())
	}
	return t, nil
}

func newTPM(rw io.ReadWriteCloser, s *software) (*TPM, error) {
	t := &TPM{conn: &conn{rw: rw}, software: s}
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t.conn)
	if err != nil {
		return nil, fmt.Errorf("ask for its PCR banks: %w", err)
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("ask for its PCR banks: %w", err)
	}
	for _, s := range assigned.PCRSelections {
		used := false
		for _, b := range s.PCRSelect {
			used = used || b != 0
		}
		if !used {
			continue
		}
		h, ok := hashOf(s.Hash)
		if !ok {
			// A bank that is not extended could be filled by anyone later, and pass for ours.
			return nil, fmt.Errorf("it has a PCR bank with the hash %#x, which is not known here: switch that bank off", s.Hash)
		}
		t.banks = append(t.banks, bank{s.Hash, h})
	}
	if t.sha256() == nil {
		return nil, errors.New("it has no SHA-256 PCR bank: switch one on")
	}
	return t, nil
}

func (t *TPM) sha256() *bank {
	for i := range t.banks {
		if t.banks[i].alg == tpm2.TPMAlgSHA256 {
			return &t.banks[i]
		}
	}
	return nil
}

// Software says whether the TPM is a program of ours, which protects nothing against the host.
func (t *TPM) Software() bool { return t.software != nil }

// Close leaves the TPM. A swtpm ends, and keeps its state.
func (t *TPM) Close() error {
	if t.software == nil {
		return t.conn.rw.Close()
	}
	_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t.conn)
	return errors.Join(err, t.conn.rw.Close(), t.software.wait())
}

// selection selects PCRs of the SHA-256 bank.
func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// PCRs reads PCRs of the SHA-256 bank.
func (t *TPM) PCRs(pcrs ...uint) (map[uint][32]byte, error) {
	values := map[uint][32]byte{}
	for _, pcr := range pcrs {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{pcr})}.Execute(t.conn)
		if err != nil {
			return nil, fmt.Errorf("tpm: read PCR %d: %w", pcr, err)
		}
		if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != 32 {
			return nil, fmt.Errorf("tpm: read PCR %d: the TPM gave no SHA-256 value", pcr)
		}
		values[pcr] = [32]byte(rsp.PCRValues.Digests[0].Buffer)
	}
	return values, nil
}

// maxResponse is the longest command or response: what the reference implementation and swtpm have as MAX_RESPONSE_SIZE.
const maxResponse = 4096

// conn is a transport.TPM over a device or a stream.
type conn struct {
	mu sync.Mutex
	rw io.ReadWriteCloser
}

// Send sends a command and returns its response.
func (c *conn) Send(cmd []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.rw.Write(cmd); err != nil {
		return nil, err
	}
	// A device gives the response to one read; a stream may give it in parts.
	rsp := make([]byte, maxResponse)
	n, err := io.ReadAtLeast(c.rw, rsp, 10)
	if err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	size := int(binary.BigEndian.Uint32(rsp[2:]))
	if size < n || size > len(rsp) {
		return nil, fmt.Errorf("a response of %d bytes says that it has %d", n, size)
	}
	if _, err := io.ReadFull(c.rw, rsp[n:size]); err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	return rsp[:size], nil
}

// Command passes a command on as it is, such as one of a guest whose TPM this is, and returns the TPM's response. A command has at most
// 4096 bytes, as many as its header says. Other commands wait meanwhile.
func (t *TPM) Command(cmd []byte) (rsp []byte, err error) {
	if len(cmd) < 10 || len(cmd) > maxResponse || uint32(len(cmd)) != binary.BigEndian.Uint32(cmd[2:]) {
		return nil, fmt.Errorf("tpm: command: %d bytes are not a command", len(cmd))
	}
	if rsp, err = t.conn.Send(cmd); err != nil {
		return nil, fmt.Errorf("tpm: command: %w", err)
	}
	return rsp, nil
}

// flush removes an object from the TPM's memory.
func (t *TPM) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(t.conn)
	return err
}
