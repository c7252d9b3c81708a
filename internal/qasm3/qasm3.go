// Package qasm3 checks, for tests, that a text is OpenQASM 3 of the kind that circuits are written as here, and computes what it does: gate
// calls of stdgates.inc and a measurement. It knows nothing of what wrote the text. No program imports it.
package qasm3

import (
	"fmt"
	"math"
	"math/cmplx"
	"regexp"
	"strconv"
	"strings"
)

// Program is a parsed OpenQASM 3 program of the kind that circuits are written as.
type Program struct {
	Qubits map[string]int // registers and their sizes
	bits   map[string]int
	gates  []gateCall
	Result map[string]string // bit register: the qubit register it is the measurement of
}

type gateCall struct {
	name   string
	angles []float64
	qubits []string // register[index]
}

// stdgates are the gates of stdgates.inc that programs here may call: numbers of angles and of qubits.
var stdgates = map[string][2]int{"h": {0, 1}, "x": {0, 1}, "rx": {1, 1}, "rz": {1, 1}, "cx": {0, 2}}

// The tokens of OpenQASM 3's lexer that occur here: version, string, identifier, float, decimal integer, arrow and operators.
var tokens = regexp.MustCompile(`^(?:\s+|//[^\n]*|/\*(?s:.*?)\*/|` +
	`("[^"\r\t\n]*")|([A-Za-z_][A-Za-z0-9_]*)|` +
	`((?:[0-9](?:_?[0-9])*)[eE][+-]?[0-9]+|(?:[0-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*(?:[eE][+-]?[0-9]+)?|(?:[0-9](?:_?[0-9])*)\.(?:[eE][+-]?[0-9]+)?)|` +
	`([0-9](?:_?[0-9])*)|([][(){};,=+*/-]))`)

type parser struct {
	words []string
	p     *Program
}

// Parse checks a program against the grammar: version, include, declarations, gate calls, measurement assignments.
func Parse(text string) (p *Program, err error) {
	defer func() {
		if e := recover(); e != nil {
			s, ok := e.(syntaxError)
			if !ok {
				panic(e)
			}
			p, err = nil, s
		}
	}()
	ps := &parser{p: &Program{Qubits: map[string]int{}, bits: map[string]int{}, Result: map[string]string{}}}
	for text != "" {
		m := tokens.FindStringSubmatch(text)
		if m == nil {
			fail("no token: %.20q", text)
		}
		text = text[len(m[0]):]
		if word := m[1] + m[2] + m[3] + m[4] + m[5]; word != "" {
			ps.words = append(ps.words, word)
		}
	}
	ps.want("OPENQASM")
	if v := ps.next(); v != "3.0" && v != "3" {
		fail("version %q", v)
	}
	ps.want(";")
	included := false
	for len(ps.words) > 0 {
		switch w := ps.next(); w {
		case "include":
			if ps.next() != `"stdgates.inc"` {
				fail("an unknown file is included")
			}
			ps.want(";")
			included = true
		case "qubit", "bit":
			ps.want("[")
			n := ps.integer()
			ps.want("]")
			name := ps.name()
			ps.want(";")
			if ps.p.Qubits[name]+ps.p.bits[name] > 0 || n < 1 {
				fail("register %q of %d declared", name, n)
			}
			if w == "qubit" {
				ps.p.Qubits[name] = n
			} else {
				ps.p.bits[name] = n
			}
		default:
			if _, ok := ps.p.bits[w]; ok {
				ps.want("=")
				ps.want("measure")
				q := ps.name()
				ps.want(";")
				if ps.p.Qubits[q] != ps.p.bits[w] {
					fail("%q, of %d bits, is to hold the measurement of %d qubits", w, ps.p.bits[w], ps.p.Qubits[q])
				}
				ps.p.Result[w] = q
				continue
			}
			if _, known := stdgates[w]; !known || !included {
				fail("gate %q is not known", w)
			}
			ps.call(w)
		}
	}
	return ps.p, nil
}

