package verify

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/qenex/qenex-kernel/auditchain"
)

func sampleRecord(t testing.TB) []byte {
	b, err := auditchain.Record{Kind: auditchain.Gap, Time: 5, Who: "who", Verb: "verb", VM: "vm", Result: 7, Detail: "détail"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The two decoders were written apart. They accept the same records, and find the same in them.
func FuzzRecord(f *testing.F) {
	b := sampleRecord(f)
	f.Add(b)
	for i := range b { // what is nearly right finds more than chance
		c := append([]byte(nil), b...)
		c[i] ^= 0x81
		f.Add(c)
	}
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		var theirs auditchain.Record
		ours, ourErr := parseRecord(b)
		theirErr := theirs.UnmarshalBinary(b)
		if errors.Is(ourErr, errNegative) {
			return // the writer does not make such records, but its decoder does not mind
		}
		if (ourErr == nil) != (theirErr == nil) {
			t.Fatalf("%x: %v here, %v there", b, ourErr, theirErr)
		}
		if ourErr == nil && (ours.kind != byte(theirs.Kind) || ours.result != theirs.Result || ours.args != theirs.Args || kinds[ours.kind] != theirs.Kind.String()) {
			t.Fatalf("%x: %+v here, %+v there", b, ours, theirs)
		}
	})
}

// Whatever the files say, Log says what it thinks of it.
func FuzzLog(f *testing.F) {
	k, err := auditchain.NewKey("fuzz.test/audit")
	if err != nil {
		f.Fatal(err)
	}
	keys, err := ParseKeys(k.Public().String())
	if err != nil {
		f.Fatal(err)
	}
	entry := sampleRecord(f)
	bundle := append(binary.BigEndian.AppendUint16(nil, uint16(len(entry))), entry...)
	f.Add([]byte("fuzz.test/audit\n1\nAAAA\n\n— fuzz.test/audit AAAAAAAA\n"), bundle, make([]byte, 32), make([]byte, blockSize))
	f.Fuzz(func(t *testing.T, checkpoint, entries, tile, blocks []byte) {
		m := fstest.MapFS{
			"checkpoint": {Data: checkpoint}, "tile/entries/000.p/1": {Data: entries}, "tile/0/000.p/1": {Data: tile}, "blocks": {Data: blocks},
		}
		var e *Error
		if _, err := Log(m, keys, Options{}); !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		// Beyond the signature, which is not to be forged.
		v := &verifier{fsys: m, keys: keys, head: Head{Size: 1}, report: &Report{Kinds: map[string]uint64{}}}
		if err := v.run(); err == nil {
			t.Fatal("an empty root was found in a log of one record")
		}
		_, _ = Cosigned(checkpoint, []string{"w+00000000+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
		_, _, _ = Inclusion(keys, entries, checkpoint)
	})
}

func TestParseKeys(t *testing.T) {
	k, err := auditchain.NewKey("a.test/b")
	if err != nil {
		t.Fatal(err)
	}
	text := k.Public().String()
	if _, err := ParseKeys(text); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", text[:100], strings.Replace(text, "v1", "v2", 1), strings.Replace(text, "ed25519 ", "ed25519 A", 1), strings.Replace(text, "mldsa44 ", "mldsa44 AAAA", 1)} {
		if _, err := ParseKeys(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
