package anneal

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestReadRudy(t *testing.T) {
	m, err := ReadRudy(strings.NewReader("3 2 \n1 2 1\n\n3 2 -2.5\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []Coupling{{0, 1, 1}, {1, 2, -2.5}}; m.Spins() != 3 || !slices.Equal(m.Couplings(), want) {
		t.Errorf("%d spins, %v; want 3, %v", m.Spins(), m.Couplings(), want)
	}
	for text, why := range map[string]string{
		"":                                 "no line `vertices edges`",
		"3":                                "line 1: \"3\": want `vertices edges`",
		"3 2 1\n":                          "want `vertices edges`",
		"-1 0\n":                           "is not a number",
		"99999999 0\n":                     "is not a number from 0 to 4194304",
		"3 2\n1 2 1\n":                     "1 edges, where the first line announces 2",
		"3 1\n1 2 1\n2 3 1\n":              "line 3: one edge more than the 1",
		"3 1\n1 2\n":                       "want `i j weight`",
		"3 1\n1 2 1 1\n":                   "want `i j weight`",
		"3 1\n0 2 1\n":                     "\"0\" is not a number from 1 to 3",
		"3 1\n1 4 1\n":                     "\"4\" is not a number from 1 to 3",
		"3 1\n2 2 1\n":                     "edge to itself",
		"3 1\n1 2 NaN\n":                   "is not a finite decimal number",
		"3 1\n1 2 inf\n":                   "is not a finite decimal number",
		"3 1\n1 2 1e999\n":                 "is not a finite decimal number",
		"3 1\n1 2 0x1p2\n":                 "is not a finite decimal number",
		"3 1\n+1 2 1\n":                    "is not a number",
		"3 2\n1 2 1\n2 1 1\n":              "vertices 1 and 2 is given twice",
		"3 1\n1 2 1" + spaces(5000) + "\n": "line 2 is longer",
	} {
		if m, err := ReadRudy(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.40q: %v, error %v; want %q", text, m, err, why)
		}
	}
}

func spaces(n int) string { return strings.Repeat(" ", n) }

func TestReadCOO(t *testing.T) {
	for text, want := range map[string]*Model{
		"# vartype=SPIN\n0 0 0.500000\n0 1 -1.000000\n2 1 3\n":               must(NewIsing([]float64{0.5, 0, 0}, []Coupling{{0, 1, -1}, {1, 2, 3}}, 0)),
		"# made by hand, vartype: BINARY\n# offset=2\n1 1 4\n0 1 -2\n":       must(NewQUBO([]float64{0, 4}, []Coupling{{0, 1, -2}}, 2)),
		"# vartype=SPIN\n# nothing more\n":                                   must(NewIsing(nil, nil, 0)),
		"# vartype=SPIN\n  # a comment, offset=7 within it is none\n0 0 1\n": must(NewIsing([]float64{1}, nil, 0)),
	} {
		m, _, err := ReadCOO(strings.NewReader(text))
		if err != nil || !equal(m, want) {
			t.Errorf("%q: %v, error %v; want %v", text, m, err, want)
		}
	}
	for text, why := range map[string]string{
		"0 0 1\n":                                  "no comment `# vartype",
		"# vartype=POTTS\n":                        "neither SPIN nor BINARY",
		"# vartype=SPIN\n# vartype=SPIN\n":         "line 2: a second vartype",
		"# vartype=SPIN\n0 0\n":                    "want `i j bias`",
		"# vartype=SPIN\n0 -1 1\n":                 "is not a number",
		"# vartype=SPIN\n0 4194304 1\n":            "is not a number from 0 to 4194303",
		"# vartype=SPIN\n0 1 nan\n":                "is not a finite",
		"# vartype=SPIN\n0 1 1\n1 0 1\n":           "variables 0 and 1 is given twice",
		"# vartype=SPIN\n3 3 1\n3 3 1\n":           "variables 3 and 3 is given twice",
		"# vartype=SPIN\n# offset=x\n":             "is not a finite",
		"# vartype=SPIN\n# offset=1\n# offset=1\n": "a second offset",
		"# vartype=SPIN\n0 0 1e308\n1 1 1e308\n":   "so large that energies are",
	} {
		if m, _, err := ReadCOO(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, error %v; want %q", text, m, err, why)
		}
	}
}

func equal(a, b *Model) bool {
	return a.offset == b.offset && slices.Equal(a.h, b.h) && slices.Equal(a.pairs, b.pairs)
}

func TestWrite(t *testing.T) {
	m := randomModel(20, 60, 9, false)
	if err := WriteRudy(&bytes.Buffer{}, m); err == nil {
		t.Error("a model with fields is written as a rudy file")
	}
	if err := WriteCOO(&bytes.Buffer{}, m, "POTTS"); err == nil {
		t.Error("a vartype is invented")
	}
	var b bytes.Buffer
	if err := WriteCOO(&b, must(NewIsing([]float64{0.5, 0}, []Coupling{{1, 0, -1}}, 1e-9)), Spin); err != nil {
		t.Fatal(err)
	}
	if want := "# vartype=SPIN\n# offset=0.000000001\n0 0 0.5\n1 1 0\n0 1 -1\n"; b.String() != want {
		t.Errorf("written %q, want %q", b.String(), want)
	}
}

// FuzzReadRudy: what is read and written again is read as the same.
func FuzzReadRudy(f *testing.F) {
	for _, s := range []string{"3 2\n1 2 1\n2 3 -1\n", "2 1\n1 2 1e300\n", "1 0\n", "4 2\n1 2 0\n3 4 .5\n", "x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ReadRudy(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteRudy(&b, m); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadRudy(&b); err != nil || !equal(m, again) {
			t.Fatalf("%q: read again %v, error %v", text, again, err)
		}
	})
}

// FuzzReadCOO: what is read and written again as the same vartype has the same size and, for spins, is the same.
func FuzzReadCOO(f *testing.F) {
	for _, s := range []string{"# vartype=SPIN\n0 0 1\n0 1 -1\n", "# vartype=BINARY\n# offset=-3\n5 2 1e-300\n", "# vartype=SPIN\n", "0 1 2"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, vartype, err := ReadCOO(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteCOO(&b, m, vartype); err != nil {
			t.Fatal(err)
		}
		again, v, err := ReadCOO(&b)
		if err != nil || v != vartype || again.Spins() != m.Spins() || vartype == Spin && !equal(m, again) {
			t.Fatalf("%q: read again %v, %v, error %v", text, again, v, err)
		}
	})
}