func (ps *parser) call(name string) {
	g := gateCall{name: name}
	if ps.peek() == "(" {
		ps.next()
		for {
			g.angles = append(g.angles, ps.sum())
			if w := ps.next(); w == ")" {
				break
			} else if w != "," {
				fail("%q within a list of angles", w)
			}
		}
	}
	for {
		q := ps.name()
		ps.want("[")
		i := ps.integer()
		ps.want("]")
		if i >= ps.p.Qubits[q] {
			fail("%s[%d] is not declared", q, i)
		}
		g.qubits = append(g.qubits, fmt.Sprintf("%s[%d]", q, i))
		if w := ps.next(); w == ";" {
			break
		} else if w != "," {
			fail("%q within a list of qubits", w)
		}
	}
	if n := stdgates[name]; len(g.angles) != n[0] || len(g.qubits) != n[1] || n[1] == 2 && g.qubits[0] == g.qubits[1] {
		fail("%s has %d angles and qubits %v", name, len(g.angles), g.qubits)
	}
	ps.p.gates = append(ps.p.gates, g)
}

// Expressions: sums, products, signs, parentheses, numbers and pi.
func (ps *parser) sum() float64 {
	x := ps.product()
	for ps.peek() == "+" || ps.peek() == "-" {
		if ps.next() == "+" {
			x += ps.product()
		} else {
			x -= ps.product()
		}
	}
	return x
}

func (ps *parser) product() float64 {
	x := ps.factor()
	for ps.peek() == "*" || ps.peek() == "/" {
		if ps.next() == "*" {
			x *= ps.factor()
		} else {
			x /= ps.factor()
		}
	}
	return x
}

func (ps *parser) factor() float64 {
	switch w := ps.next(); w {
	case "-":
		return -ps.factor()
	case "pi":
		return math.Pi
	case "(":
		x := ps.sum()
		ps.want(")")
		return x
	default:
		x, err := strconv.ParseFloat(strings.ReplaceAll(w, "_", ""), 64)
		if err != nil || !strings.ContainsAny(w[:1], ".0123456789") {
			fail("%q is not a number", w)
		}
		return x
	}
}

type syntaxError string

func (e syntaxError) Error() string { return string(e) }

func fail(format string, args ...any) { panic(syntaxError(fmt.Sprintf(format, args...))) }

func (ps *parser) peek() string {
	if len(ps.words) == 0 {
		fail("the program ends too early")
	}
	return ps.words[0]
}

func (ps *parser) next() string {
	w := ps.peek()
	ps.words = ps.words[1:]
	return w
}

func (ps *parser) want(w string) {
	if got := ps.next(); got != w {
		fail("%q where %q is wanted", got, w)
	}
}

func (ps *parser) name() string {
	w := ps.next()
	if !strings.ContainsAny(strings.ToLower(w[:1]), "abcdefghijklmnopqrstuvwxyz_") {
		fail("%q is not a name", w)
	}
	return w
}

func (ps *parser) integer() int {
	n, err := strconv.Atoi(ps.next())
	if err != nil {
		fail("%v", err)
	}
	return n
}

// Run computes a parsed program's state vector gate by gate, from the gates' matrices: qubit i is bit i of a basis state's number.
func (p *Program) Run(register string) []complex128 {
	amp := make([]complex128, 1<<p.Qubits[register])
	amp[0] = 1
	bit := func(name string) int {
		i, _ := strconv.Atoi(name[len(register)+1 : len(name)-1])
		return 1 << i
	}
	for _, g := range p.gates {
		target := bit(g.qubits[len(g.qubits)-1])
		half := complex(0, 0)
		if len(g.angles) > 0 {
			half = complex(g.angles[0]/2, 0)
		}
		var m [2][2]complex128
		switch g.name {
		case "h":
			m = [2][2]complex128{{math.Sqrt2 / 2, math.Sqrt2 / 2}, {math.Sqrt2 / 2, -math.Sqrt2 / 2}}
		case "x", "cx":
			m = [2][2]complex128{{0, 1}, {1, 0}}
		case "rx":
			m = [2][2]complex128{{cmplx.Cos(half), -1i * cmplx.Sin(half)}, {-1i * cmplx.Sin(half), cmplx.Cos(half)}}
		case "rz":
			m = [2][2]complex128{{cmplx.Exp(-1i * half), 0}, {0, cmplx.Exp(1i * half)}}
		}
		for k := range amp {
			if k&target != 0 || len(g.qubits) == 2 && k&bit(g.qubits[0]) == 0 {
				continue
			}
			a, b := amp[k], amp[k|target]
			amp[k], amp[k|target] = m[0][0]*a+m[0][1]*b, m[1][0]*a+m[1][1]*b
		}
	}
	return amp
}
