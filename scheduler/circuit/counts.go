package circuit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Counts says how often every string of bits was measured, the highest qubit first, as Qiskit and others give it.
type Counts map[string]int

// maxCounts is the size of the largest file of counts, in bytes: every state of MaxQubits once.
const maxCounts = 64 << 20

// ReadCounts reads a JSON object such as {"0101": 512, "1010": 488}. What does not fit the circuit, and a key given twice, is an error.
func (c *Circuit) ReadCounts(r io.Reader) (Counts, error) {
	counts, err := readCounts(r)
	if err == nil {
		err = counts.check(c.Qubits())
	}
	if err != nil {
		return nil, fmt.Errorf("circuit: reading measurements: %w", err)
	}
	return counts, nil
}

func readCounts(r io.Reader) (Counts, error) {
	limited := &io.LimitedReader{R: r, N: maxCounts + 1}
	d := json.NewDecoder(limited)
	token := func() (json.Token, error) {
		t, err := d.Token()
		if limited.N == 0 {
			return nil, fmt.Errorf("more than %d bytes", maxCounts)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return t, err
	}
	t, err := token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, errors.New("want a JSON object from strings of bits to numbers")
	}
	counts := Counts{}
	for d.More() {
		key, err := token()
		if err != nil {
			return nil, err
		}
		bits := key.(string) // JSON's grammar
		if _, twice := counts[bits]; twice {
			return nil, fmt.Errorf("%.40q is given twice", bits)
		}
		value, err := token()
		if err != nil {
			return nil, err
		}
		n, ok := value.(float64)
		if !ok || n < 0 || n > MaxShots || n != float64(int(n)) {
			return nil, fmt.Errorf("%.40q was measured %v times: want a whole number from 0 to %d", bits, value, MaxShots)
		}
		counts[bits] = int(n)
	}
	if _, err := token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the object")
	}
	return counts, nil
}

func (c Counts) check(qubits int) error {
	shots := 0
	for bits, n := range c {
		if len(bits) != qubits || strings.Trim(bits, "01") != "" {
			return fmt.Errorf("%.40q is not a string of %d bits", bits, qubits)
		}
		if n < 0 || n > MaxShots {
			return fmt.Errorf("%q was measured %d times", bits, n)
		}
		shots += n
	}
	if shots == 0 || shots > MaxShots {
		return fmt.Errorf("%d measurements in all: 1 to %d are possible: %w", shots, MaxShots, ErrShots)
	}
	return nil
}

func (c Counts) keys() []string { return slices.Sorted(maps.Keys(c)) }

func bitString(state uint, qubits int) string { return fmt.Sprintf("%0*b", qubits, state) }

// stateOf returns the number of the basis state of a checked string of bits.
func stateOf(bits string) (state uint) {
	for _, b := range bits {
		state = state<<1 | uint(b-'0')
	}
	return state
}
