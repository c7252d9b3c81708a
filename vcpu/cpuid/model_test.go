package cpuid

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, says := range map[string]string{
		"":                "must start with",
		",-avx":           "must start with",
		"host,":           "no feature change",
		"host,avx":        "no feature change",
		"host,--avx":      "no feature change",
		"host,+":          `called ""`,
		"host,-warp":      `called "warp"`,
		dir + "/missing":  "no such file",
		dir:               "directory",
		bad:               "JSON list",
		large + ",+avx":   "larger than",
		"HOST":            "neither host nor baseline",
		"baseline,-- avx": "no feature change",
	} {
		if m, err := Parse(spec); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, error %v, want one that says %q", spec, m, err, says)
		}
	}
}

func TestModelFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.json")
	text := `[
		{"leaf": 7, "ebx": "xxxxxxxx_xxxxxxx0_xxxxxxxx_xx0xxxxx"},
		{"leaf": "0x80000001", "edx": {"clear": [27], "set": [29]}},
		{"leaf": 1, "index": 0, "eax": "0b00000000000001010000011001010100"}
	]`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := build(t, path+",-fma,+fma", intelHost(), Params{Count: 1})
	if v := got.get(place{7, 0, ebx}) & (1<<16 | 1<<5 | 1<<8); v != 1<<8 {
		t.Errorf("leaf 7 EBX: %#x", v)
	}
	if got.has(features["rdtscp"]) || !got.has(features["lm"]) || !got.has(features["fma"]) {
		t.Error("rdtscp shows, or lm or fma does not")
	}
	if v := got.get(place{1, 0, eax}); v != 0x50654 {
		t.Errorf("signature %#x", v)
	}
}

var fileSeeds = []struct {
	text, says string // says: part of the error, "" for a good file
}{
	{`[]`, ""},
	{`[{"leaf":1,"ecx":"0b` + strings.Repeat("x", 31) + `1"}]`, ""},
	{`[{"leaf":"0xD","index":1,"eax":{"clear":[0,31]}}]`, ""},
	{`[{"leaf":1},{"leaf":1,"index":0}]`, "comes twice"},
	{`[{"eax":"` + strings.Repeat("x", 32) + `"}]`, "names no leaf"},
	{`[{"leaf":1,"eax":"01x"}]`, "3 bits"},
	{`[{"leaf":1,"eax":"` + strings.Repeat("2", 32) + `"}]`, "none of"},
	{`[{"leaf":1,"eax":{"set":[32]}}]`, "bit 32"},
	{`[{"leaf":1,"eax":{"set":[-1]}}]`, "register is a string"},
	{`[{"leaf":1,"eax":{"set":[3],"clear":[3]}}]`, "both"},
	{`[{"leaf":1,"eax":{"toggle":[3]}}]`, "toggle"},
	{`[{"leaf":1,"eax":7}]`, "register is a string"},
	{`[{"leaf":4294967296}]`, "32-bit"},
	{`[{"leaf":"one"}]`, "32-bit"},
	{`[{"leaf":1,"efx":"x"}]`, "efx"},
	{`[] []`, "follows"},
	{`{}`, "JSON list"},
	{``, "JSON list"},
	{`[` + strings.Repeat(`{"leaf":1},`, maxPatches) + `{"leaf":2}]`, "at most"},
}

func TestParseFile(t *testing.T) {
	for _, c := range fileSeeds {
		_, err := ParseFile([]byte(c.text))
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%.80s: %v", c.text, err)
		case c.says != "" && (!errors.Is(err, ErrModel) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%.80s: error %v, want one that says %q", c.text, err, c.says)
		}
	}
}

// Whatever a file says, the result has no bit that the host cannot give, beyond the identity
// and what Build itself writes.
func FuzzParseFile(f *testing.F) {
	for _, c := range fileSeeds {
		f.Add([]byte(c.text))
	}
	host := intelHost()
	can := &set{host}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseFile(text)
		if err != nil {
			return
		}
		for _, p := range m.patches {
			if p.clear&p.set != 0 {
				t.Fatalf("%v: %#x both cleared and set", p.place, p.clear&p.set)
			}
		}
		e, err := Build(m, host, Params{Count: 1})
		if err != nil {
			return
		}
		got := &set{e}
		for name, ft := range features {
			if got.has(ft) && !can.has(ft) && name != "hypervisor" {
				t.Fatalf("%s shows, the host has it not", name)
			}
		}
	})
}
