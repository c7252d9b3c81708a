package gdbstub

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// maxPacket is how many bytes a packet may have between $ and #, both ways.
const maxPacket = 16 << 10

// interrupt is what gdb sends, outside of packets, for Ctrl-C.
const interrupt = 0x03

var errPacket = errors.New("what came is not gdb's remote protocol")

// link is a connection to gdb: packets with checksums and acknowledgements (GDB manual, E.1).
type link struct {
	mu    sync.Mutex
	w     io.Writer
	noAck bool   // protected by mu
	last  []byte // the last packet sent, for gdb to ask for it again; protected by mu
}

// message is what gdb sent: a packet, or Ctrl-C.
type message struct {
	packet    []byte
	interrupt bool
}

// read returns gdb's next message. It answers acknowledgements and damaged packets itself.
func (l *link) read(r *bufio.Reader) (message, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return message{}, err
		}
		switch b {
		case '+':
		case '-':
			if err := l.again(); err != nil {
				return message{}, err
			}
		case interrupt:
			return message{interrupt: true}, nil
		case '$':
			p, good, err := readPacket(r)
			if err != nil {
				return message{}, err
			}
			if err := l.acknowledge(good); err != nil {
				return message{}, err
			}
			if good {
				return message{packet: p}, nil
			}
		default:
			return message{}, fmt.Errorf("%w: byte %#x outside of a packet", errPacket, b)
		}
	}
}

// readPacket reads a packet behind its $, and says whether its checksum is right.
func readPacket(r *bufio.Reader) (p []byte, good bool, err error) {
	sum := byte(0)
	for {
		b, err := r.ReadByte()
		if err != nil {
			return nil, false, err
		}
		if b == '#' {
			break
		}
		if len(p) == maxPacket {
			return nil, false, fmt.Errorf("%w: a packet of more than %d bytes", errPacket, maxPacket)
		}
		sum += b
		p = append(p, b)
	}
	var digits [2]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return nil, false, err
	}
	want, err := strconv.ParseUint(string(digits[:]), 16, 8)
	return p, err == nil && byte(want) == sum, nil
}

func (l *link) acknowledge(good bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.noAck {
		if !good {
			return fmt.Errorf("%w: a wrong checksum on a connection without acknowledgements", errPacket)
		}
		return nil
	}
	ack := "-"
	if good {
		ack = "+"
	}
	_, err := io.WriteString(l.w, ack)
	return err
}

// again sends the last packet once more.
func (l *link) again() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(l.last)
	return err
}

// send sends a packet, with what must not be in one escaped.
func (l *link) send(p string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []byte{'$'}
	sum := byte(0)
	add := func(b byte) { out, sum = append(out, b), sum+b }
	for i := range len(p) {
		switch p[i] {
		case '$', '#', '}', '*':
			add('}')
			add(p[i] ^ 0x20)
		default:
			add(p[i])
		}
	}
	l.last = fmt.Appendf(out, "#%02x", sum)
	_, err := l.w.Write(l.last)
	return err
}

// withoutAcks ends acknowledgements, behind the one of the packet that asked for it.
func (l *link) withoutAcks() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noAck = true
}

// unescape undoes what gdb does to binary data.
func unescape(p []byte) ([]byte, error) {
	var out []byte
	for i := 0; i < len(p); i++ {
		if p[i] != '}' {
			out = append(out, p[i])
			continue
		}
		if i++; i == len(p) {
			return nil, errors.New("data that ends within an escape")
		}
		out = append(out, p[i]^0x20)
	}
	return out, nil
}
