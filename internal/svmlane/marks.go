package svmlane

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
)

// marks are the lines by which the outer machine frames the output of its programs: a word that no program can know,
// then what is marked.
type marks struct{ word string }

func newMarks() marks { return marks{"svmlane-" + rand.Text() + " "} }

func (m marks) begin(i int) string { return fmt.Sprintf("%sbegin %d", m.word, i) }
func (m marks) end(i int) string   { return fmt.Sprintf("%send %d ", m.word, i) } // an exit code follows
func (m marks) done() string       { return m.word + "done" }

// kind tells the three marks and a line of output apart.
type kind int

const (
	output kind = iota
	begin
	end
	done
)

// frame is what one line from the outer machine says.
type frame struct {
	kind
	index int    // of the binary, for begin and end
	code  int    // exit code, for end
	text  string // for output, and what stood before a mark on its line
}

// parse takes apart one line without its line end. A program may leave its last line open, so that a mark stands behind
// some output. Anything that is no whole mark is output.
func (m marks) parse(line string) frame {
	text, mark, found := strings.Cut(line, m.word)
	if !found {
		return frame{kind: output, text: line}
	}
	fields := strings.Fields(mark)
	var n [2]int
	for i := range n {
		if i+1 < len(fields) {
			v, err := strconv.ParseUint(fields[i+1], 10, 16)
			if err != nil {
				return frame{kind: output, text: line}
			}
			n[i] = int(v)
		}
	}
	switch {
	case len(fields) == 1 && fields[0] == "done":
		return frame{kind: done, text: text}
	case len(fields) == 2 && fields[0] == "begin":
		return frame{kind: begin, index: n[0], text: text}
	case len(fields) == 3 && fields[0] == "end":
		return frame{kind: end, index: n[0], code: n[1], text: text}
	}
	return frame{kind: output, text: line}
}
