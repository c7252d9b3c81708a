package verify

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

const (
	kindBlock = 11
	kindGap   = 12
)

// kinds are the names of the kinds of records.
var kinds = [...]string{
	1: "command", "launch", "stop", "snapshot", "restore", "fork", "fault", "recovery", "patch", "syscall", "block", "gap", "trim",
}

var errNegative = errors.New("negative number of blocks or records")

// record is what the verifier needs of a record.
type record struct {
	kind   byte
	result int64
	args   [32]byte
}

// parseRecord checks the whole of a record's encoding, as auditchain.Record documents it.
func parseRecord(p []byte) (record, error) {
	const (
		headSize  = 50
		maxDetail = 4096
	)
	var r record
	if len(p) < headSize || p[0] != 1 {
		return r, errors.New("too short, or not of version 1")
	}
	if r.kind = p[1]; int(r.kind) >= len(kinds) || kinds[r.kind] == "" {
		return r, errors.New("unknown kind")
	}
	if p[2]&0x80 != 0 {
		return r, errors.New("negative time")
	}
	r.result = int64(binary.BigEndian.Uint64(p[10:18]))
	copy(r.args[:], p[18:headSize])
	if (r.kind == kindBlock || r.kind == kindGap) && r.result < 0 {
		return r, errNegative
	}
	p = p[headSize:]
	for field := range 4 {
		n, prefix := 0, 1
		if field == 3 {
			prefix = 2
		}
		if len(p) < prefix {
			return r, errors.New("truncated")
		}
		for _, c := range p[:prefix] {
			n = n<<8 | int(c)
		}
		if n > maxDetail || len(p) < prefix+n || !utf8.Valid(p[prefix:prefix+n]) {
			return r, errors.New("a string that is truncated, too long or not UTF-8")
		}
		p = p[prefix+n:]
	}
	if len(p) != 0 {
		return r, errors.New("more bytes than its strings have")
	}
	return r, nil
}
