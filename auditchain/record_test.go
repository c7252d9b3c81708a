package auditchain

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

var sample = Record{
	Kind: Fork, Time: 1764000000123456789, Who: "uid 1000", Verb: "vm.fork", VM: "web-1", Args: [32]byte{1, 2, 3}, Result: -17, Detail: "no such snapshot: 東京",
}

func TestRecordForms(t *testing.T) {
	for _, r := range []Record{
		sample, {Kind: Command},
		{Kind: Trim, Who: strings.Repeat("a", MaxName), Verb: strings.Repeat("b", MaxName), VM: strings.Repeat("c", MaxName), Detail: strings.Repeat("d", MaxDetail), Result: 1 << 62},
	} {
		b, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got Record
		if err := got.UnmarshalBinary(b); err != nil || got != r {
			t.Errorf("binary: %+v, %v; want %+v", got, err, r)
		}
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got = Record{}
		if err := json.Unmarshal(j, &got); err != nil || got != r {
			t.Errorf("JSON %s: %+v, %v; want %+v", j, got, err, r)
		}
	}
}

func TestRecordStrict(t *testing.T) {
	good, err := sample.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(at int, c byte) []byte {
		b := bytes.Clone(good)
		b[at] = c
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "version": edit(0, 2), "kind 0": edit(1, 0), "kind 14": edit(1, 14), "time": edit(2, 0x80), "longer": append(bytes.Clone(good), 0),
		"UTF-8": edit(51, 0xff), "who's length": edit(50, 200), "detail's length": edit(50+1+8+1+7+1+5+1, 1),
	} {
		if err := new(Record).UnmarshalBinary(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range good {
		if err := new(Record).UnmarshalBinary(good[:n]); err == nil {
			t.Errorf("the first %d bytes: accepted", n)
		}
	}
	for _, r := range []Record{{}, {Kind: 99}, {Kind: Command, Time: -1}, {Kind: Command, Who: strings.Repeat("a", 256)}, {Kind: Command, VM: "\xff"}} {
		if _, err := r.AppendBinary(nil); err == nil {
			t.Errorf("%+v: encoded", r)
		}
	}
	for _, j := range []string{
		`{}`, `{"kind":"no"}`, `{"kind":"fork","args":"00"}`, `{"kind":"fork","more":1}`,
		`{"kind":"fork","time":"9999-01-01T00:00:00Z","args":"` + strings.Repeat("00", 32) + `"}`,
	} {
		if err := json.Unmarshal([]byte(j), new(Record)); err == nil {
			t.Errorf("%s: accepted", j)
		}
	}
}

func TestRecordClean(t *testing.T) {
	r := Record{Kind: Syscall, Who: strings.Repeat("é", 200), Verb: "\xffopen", Detail: strings.Repeat("x", 5000)}.Clean()
	if len(r.Who) != 254 || !utf8.ValidString(r.Who) || r.Verb != "\uFFFDopen" || len(r.Detail) != MaxDetail || r.Time == 0 {
		t.Errorf("%+v", r)
	}
	if _, err := r.AppendBinary(nil); err != nil {
		t.Error(err)
	}
}

// What the decoder accepts is exactly what the encoder makes of it.
func FuzzRecord(f *testing.F) {
	b, _ := sample.AppendBinary(nil)
	f.Add(b)
	f.Add(b[:50])
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if r.UnmarshalBinary(b) != nil {
			return
		}
		again, err := r.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was decoded to %+v, which is encoded as %x, %v", b, r, again, err)
		}
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Record
		if err := json.Unmarshal(j, &back); err != nil || back != r {
			t.Fatalf("%s: %+v, %v; want %+v", j, back, err, r)
		}
	})
}

func FuzzBlock(f *testing.F) {
	k := testKey(f)
	b := nextBlock(k.name, nil, Head{Size: 3}, 5, 0)
	if err := b.sign(k); err != nil {
		f.Fatal(err)
	}
	f.Add(b.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := decodeBlock(p)
		if err == nil && !bytes.Equal(b.encode(), p) {
			t.Fatalf("%x was decoded to %+v, which is encoded as %x", p, b, b.encode())
		}
		if err == nil {
			_ = b.check(k.Public(), nil)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	k := testKey(f)
	msg, err := k.signHead(Head{Size: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Fuzz(func(t *testing.T, p []byte) {
		if h, err := k.Public().openHead(p); err == nil && h != (Head{Size: 3}) {
			t.Fatalf("%q: %+v", p, h)
		}
	})
}
