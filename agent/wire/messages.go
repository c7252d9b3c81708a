package wire

import (
	"encoding/binary"
	"errors"
	"io/fs"
)

// A Message is the payload of a frame.
type Message interface {
	Append(b []byte) []byte // adds the payload to b
	Parse(b []byte) error   // reads a whole payload; an error is an ErrMessage
}

// SendMessage sends a message as a frame of kind k.
func (c *Conn) SendMessage(k Kind, m Message) error { return c.Send(k, m.Append(nil)) }

// Request sends the first frame of a stream: the version and, if there is one, a message.
func (c *Conn) Request(k Kind, m Message) error {
	b := []byte{Version}
	if m != nil {
		b = m.Append(b)
	}
	return c.Send(k, b)
}

// Size of a terminal, in characters.
type Size struct{ Rows, Columns uint16 }

// Append implements Message.
func (m *Size) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, m.Rows), m.Columns)
}

// Parse implements Message.
func (m *Size) Parse(b []byte) error {
	d := decoder{b: b}
	*m = Size{d.uint16(), d.uint16()}
	return d.end("Size")
}

// ExecMessage asks for a process.
type ExecMessage struct {
	Args  []string // the program, found by PATH, and its arguments
	Env   []string // NAME=VALUE, beside the agent's own defaults: PATH, HOME, TERM
	Dir   string   // working directory; "" is the user's home, or / if that is not there
	User  string   // USER[:GROUP], names or numbers; "" is root
	Stdin bool     // Stdin frames follow, and StdinEnd; else it reads /dev/null
	TTY   bool     // standard files are a terminal: no Stderr
	Size  Size     // of the terminal; zero is its default
}

// Append implements Message.
func (m *ExecMessage) Append(b []byte) []byte {
	b = appendList(appendList(b, m.Args), m.Env)
	b = appendString(appendString(b, m.Dir), m.User)
	return m.Size.Append(appendBool(appendBool(b, m.Stdin), m.TTY))
}

// Parse implements Message.
func (m *ExecMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = ExecMessage{d.list(), d.list(), d.string(), d.string(), d.bool(), d.bool(), Size{d.uint16(), d.uint16()}}
	return d.end("Exec")
}

// StartedMessage says that the process runs.
type StartedMessage struct{ PID uint32 }

// Append implements Message.
func (m *StartedMessage) Append(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, m.PID) }

// Parse implements Message.
func (m *StartedMessage) Parse(b []byte) error {
	d := decoder{b: b}
	m.PID = d.uint32()
	return d.end("Started")
}

// CreditMessage says how many bytes of standard input the process has taken.
type CreditMessage struct{ Bytes uint32 }

// Append implements Message.
func (m *CreditMessage) Append(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, m.Bytes) }

// Parse implements Message.
func (m *CreditMessage) Parse(b []byte) error {
	d := decoder{b: b}
	m.Bytes = d.uint32()
	return d.end("Credit")
}

// SignalMessage is a signal for the process and all of its group, by its Linux number.
type SignalMessage struct{ Number uint8 }

// Append implements Message.
func (m *SignalMessage) Append(b []byte) []byte { return append(b, m.Number) }

// Parse implements Message.
func (m *SignalMessage) Parse(b []byte) error {
	d := decoder{b: b}
	m.Number = d.uint8()
	d.bad = d.bad || m.Number == 0 || m.Number > 64
	return d.end("Signal")
}

// ExitMessage says how a process ended: by itself with Code, or, if it is not 0, by Signal.
type ExitMessage struct{ Code, Signal uint8 }

// Append implements Message.
func (m *ExitMessage) Append(b []byte) []byte { return append(b, m.Code, m.Signal) }

// Parse implements Message.
func (m *ExitMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = ExitMessage{d.uint8(), d.uint8()}
	d.bad = d.bad || m.Signal > 64 || m.Signal != 0 && m.Code != 0
	return d.end("Exit")
}

// CopyMessage asks for a copy: into the directory Path, or of the file or directory Path.
type CopyMessage struct{ Path string }

// Append implements Message.
func (m *CopyMessage) Append(b []byte) []byte { return appendString(b, m.Path) }

// Parse implements Message.
func (m *CopyMessage) Parse(b []byte) error {
	d := decoder{b: b}
	m.Path = d.string()
	return d.end("Copy")
}

// TimeMessage is the wall clock's time, in nanoseconds since 1970.
type TimeMessage struct{ Unix uint64 }

// Append implements Message.
func (m *TimeMessage) Append(b []byte) []byte { return binary.LittleEndian.AppendUint64(b, m.Unix) }

