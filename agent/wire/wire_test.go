package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"reflect"
	"strings"
	"testing"
)

// stream reads from one place and writes to another.
type stream struct {
	io.Reader
	io.Writer
}

// samples has one of each message, with values in all fields.
func samples() []Message {
	return []Message{
		&Size{1, 65535},
		&ExecMessage{[]string{"sh", "-c", ""}, []string{"A=b"}, "/tmp", "ann:1", true, true, Size{24, 80}},
		&StartedMessage{1 << 31},
		&CreditMessage{77},
		&SignalMessage{64},
		&ExitMessage{Code: 255},
		&ExitMessage{Signal: 9},
		&CopyMessage{"/a b\x00\xff"},
		&TimeMessage{1<<63 - 1},
		&SeedMessage{Seed: [64]byte{1, 2, 63: 3}},
		&ShutdownMessage{true, 1000},
		&NetworkMessage{"10.0.2.15/24", "10.0.2.2", ""},
		&InfoMessage{1, 1, "6.1", 1 << 60, "fault"},
		&ErrorMessage{Denied, strings.Repeat("x", MaxText)},
	}
}

func fresh(m Message) Message { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message) }

// TestMessages: every message comes back as it was; none is accepted when a byte is missing or too many.
func TestMessages(t *testing.T) {
	for _, m := range samples() {
		b := m.Append([]byte("x"))[1:]
		back := fresh(m)
		if err := back.Parse(b); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%T: %+v came back as %+v, %v", m, m, back, err)
		}
		for n := range b {
			if err := fresh(m).Parse(b[:n]); !errors.Is(err, ErrMessage) {
				t.Errorf("%T: %d of %d bytes: %v", m, n, len(b), err)
			}
		}
		if err := fresh(m).Parse(append(b, 0)); !errors.Is(err, ErrMessage) {
			t.Errorf("%T with a byte too many: %v", m, err)
		}
	}
}

func TestMessagesRefused(t *testing.T) {
	for name, c := range map[string]struct {
		m Message
		b []byte
	}{
		"signal 0":           {&SignalMessage{}, []byte{0}},
		"signal 65":          {&SignalMessage{}, []byte{65}},
		"exit by both":       {&ExitMessage{}, []byte{1, 1}},
		"exit by signal 65":  {&ExitMessage{}, []byte{0, 65}},
		"time beyond int64":  {&TimeMessage{}, []byte{0, 0, 0, 0, 0, 0, 0, 128}},
		"error code 0":       {&ErrorMessage{}, []byte{0, 0, 0, 0, 0}},
		"error code 5":       {&ErrorMessage{}, []byte{5, 0, 0, 0, 0}},
		"long error":         {&ErrorMessage{}, appendString([]byte{1}, strings.Repeat("x", MaxText+1))},
		"bool 2":             {&ShutdownMessage{}, []byte{2, 0, 0, 0, 0}},
		"a list of 2^32-1":   {&ExecMessage{}, append([]byte{255, 255, 255, 255}, make([]byte, 100)...)},
		"a string of 2^32-1": {&CopyMessage{}, []byte{255, 255, 255, 255, 1}},
	} {
		if err := c.m.Parse(c.b); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConn(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	from, to := NewConn(a), NewConn(b)
	big := bytes.Repeat([]byte{7}, MaxPayload)
	go func() {
		from.Send(Done, nil)
		from.Send(Stdout, big)
		from.Request(Exec, &CopyMessage{"x"})
		from.Send(Stdout, append(big, 0)) // refused, so never sent
		a.Close()
	}()
	for _, want := range []struct {
		k Kind
		p []byte
	}{{Done, []byte{}}, {Stdout, big}, {Exec, []byte{Version, 1, 0, 0, 0, 'x'}}} {
		if k, p, err := to.Receive(); err != nil || k != want.k || !bytes.Equal(p, want.p) {
			t.Fatalf("kind %d, %d bytes, %v; want kind %d, %d bytes", k, len(p), err, want.k, len(want.p))
		}
	}
	if _, _, err := to.Receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if err := from.Send(Stdout, append(big, 0)); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame that is too large: %v", err)
	}
}

func TestReceiveRefused(t *testing.T) {
	for name, c := range map[string]struct {
		bytes string
		want  error
	}{
		"nothing":       {"", io.EOF},
		"half a header": {"\x01\x00", io.ErrUnexpectedEOF},
		"half a frame":  {"\x05\x00\x00\x00\x01abc", io.ErrUnexpectedEOF},
		"no payload":    {"\x05\x00\x00\x00\x01", io.ErrUnexpectedEOF},
		"4 GiB":         {"\xff\xff\xff\xff\x01abc", ErrFrame},
		"1 too many":    {"\x01\x00\x04\x00\x01abc", ErrFrame},
	} {
		if _, _, err := NewConn(stream{strings.NewReader(c.bytes), io.Discard}).Receive(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestStream: what goes into Writer comes out of Reader, and only End is its end.
func TestStream(t *testing.T) {
	var b bytes.Buffer
	c := NewConn(stream{&b, &b})
	data := bytes.Repeat([]byte("0123456"), 3*Chunk/7)
	if n, err := c.Writer(Data).Write(data); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	whole := bytes.Clone(b.Bytes())
	for _, tt := range []struct {
		name string
		end  func()
		want error
	}{
		{"End", func() { c.Send(End, nil) }, nil},
		{"nothing", func() {}, io.ErrUnexpectedEOF},
		{"End with a payload", func() { c.Send(End, []byte{1}) }, ErrFrame},
		{"another kind", func() { c.Send(Exit, nil) }, ErrFrame},
		{"an error", func() { c.SendMessage(Error, &ErrorMessage{NotFound, "gone"}) }, fs.ErrNotExist},
		{"a bad error", func() { c.Send(Error, nil) }, ErrMessage},
	} {
		b.Reset()
		b.Write(whole)
		tt.end()
		c = NewConn(stream{&b, &b})
		if got, err := io.ReadAll(c.Reader()); !errors.Is(err, tt.want) || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", tt.name, len(got), err, len(data), tt.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	m := &ErrorMessage{Failed, "a\x1b[2Jb\nc\u009bd\xffé"}
	if got, want := m.Error(), "a?[2Jb?c?d?é"; got != want {
		t.Errorf("shown as %q, want %q", got, want)
	}
	if m := NewError(&fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}); m.Code != NotFound {
		t.Errorf("%+v", m)
	}
	if m := NewError(errors.New(strings.Repeat("x", 2*MaxText))); len(m.Text) != MaxText || m.Code != Failed {
		t.Errorf("a long error: code %d, %d bytes", m.Code, len(m.Text))
	}
}

// FuzzReceive: whatever comes, no panic, no frame beyond the bounds; a message that is accepted is canonical.
func FuzzReceive(f *testing.F) {
	for i, m := range samples() {
		p := m.Append(nil)
		frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), byte(i))
		f.Add(append(frame, p...))
	}
	f.Add([]byte("\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := NewConn(stream{bytes.NewReader(b), io.Discard})
		for {
			k, p, err := c.Receive()
			if err != nil {
				break
			}
			if len(p) > MaxPayload {
				t.Fatalf("a frame of %d bytes", len(p))
			}
			Unexpected(k, p)
			for _, m := range samples() {
				if m := fresh(m); m.Parse(p) == nil && !bytes.Equal(m.Append(nil), p) {
					t.Fatalf("%T: % x is read as %+v and written as % x", m, p, m, m.Append(nil))
				}
			}
		}
		io.Copy(io.Discard, NewConn(stream{bytes.NewReader(b), io.Discard}).Reader())
	})
}
