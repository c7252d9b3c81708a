package wire

import (
	"encoding/binary"
	"fmt"
)

// Integers are little-endian; a string is its length in 4 bytes and its bytes; a list its count in 4 bytes and its strings.

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendList(b []byte, list []string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder takes values off the front of a payload. After a value that is not there it is bad, and gives zero values.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint32) []byte {
	if uint64(n) > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) uint8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	v := d.uint8()
	d.bad = d.bad || v > 1
	return v == 1
}

func (d *decoder) uint16() uint16 {
	if p := d.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if p := d.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) string() string { return string(d.take(d.uint32())) }

func (d *decoder) list() []string {
	n := d.uint32()
	if uint64(n)*4 > uint64(len(d.b)) { // each takes 4 bytes at least
		d.bad = true
		return nil
	}
	var list []string
	for range n {
		list = append(list, d.string())
	}
	return list
}

// end is the error of a message of which too little, too much or nonsense was there.
func (d *decoder) end(name string) error {
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("%w: bad payload of %s", ErrMessage, name)
	}
	return nil
}
