package anneal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Vartype says what values a COO file's variables have.
type Vartype string

// The vartypes.
const (
	Spin   Vartype = "SPIN"   // +1 and -1: an Ising model
	Binary Vartype = "BINARY" // 0 and 1: a QUBO
)

// ReadCOO reads a binary quadratic model as D-Wave's dimod writes it: lines `i j bias`, variables counted from 0, i = j being a linear
// bias, and comments that begin with #. The comment `# vartype=SPIN` or `# vartype=BINARY` is needed. The format has no constant: as an
// extension, which dimod takes for a comment, WriteCOO writes and ReadCOO reads `# offset=1.5`. A bias given twice is an error.
func ReadCOO(r io.Reader) (*Model, Vartype, error) {
	var vartype Vartype
	var terms []Coupling
	var offset float64
	offsets, n := 0, 0
	// Here, and not when the program starts: that is done more often.
	vartypeLine := regexp.MustCompile(`^\s*#.*?vartype[:=]\s*([-_.a-zA-Z0-9]+)`)
	offsetLine := regexp.MustCompile(`^\s*#\s*offset=(\S+)\s*$`)
	err := lines(r, func(line string) (err error) {
		w := strings.Fields(line)
		if len(w) == 0 {
			return nil
		}
		if strings.HasPrefix(w[0], "#") {
			if v := vartypeLine.FindStringSubmatch(line); v != nil {
				if vartype != "" {
					return errors.New("a second vartype")
				}
				if vartype = Vartype(v[1]); vartype != Spin && vartype != Binary {
					return fmt.Errorf("vartype %.40q is neither SPIN nor BINARY", v[1])
				}
			} else if v := offsetLine.FindStringSubmatch(line); v != nil {
				if offsets++; offsets > 1 {
					return errors.New("a second offset")
				}
				offset, err = coefficient(v[1])
			}
			return err
		}
		if len(w) != 3 {
			return fmt.Errorf("%.80q: want `i j bias`", line)
		}
		var c Coupling
		if c.I, err = index(w[0], 0, MaxSpins-1); err != nil {
			return fmt.Errorf("variable: %w", err)
		}
		if c.J, err = index(w[1], 0, MaxSpins-1); err != nil {
			return fmt.Errorf("variable: %w", err)
		}
		if c.W, err = coefficient(w[2]); err != nil {
			return fmt.Errorf("bias: %w", err)
		}
		terms = append(terms, Coupling{min(c.I, c.J), max(c.I, c.J), c.W})
		n = max(n, c.I+1, c.J+1)
		return nil
	})
	if err == nil && vartype == "" {
		err = errors.New("no comment `# vartype=SPIN` or `# vartype=BINARY`")
	}
	if err == nil {
		if c, twice := duplicate(terms); twice {
			err = fmt.Errorf("the bias of variables %d and %d is given twice", c.I, c.J)
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("anneal: reading a COO file: %w", err)
	}
	if vartype == Binary {
		m, err := NewQUBO(make([]float64, n), terms, offset)
		return m, vartype, err
	}
	h, pairs := make([]float64, n), terms[:0]
	for _, c := range terms {
		if c.I == c.J {
			h[c.I] = c.W
		} else {
			pairs = append(pairs, c)
		}
	}
	m, err := NewIsing(h, pairs, offset)
	return m, vartype, err
}

// WriteCOO writes a model as ReadCOO and dimod read it. Variables after the last with a bias, which the format cannot hold, get a bias
// of 0.
func WriteCOO(w io.Writer, m *Model, vartype Vartype) error {
	linear, pairs, offset := m.h, m.pairs, m.offset
	switch vartype {
	case Spin:
	case Binary:
		linear, pairs, offset = m.QUBO()
	default:
		return fmt.Errorf("anneal: vartype %q is neither SPIN nor BINARY", vartype)
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# vartype=%s\n", vartype)
	if offset != 0 {
		fmt.Fprintf(b, "# offset=%s\n", decimal(offset))
	}
	for i, q := range linear {
		if q != 0 || i == len(linear)-1 {
			fmt.Fprintln(b, i, i, decimal(q))
		}
	}
	for _, c := range pairs {
		fmt.Fprintln(b, c.I, c.J, decimal(c.W))
	}
	return b.Flush()
}

// duplicate returns a pair that pairs, each with I <= J, has twice.
func duplicate(pairs []Coupling) (Coupling, bool) {
	sorted := slices.Clone(pairs)
	slices.SortFunc(sorted, comparePairs)
	for i := 1; i < len(sorted); i++ {
		if comparePairs(sorted[i-1], sorted[i]) == 0 {
			return sorted[i], true
		}
	}
	return Coupling{}, false
}
