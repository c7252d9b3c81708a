package tpm

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Events as in the TCG PC Client Platform Firmware Profile 1.05, section 10.
const (
	evNoAction = 0x3 // not measured
	evIPL      = 0xd // measured: the event's text
	specID     = "Spec ID Event03\x00"
	maxLogSize = 64 << 20
	maxEvent   = 4096
)

var le = binary.LittleEndian

// logHeader is the first event of a crypto-agile log, which says which hashes the others have.
func logHeader(banks []bank) []byte {
	spec := append([]byte(specID), 0, 0, 0, 0, 0 /* minor */, 2 /* major */, 0 /* errata */, 2 /* size of an address: 64 bits */)
	spec = le.AppendUint32(spec, uint32(len(banks)))
	for _, b := range banks {
		spec = le.AppendUint16(spec, uint16(b.alg))
		spec = le.AppendUint16(spec, uint16(b.hash.Size()))
	}
	spec = append(spec, 0) // no vendor information
	h := le.AppendUint32(nil, 0)
	h = le.AppendUint32(h, evNoAction)
	h = append(h, make([]byte, 20)...)
	return append(le.AppendUint32(h, uint32(len(spec))), spec...)
}

// digests hashes an event's data for all banks.
func digests(banks []bank, data []byte) (list []tpm2.TPMTHA) {
	for _, b := range banks {
		h := b.hash.New()
		h.Write(data)
		list = append(list, tpm2.TPMTHA{HashAlg: b.alg, Digest: h.Sum(nil)})
	}
	return list
}

// appendEvent appends a TCG_PCR_EVENT2.
func appendEvent(log []byte, pcr uint, list []tpm2.TPMTHA, data []byte) []byte {
	log = le.AppendUint32(log, uint32(pcr))
	log = le.AppendUint32(log, evIPL)
	log = le.AppendUint32(log, uint32(len(list)))
	for _, d := range list {
		log = append(le.AppendUint16(log, uint16(d.HashAlg)), d.Digest...)
	}
	return append(le.AppendUint32(log, uint32(len(data))), data...)
}

// event is an event of a log: what was measured into which PCR.
type event struct {
	pcr  uint
	data []byte
}

// reader takes a log apart. After an error everything is empty.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.b, r.err = nil, errors.New("it ends within an event")
		return make([]byte, max(0, min(n, 64)))
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u16() uint16 { return le.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return le.Uint32(r.take(4)) }

// parseLog reads a log of ours, and replays it: it returns the events and the SHA-256 PCRs that they make. It accepts only what
// Measurements writes: every digest is that of the event's data.
func parseLog(log []byte) (events []event, pcrs map[uint][32]byte, err error) {
	if len(log) > maxLogSize {
		return nil, nil, fmt.Errorf("the event log has %d bytes, more than %d", len(log), maxLogSize)
	}
	r := &reader{b: log}
	if pcr, typ := r.u32(), r.u32(); pcr != 0 || typ != evNoAction {
		return nil, nil, errors.New("the event log does not begin with a Spec ID event")
	}
	r.take(20)
	spec := &reader{b: r.take(int(r.u32()))}
	if string(spec.take(len(specID))) != specID {
		return nil, nil, errors.New("the event log is not a crypto-agile one")
	}
	spec.take(8)
	var banks []bank
	for range min(spec.u32(), uint32(len(hashes)+1)) {
		alg := tpm2.TPMAlgID(spec.u16())
		h, ok := hashOf(alg)
		if size := int(spec.u16()); !ok || size != h.Size() {
			return nil, nil, fmt.Errorf("the event log has the hash %#x of %d bytes, which is not known", alg, size)
		}
		if slices.Contains(banks, bank{alg, h}) {
			return nil, nil, fmt.Errorf("the event log has the hash %#x twice", alg)
		}
		banks = append(banks, bank{alg, h})
	}
	spec.take(int(spec.take(1)[0]))
	if spec.err != nil || len(spec.b) != 0 || r.err != nil {
		return nil, nil, errors.New("the event log's Spec ID event is malformed")
	}
	// Else its events would make no PCR that is quoted, and could say what they like.
	if !slices.Contains(banks, bank{tpm2.TPMAlgSHA256, crypto.SHA256}) {
		return nil, nil, errors.New("the event log has no SHA-256 digests")
	}
	pcrs = map[uint][32]byte{}
	for len(r.b) > 0 {
		pcr, typ, count := uint(r.u32()), r.u32(), r.u32()
		if r.err == nil && (typ != evIPL || count != uint32(len(banks)) || pcr > 23) {
			return nil, nil, fmt.Errorf("event %d: type %#x with %d digests for PCR %d is none of ours", len(events), typ, count, pcr)
		}
		got := make(map[tpm2.TPMAlgID]string)
		for range min(count, uint32(len(banks))) {
			alg := tpm2.TPMAlgID(r.u16())
			h, ok := hashOf(alg)
			if !ok {
				return nil, nil, fmt.Errorf("event %d has a digest of the unknown hash %#x", len(events), alg)
			}
			got[alg] = string(r.take(h.Size()))
		}
		size := int(r.u32())
		if size > maxEvent {
			return nil, nil, fmt.Errorf("event %d has %d bytes, more than %d", len(events), size, maxEvent)
		}
		data := r.take(size)
		if r.err != nil {
			return nil, nil, fmt.Errorf("event %d: %w", len(events), r.err)
		}
		for _, d := range digests(banks, data) {
			if got[d.HashAlg] != string(d.Digest) {
				return nil, nil, fmt.Errorf("event %d: its digest is not that of %q", len(events), data)
			}
			if d.HashAlg == tpm2.TPMAlgSHA256 {
				old := pcrs[pcr]
				pcrs[pcr] = sum256(append(old[:], d.Digest...))
			}
		}
		events = append(events, event{pcr, data})
	}
	return events, pcrs, nil
}
