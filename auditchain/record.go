package auditchain

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what a record is about.
type Kind uint8

// The kinds of records. Block, Gap and Trim are written by the log itself and refused from callers.
const (
	Command  Kind = 1  // a verb somebody asked for
	Launch   Kind = 2  // a VM began to run
	Stop     Kind = 3  // a VM ended
	Snapshot Kind = 4  // a VM's state was saved
	Restore  Kind = 5  // a VM was made from saved state
	Fork     Kind = 6  // a VM was made from a running one
	Fault    Kind = 7  // something went wrong in a VM or around it
	Recovery Kind = 8  // and was put right
	Patch    Kind = 9  // code or policy was changed
	Syscall  Kind = 10 // a system call of a native guest
	Block    Kind = 11 // a block was sealed: Result is its height, Args its hash
	Gap      Kind = 12 // records were dropped: Result is how many, Args the digest GapDigest makes of them
	Trim     Kind = 13 // remains of an interrupted write were removed: Result is how many bytes
)

var kindNames = [...]string{
	Command: "command", Launch: "launch", Stop: "stop", Snapshot: "snapshot", Restore: "restore", Fork: "fork", Fault: "fault",
	Recovery: "recovery", Patch: "patch", Syscall: "syscall", Block: "block", Gap: "gap", Trim: "trim",
}

func (k Kind) known() bool { return int(k) < len(kindNames) && kindNames[k] != "" }

// String is the kind's name in JSON.
func (k Kind) String() string {
	if !k.known() {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Limits of a record's strings, in bytes.
const (
	MaxName   = 255  // Who, Verb and VM
	MaxDetail = 4096 // Detail
)

const recordVersion = 1

// Record is one thing that happened.
//
// Its binary form is what the log hashes; all numbers are big-endian:
//
//	version 1, kind          1 byte each
//	time, result             8 bytes each
//	args                     32 bytes
//	who, verb, vm            each a length byte and that many bytes
//	detail                   a length of 2 bytes and that many bytes
//
// Nothing may follow, and the strings are UTF-8. A record has one encoding, and an encoding one record.
type Record struct {
	Kind   Kind
	Time   int64    // Unix time in nanoseconds, not negative; 0 is replaced by the present when the record is added
	Who    string   // who asked: a user, a process of the guest
	Verb   string   // what was asked: a verb, a system call's name
	VM     string   // of which VM; empty if of none
	Args   [32]byte // SHA-256 of the arguments, as the verb encodes them; the arguments themselves are not kept
	Result int64    // 0 for success, else what the verb says, such as a negative errno
	Detail string   // for people: the error, the reason
}

// Clean returns r as Add keeps it: strings that are too long are cut, what is not UTF-8 is replaced, and a missing time is set. So
// nobody escapes the log with arguments it cannot hold; Args covers them as they were.
func (r Record) Clean() Record {
	r.Who, r.Verb, r.VM = cleanString(r.Who, MaxName), cleanString(r.Verb, MaxName), cleanString(r.VM, MaxName)
	r.Detail = cleanString(r.Detail, MaxDetail)
	if r.Time <= 0 {
		r.Time = time.Now().UnixNano()
	}
	return r
}

func cleanString(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// AppendBinary appends the record's encoding to b. It refuses a record that has none.
func (r Record) AppendBinary(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, fmt.Errorf("auditchain: encode a record: %w", err)
	}
	b = append(b, recordVersion, byte(r.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Result))
	b = append(b, r.Args[:]...)
	for _, s := range [...]string{r.Who, r.Verb, r.VM} {
		b = append(append(b, byte(len(s))), s...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Detail)))
	return append(b, r.Detail...), nil
}

func (r Record) check() error {
	if !r.Kind.known() {
		return fmt.Errorf("kind %d is not known", uint8(r.Kind))
	}
	if r.Time < 0 {
		return fmt.Errorf("time %d is before 1970", r.Time)
	}
	for _, f := range [...]struct {
		name, value string
		limit       int
	}{{"who", r.Who, MaxName}, {"verb", r.Verb, MaxName}, {"vm", r.VM, MaxName}, {"detail", r.Detail, MaxDetail}} {
		if len(f.value) > f.limit {
			return fmt.Errorf("%s has %d bytes, more than %d", f.name, len(f.value), f.limit)
		}
		if !utf8.ValidString(f.value) {
			return fmt.Errorf("%s is not UTF-8", f.name)
		}
	}
	return nil
}

// UnmarshalBinary decodes what AppendBinary made, and accepts nothing else.
func (r *Record) UnmarshalBinary(b []byte) error {
	const fixed = 1 + 1 + 8 + 8 + 32
	if len(b) < fixed {
		return fmt.Errorf("auditchain: decode a record: %d bytes, fewer than %d", len(b), fixed)
	}
	if b[0] != recordVersion {
		return fmt.Errorf("auditchain: decode a record: version %d is not known", b[0])
	}
	n := Record{
		Kind:   Kind(b[1]),
		Time:   int64(binary.BigEndian.Uint64(b[2:])),
		Result: int64(binary.BigEndian.Uint64(b[10:])),
		Args:   [32]byte(b[18:fixed]),
	}
	b = b[fixed:]
	for _, s := range [...]*string{&n.Who, &n.Verb, &n.VM} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return errors.New("auditchain: decode a record: it ends within a string")
		}
		n := 1 + int(b[0])
		*s, b = string(b[1:n]), b[n:]
	}
	if len(b) < 2 || len(b) != 2+int(binary.BigEndian.Uint16(b)) {
		return errors.New("auditchain: decode a record: the detail's length does not fit the record's")
	}
	n.Detail = string(b[2:])
	if err := n.check(); err != nil {
		return fmt.Errorf("auditchain: decode a record: %w", err)
	}
	*r = n
	return nil
}

type jsonRecord struct {
	Kind   string    `json:"kind"`
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	Verb   string    `json:"verb"`
	VM     string    `json:"vm,omitempty"`
	Args   string    `json:"args"`
	Result int64     `json:"result"`
	Detail string    `json:"detail,omitempty"`
}

// MarshalJSON gives the kind by name, the time as RFC 3339 in UTC and the digest in hexadecimal.
func (r Record) MarshalJSON() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("auditchain: encode a record: %w", err)
	}
	return json.Marshal(jsonRecord{
		r.Kind.String(), time.Unix(0, r.Time).UTC(), r.Who, r.Verb, r.VM, hex.EncodeToString(r.Args[:]), r.Result, r.Detail,
	})
}

// UnmarshalJSON reads what MarshalJSON wrote and refuses fields it does not know.
func (r *Record) UnmarshalJSON(b []byte) error {
	var j jsonRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("auditchain: decode a record: %w", err)
	}
	n := Record{Time: j.Time.UnixNano(), Who: j.Who, Verb: j.Verb, VM: j.VM, Result: j.Result, Detail: j.Detail}
	for k, name := range kindNames {
		if name != "" && name == j.Kind {
			n.Kind = Kind(k)
		}
	}
	args, err := hex.DecodeString(j.Args)
	if err != nil || len(args) != len(n.Args) {
		return fmt.Errorf("auditchain: decode a record: args %q is not a SHA-256 digest", j.Args)
	}
	n.Args = [32]byte(args)
	if !j.Time.Equal(time.Unix(0, n.Time)) {
		return fmt.Errorf("auditchain: decode a record: time %v does not fit 64 bits of nanoseconds", j.Time)
	}
	if err := n.check(); err != nil {
		return fmt.Errorf("auditchain: decode a record: %w", err)
	}
	*r = n
	return nil
}
