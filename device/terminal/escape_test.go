package terminal_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/qenex/qenex-kernel/device/terminal"
)

func TestEscape(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name, in, out string
		err           error
		helps         int
	}{
		{"plain", "hello\r\x00\xff", "hello\r\x00\xff", nil, 0},
		{"quit", "ab\x01xcd", "ab", terminal.ErrQuit, 0},
		{"quit at once", "\x01x", "", terminal.ErrQuit, 0},
		{"capital X does not quit", "\x01Xa", "a", nil, 0},
		{"literal", "a\x01\x01b", "a\x01b", nil, 0},
		{"two literals, no quit", "\x01\x01\x01\x01x", "\x01\x01x", nil, 0},
		{"help twice", "\x01ha\x01h", "a", nil, 2},
		{"unknown key", "a\x01zb", "ab", nil, 0},
		{"Ctrl-A at the end", "a\x01", "a\x01", nil, 0},
		{"nothing", "", "", nil, 0},
		{"source fails", "ab", "ab", broken, 0},
	} {
		for how, split := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytewise": iotest.OneByteReader, "error with data": iotest.DataErrReader,
		} {
			t.Run(c.name+", "+how, func(t *testing.T) {
				var src io.Reader = strings.NewReader(c.in)
				if c.err == broken {
					src = io.MultiReader(src, iotest.ErrReader(broken))
				}
				var help bytes.Buffer
				e := terminal.NewEscape(split(src), &help)
				out, err := io.ReadAll(e)
				if string(out) != c.out || !errors.Is(err, c.err) {
					t.Errorf("%q gives %q, %v, want %q, %v", c.in, out, err, c.out, c.err)
				}
				if help.String() != strings.Repeat(terminal.Help, c.helps) {
					t.Errorf("help printed: %q", help.String())
				}
				want := c.err
				if want == nil {
					want = io.EOF
				}
				if n, err := e.Read(make([]byte, 4)); n != 0 || !errors.Is(err, want) {
					t.Errorf("reading on: %d, %v, want 0, %v", n, err, want)
				}
			})
		}
	}
}

// FuzzEscape checks that how the input is cut into reads makes no difference, and that
// nothing is added to it.
func FuzzEscape(f *testing.F) {
	f.Add([]byte("ls\r\x01\x01\x01h\x01"), byte(3))
	f.Add([]byte("\x01\x01\x01x"), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, size byte) {
		whole, err := io.ReadAll(terminal.NewEscape(bytes.NewReader(in), nil))
		e := terminal.NewEscape(bytes.NewReader(in), io.Discard)
		var cut []byte
		var cutErr error
		for p := make([]byte, int(size)+1); cutErr == nil; {
			var n int
			n, cutErr = e.Read(p)
			cut = append(cut, p[:n]...)
		}
		if cutErr == io.EOF {
			cutErr = nil
		}
		if !bytes.Equal(whole, cut) || err != cutErr {
			t.Errorf("%q gives %q, %v in large reads, %q, %v in reads of %d", in, whole, err, cut, cutErr, int(size)+1)
		}
		if len(whole) > len(in) {
			t.Errorf("%q grows to %q", in, whole)
		}
		if bytes.IndexByte(in, 0x01) < 0 && !bytes.Equal(whole, in) {
			t.Errorf("%q without Ctrl-A becomes %q", in, whole)
		}
	})
}
