package circuit

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// WriteQASM writes the circuit as an OpenQASM 3 program with gates of stdgates.inc only. Its result is the register c, c[i] being qubit i.
func (c *Circuit) WriteQASM(w io.Writer) error {
	b := bufio.NewWriter(w)
	n := c.Qubits()
	fmt.Fprintf(b, "OPENQASM 3.0;\ninclude \"stdgates.inc\";\n// QAOA, %d layers: qubit i is spin i of the model, 0 is +1 and 1 is -1.\n", len(c.gamma))
	fmt.Fprintf(b, "qubit[%d] q;\nbit[%d] c;\n", n, n)
	for i := range n {
		fmt.Fprintf(b, "h q[%d];\n", i)
	}
	h, couplings := c.model.Fields(), c.model.Couplings()
	for layer, gamma := range c.gamma {
		fmt.Fprintf(b, "// layer %d\n", layer+1)
		for i, h := range h {
			if h != 0 {
				fmt.Fprintf(b, "rz(%s) q[%d];\n", angle(2*gamma*h), i)
			}
		}
		for _, j := range couplings {
			fmt.Fprintf(b, "cx q[%d], q[%d];\nrz(%s) q[%d];\ncx q[%d], q[%d];\n", j.I, j.J, angle(2*gamma*j.W), j.J, j.I, j.J)
		}
		for i := range n {
			fmt.Fprintf(b, "rx(%s) q[%d];\n", angle(2*c.beta[layer]), i)
		}
	}
	fmt.Fprintln(b, "c = measure q;")
	return b.Flush()
}

func angle(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }
