// Command qenex-picture draws: it reads a chart of the scheduler as JSON from standard input and writes a PNG picture to standard output.
// qenex starts it, and package picture says why it is a program of its own. Exit codes: 0, or 1 with the reason on standard error.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/qenex/qenex-kernel/scheduler/picture"
	"github.com/qenex/qenex-kernel/scheduler/picture/draw"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "qenex-picture:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	c, err := picture.Read(in)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	if err := draw.PNG(w, c); err != nil {
		return err
	}
	return w.Flush()
}
