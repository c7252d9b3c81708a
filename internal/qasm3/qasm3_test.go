package qasm3

import (
	"math"
	"testing"
)

// TestGrammarCheck: the check refuses what is not OpenQASM 3, or not of the kind written here.
func TestGrammarCheck(t *testing.T) {
	head := "OPENQASM 3.0;\ninclude \"stdgates.inc\";\nqubit[2] q;\nbit[2] c;\n"
	p, err := Parse(head + "/* all of it */ rx(-pi/2 + 2*(1e-3)) q[0]; cx q[0], q[1]; rz(.5) q[1];\nc = measure q;")
	if err != nil || len(p.gates) != 3 || p.gates[0].angles[0] != -math.Pi/2+2e-3 {
		t.Errorf("%v, error %v", p, err)
	}
	for _, text := range []string{
		"", "OPENQASM 2.0;", "qubit[2] q;", head + "h q[2];", head + "h q[0]", head + "h r[0];", head + "u q[0];", head + "h() q[0];", head + "rx q[0];",
		head + "rx(1,2) q[0];", head + "cx q[0];", head + "cx q[0], q[0];", head + "rx(1e) q[0];", head + "rx(NaN) q[0];", head + "qubit[1] q;",
		head + "bit[3] d; d = measure q;", head + "c = q;", head + "h q[0]; $", "OPENQASM 3.0; qubit[1] q; h q[0];", head + "rx((1) q[0];",
	} {
		if p, err := Parse(text); err == nil {
			t.Errorf("%q is taken: %v", text, p)
		}
	}
}
