package anneal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// maxLine is how long a line of a file may be, in bytes.
const maxLine = 4096

// lines calls f with the words of every line.
func lines(r io.Reader, f func(line string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, maxLine), maxLine)
	n := 0
	for s.Scan() {
		n++
		if err := f(s.Text()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d bytes", n+1, maxLine)
	} else if err != nil {
		return fmt.Errorf("after line %d: %w", n, err)
	}
	return nil
}

// index reads a vertex or a count: decimal digits only, from least to most.
func index(word string, least, most int) (int, error) {
	n, err := strconv.ParseUint(word, 10, 31)
	if err != nil || int(n) < least || int(n) > most {
		return 0, fmt.Errorf("%.40q is not a number from %d to %d", word, least, most)
	}
	return int(n), nil
}

// coefficient reads a finite decimal number, without an exponent of two or words like Inf.
func coefficient(word string) (float64, error) {
	x, err := strconv.ParseFloat(word, 64)
	if err != nil || math.IsInf(x, 0) || strings.Trim(word, "+-.0123456789eE") != "" {
		return 0, fmt.Errorf("%.40q is not a finite decimal number", word)
	}
	return x, nil
}

// ReadRudy reads a max-cut problem as the program rudy writes it, and as the G-set has it: a line `vertices edges`, then for every edge a
// line `i j weight`, vertices counted from 1. The weights become the couplings, so that the lowest energy is the largest cut. Loops, an
// edge given twice, other counts than the first line's and anything else on a line are errors.
func ReadRudy(r io.Reader) (*Model, error) {
	vertices, edges := -1, 0
	var pairs []Coupling
	err := lines(r, func(line string) (err error) {
		w := strings.Fields(line)
		switch {
		case len(w) == 0:
		case vertices < 0:
			if len(w) != 2 {
				return fmt.Errorf("%.80q: want `vertices edges`", line)
			}
			if vertices, err = index(w[0], 0, MaxSpins); err != nil {
				return fmt.Errorf("vertices: %w", err)
			}
			if edges, err = index(w[1], 0, math.MaxInt32); err != nil {
				return fmt.Errorf("edges: %w", err)
			}
		default:
			if len(w) != 3 {
				return fmt.Errorf("%.80q: want `i j weight`", line)
			}
			if len(pairs) == edges {
				return fmt.Errorf("one edge more than the %d that the first line announces", edges)
			}
			var c Coupling
			if c.I, err = index(w[0], 1, vertices); err != nil {
				return fmt.Errorf("vertex: %w", err)
			}
			if c.J, err = index(w[1], 1, vertices); err != nil {
				return fmt.Errorf("vertex: %w", err)
			}
			if c.I == c.J {
				return fmt.Errorf("vertex %d has an edge to itself", c.I)
			}
			if c.W, err = coefficient(w[2]); err != nil {
				return fmt.Errorf("weight: %w", err)
			}
			pairs = append(pairs, Coupling{min(c.I, c.J) - 1, max(c.I, c.J) - 1, c.W})
		}
		return nil
	})
	if err == nil && vertices < 0 {
		err = errors.New("no line `vertices edges`")
	}
	if err == nil && len(pairs) < edges {
		err = fmt.Errorf("%d edges, where the first line announces %d", len(pairs), edges)
	}
	if err == nil {
		if c, twice := duplicate(pairs); twice {
			err = fmt.Errorf("the edge of vertices %d and %d is given twice", c.I+1, c.J+1)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("anneal: reading a rudy file: %w", err)
	}
	return NewIsing(make([]float64, vertices), pairs, 0)
}

// WriteRudy writes a model without fields as ReadRudy reads it. The offset is not written: it is no part of a cut.
func WriteRudy(w io.Writer, m *Model) error {
	for i, h := range m.h {
		if h != 0 {
			return fmt.Errorf("anneal: spin %d has a field: a rudy file holds couplings only", i)
		}
	}
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, len(m.h), len(m.pairs))
	for _, c := range m.pairs {
		fmt.Fprintln(b, c.I+1, c.J+1, decimal(c.W))
	}
	return b.Flush()
}

// decimal writes x in full, without an exponent.
func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