// Parse implements Message.
func (m *TimeMessage) Parse(b []byte) error {
	d := decoder{b: b}
	m.Unix = d.uint64()
	d.bad = d.bad || m.Unix > 1<<63-1
	return d.end("SyncTime")
}

// SeedMessage is randomness.
type SeedMessage struct{ Seed [64]byte }

// Append implements Message.
func (m *SeedMessage) Append(b []byte) []byte { return append(b, m.Seed[:]...) }

// Parse implements Message.
func (m *SeedMessage) Parse(b []byte) error {
	d := decoder{b: b}
	copy(m.Seed[:], d.take(uint32(len(m.Seed))))
	return d.end("Reseed")
}

// ShutdownMessage asks for the end of the machine.
type ShutdownMessage struct {
	Reboot bool
	Grace  uint32 // milliseconds that processes have to end by themselves
}

// Append implements Message.
func (m *ShutdownMessage) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(appendBool(b, m.Reboot), m.Grace)
}

// Parse implements Message.
func (m *ShutdownMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = ShutdownMessage{d.bool(), d.uint32()}
	return d.end("Shutdown")
}

// NetworkMessage is a configuration of the guest's first network interface. As a request, an empty Address means: as the
// kernel command line says, else by DHCP; and the answer is what is in force when that is done.
type NetworkMessage struct {
	Address string // 10.0.2.15/24; "" in an answer: there is no interface, or it was told to be left alone
	Gateway string // "" is none
	DNS     string // "" is none
}

// Append implements Message.
func (m *NetworkMessage) Append(b []byte) []byte {
	return appendString(appendString(appendString(b, m.Address), m.Gateway), m.DNS)
}

// Parse implements Message.
func (m *NetworkMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = NetworkMessage{d.string(), d.string(), d.string()}
	return d.end("Network")
}

// InfoMessage says who answers.
type InfoMessage struct {
	Version uint8
	PID     uint32 // 1: the agent is the guest's init
	Kernel  string // release
	Uptime  uint64 // nanoseconds since the guest's kernel started
	Fault   string // what went wrong when the guest's user space was made; "" is nothing
}

// Append implements Message.
func (m *InfoMessage) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, m.Version), m.PID)
	return appendString(binary.LittleEndian.AppendUint64(appendString(b, m.Kernel), m.Uptime), m.Fault)
}

// Parse implements Message.
func (m *InfoMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = InfoMessage{d.uint8(), d.uint32(), d.string(), d.uint64(), d.string()}
	return d.end("Info")
}

// Code says what kind of error an ErrorMessage is.
type Code uint8

// The codes.
const (
	Failed     Code = 1
	NotFound   Code = 2 // errors.Is(err, fs.ErrNotExist)
	Denied     Code = 3 // errors.Is(err, fs.ErrPermission)
	BadRequest Code = 4 // another version, or nonsense
)

// ErrorMessage is an error of the other side. As an error, its text is shown with care: it is the guest's.
type ErrorMessage struct {
	Code Code
	Text string // at most MaxText bytes
}

// NewError makes the message of an error.
func NewError(err error) *ErrorMessage {
	var m *ErrorMessage
	if errors.As(err, &m) {
		return m
	}
	m = &ErrorMessage{Failed, err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		m.Code = NotFound
	case errors.Is(err, fs.ErrPermission):
		m.Code = Denied
	case errors.Is(err, ErrFrame), errors.Is(err, ErrMessage):
		m.Code = BadRequest
	}
	m.Text = m.Text[:min(len(m.Text), MaxText)]
	return m
}

// Append implements Message.
func (m *ErrorMessage) Append(b []byte) []byte { return appendString(append(b, byte(m.Code)), m.Text) }

// Parse implements Message.
func (m *ErrorMessage) Parse(b []byte) error {
	d := decoder{b: b}
	*m = ErrorMessage{Code(d.uint8()), d.string()}
	d.bad = d.bad || m.Code < Failed || m.Code > BadRequest || len(m.Text) > MaxText
	return d.end("Error")
}

// Error implements error. Control characters, which could steer a terminal, and what is not UTF-8 are shown as '?'.
func (m *ErrorMessage) Error() string {
	b := make([]rune, 0, len(m.Text))
	for _, r := range m.Text {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			r = '?'
		}
		b = append(b, r)
	}
	return string(b)
}

// Is makes of the codes the errors of fs.
func (m *ErrorMessage) Is(target error) bool {
	return m.Code == NotFound && target == fs.ErrNotExist || m.Code == Denied && target == fs.ErrPermission
}
