package cpuid

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	maxFileSize = 1 << 20 // bytes of a model file
	maxPatches  = 256     // entries of a model file
)

// patch changes one register of one leaf: clear first, then set. No bit is in both.
type patch struct {
	place
	clear, set uint32
}

// fileEntry is one element of a model file's list.
type fileEntry struct {
	Leaf  *number `json:"leaf"`
	Index number  `json:"index"`
	EAX   mask    `json:"eax"`
	EBX   mask    `json:"ebx"`
	ECX   mask    `json:"ecx"`
	EDX   mask    `json:"edx"`
}

// number is a 32-bit JSON number, or a string that holds one in C notation ("0x80000001").
type number uint32

func (n *number) UnmarshalJSON(b []byte) error {
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	v, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return fmt.Errorf("%s is no 32-bit number; write 7 or \"0x80000001\"", b)
	}
	*n = number(v)
	return nil
}

// mask is a change to a register: a string of 32 characters, bit 31 first ('0' clears, '1' sets,
// 'x' keeps, '_' is ignored, "0b" may lead), or an object with lists of bit numbers to clear and to set.
type mask struct{ clear, set uint32 }

func (m *mask) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
		return m.parse(text)
	}
	var lists struct {
		Clear []uint `json:"clear"`
		Set   []uint `json:"set"`
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&lists); err != nil {
		return fmt.Errorf("a register is a string of 0, 1 and x or {\"clear\":[bits],\"set\":[bits]}: %w", err)
	}
	for _, l := range []struct {
		bits []uint
		to   *uint32
	}{{lists.Clear, &m.clear}, {lists.Set, &m.set}} {
		for _, bit := range l.bits {
			if bit > 31 {
				return fmt.Errorf("bit %d: a register has bits 0 to 31", bit)
			}
			*l.to |= 1 << bit
		}
	}
	if both := m.clear & m.set; both != 0 {
		return fmt.Errorf("bits %#x are both cleared and set", both)
	}
	return nil
}

func (m *mask) parse(text string) error {
	digits := strings.ReplaceAll(strings.TrimPrefix(text, "0b"), "_", "")
	if len(digits) != 32 {
		return fmt.Errorf("mask %.80q has %d bits, need 32", text, len(digits))
	}
	for i, c := range []byte(digits) {
		bit := uint32(1) << (31 - i)
		switch c {
		case '0':
			m.clear |= bit
		case '1':
			m.set |= bit
		case 'x':
		default:
			return fmt.Errorf("mask %.80q: %q is none of 0, 1, x", text, c)
		}
	}
	return nil
}

func readFile(path string) ([]patch, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("it is neither host nor baseline, and as a file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFileSize)
	}
	p, err := parsePatches(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// ParseFile reads the text of a model file: a JSON list of
//
//	{"leaf": 1, "index": 0, "ecx": "xxxx_xxxx_..."}                 or
//	{"leaf": "0x80000001", "edx": {"clear": [26], "set": [27]}}
//
// Each element names a leaf (and an index where the leaf has them) and changes registers of
// the "host" model. Whether the host can set the bits asked for shows in Build.
func ParseFile(text []byte) (Model, error) {
	p, err := parsePatches(text)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", ErrModel, err)
	}
	return Model{spec: "file", patches: p}, nil
}

func parsePatches(text []byte) ([]patch, error) {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	var list []fileEntry
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("a model file is a JSON list of leaves: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the list of leaves")
	}
	if len(list) > maxPatches {
		return nil, fmt.Errorf("%d leaves, at most %d", len(list), maxPatches)
	}
	var patches []patch
	seen := make(map[[2]uint32]bool)
	for i, e := range list {
		if e.Leaf == nil {
			return nil, fmt.Errorf("element %d names no leaf", i)
		}
		leaf, index := uint32(*e.Leaf), uint32(e.Index)
		if key := [2]uint32{leaf, index}; seen[key] {
			return nil, fmt.Errorf("leaf %#x index %d comes twice", leaf, index)
		} else {
			seen[key] = true
		}
		for r, m := range []mask{e.EAX, e.EBX, e.ECX, e.EDX} {
			if m != (mask{}) {
				patches = append(patches, patch{place{leaf, index, reg(r)}, m.clear, m.set})
			}
		}
	}
	return patches, nil
}
