package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// The messages and options of DHCP (RFC 2131, RFC 2132) that a client needs to get an address.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpACK      = 5
	dhcpNAK      = 6

	optionPad       = 0
	optionMask      = 1
	optionRouter    = 3
	optionDNS       = 6
	optionRequested = 50
	optionType      = 53
	optionServer    = 54
	optionWanted    = 55
	optionEnd       = 255

	dhcpFixed = 236        // bytes before the cookie
	cookie    = 0x63825363 // before the options
)

// A datagram in a packet socket begins with its IPv4 header; ours has no options.
const (
	ipHeader  = 20
	udpHeader = 8
)

// errNAK is a server that takes its offer back.
var errNAK = errors.New("the server refused the address that it had offered")

// lease is what a server offers.
type lease struct {
	kind    byte
	id      uint32
	address [4]byte
	mask    [4]byte
	server  []byte
	router  []byte
	dns     []byte
}

// tries are how long an answer is waited for before the question is asked again.
var tries = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// askDHCP gets a configuration for an interface. It is not renewed: machines of QENEX have theirs for as long as they live.
func askDHCP(name string, index int) (wire.NetworkMessage, error) {
	var none wire.NetworkMessage
	hardware, err := hardwareAddress(name)
	if err != nil {
		return none, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return none, os.NewSyscallError("socket", err)
	}
	d := &dhcp{f: os.NewFile(uintptr(fd), "packet"), hardware: hardware, to: unix.SockaddrLinklayer{
		Protocol: bits.ReverseBytes16(unix.ETH_P_IP), Ifindex: index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}}
	defer d.f.Close()
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: d.to.Protocol, Ifindex: index}); err != nil {
		return none, os.NewSyscallError("bind", err)
	}
	d.id = uint32(time.Now().UnixNano()) ^ binary.LittleEndian.Uint32(hardware[2:])
	for _, limit := range tries {
		l, err := d.exchange(limit)
		if err == nil {
			return l.message(), nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errNAK) {
			return none, err
		}
	}
	return none, errors.New("no server has answered")
}

// dhcp is a client on one interface.
type dhcp struct {
	f        *os.File // packet socket
	to       unix.SockaddrLinklayer
	hardware []byte
	id       uint32
}

// exchange asks for an offer, takes it, and gets it confirmed.
func (d *dhcp) exchange(limit time.Duration) (lease, error) {
	if err := d.f.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return lease{}, err
	}
	if err := d.send(dhcpDiscover, nil); err != nil {
		return lease{}, err
	}
	offer, err := d.receive(dhcpOffer)
	if err != nil {
		return lease{}, err
	}
	if err := d.send(dhcpRequest, &offer); err != nil {
		return lease{}, err
	}
	return d.receive(dhcpACK)
}

// send broadcasts a question.
func (d *dhcp) send(kind byte, offer *lease) error {
	raw, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	packet := question(d.id, d.hardware, kind, offer)
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), packet, 0, &d.to)
		return failed != unix.EAGAIN
	})
	return errors.Join(err, os.NewSyscallError("sendto", failed))
}

// receive waits for an answer of a kind.
func (d *dhcp) receive(kind byte) (lease, error) {
	b := make([]byte, 2048)
	for {
		n, err := d.f.Read(b)
		if err != nil {
			return lease{}, err
		}
		l, ok := parseAnswer(b[:n])
		switch {
		case !ok || l.id != d.id:
		case l.kind == dhcpNAK:
			return l, errNAK
		case l.kind == kind:
			return l, nil
		}
	}
}

// question is the IPv4 packet of a client's message.
func question(id uint32, hardware []byte, kind byte, offer *lease) []byte {
	m := make([]byte, dhcpFixed, 300)
	m[0], m[1], m[2] = 1, 1, 6 // a request, from Ethernet, whose addresses have 6 bytes
	binary.BigEndian.PutUint32(m[4:], id)
	binary.BigEndian.PutUint16(m[10:], 0x8000) // broadcast the answer: there is no address yet
	copy(m[28:44], hardware)
	m = binary.BigEndian.AppendUint32(m, cookie)
	m = append(m, optionType, 1, kind, optionWanted, 3, optionMask, optionRouter, optionDNS)
	if offer != nil {
		m = append(append(m, optionRequested, 4), offer.address[:]...)
		m = append(append(m, optionServer, byte(len(offer.server))), offer.server...)
	}
	m = append(m, optionEnd)
	m = append(m, make([]byte, 300-len(m))...) // the least that some servers take (RFC 1542, 2.1)

	p := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(m))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(cap(p)))
	copy(p[16:20], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipHeader]))
	udp := p[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], 68)
	binary.BigEndian.PutUint16(udp[2:], 67)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(m))) // the checksum 0 is none
	return append(p, m...)
}

// checksum is that of the Internet (RFC 1071), of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// parseAnswer reads a server's message from an IPv4 packet, if it is one.
func parseAnswer(p []byte) (l lease, ok bool) {
	if len(p) < ipHeader || p[0]>>4 != 4 || p[9] != unix.IPPROTO_UDP {
		return l, false
	}
	header := int(p[0]&15) * 4
	if header < ipHeader || len(p) < header+udpHeader || binary.BigEndian.Uint16(p[header+2:]) != 68 {
		return l, false
	}
	m := p[header+udpHeader:]
	if len(m) < dhcpFixed+4 || m[0] != 2 || binary.BigEndian.Uint32(m[dhcpFixed:]) != cookie {
		return l, false
	}
	l.id = binary.BigEndian.Uint32(m[4:])
	copy(l.address[:], m[16:20])
	l.mask = [4]byte{255, 255, 255, 0}
	return l, l.options(m[dhcpFixed+4:])
}

// options reads the options of a message.
func (l *lease) options(b []byte) bool {
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return false
		}
		kind, value := b[0], b[2:2+b[1]]
		b = b[2+int(b[1]):]
		switch {
		case kind == optionType && len(value) == 1:
			l.kind = value[0]
		case kind == optionMask && len(value) == 4:
			copy(l.mask[:], value)
		case kind == optionServer && len(value) == 4:
			l.server = bytes.Clone(value)
		case kind == optionRouter && len(value) >= 4:
			l.router = bytes.Clone(value[:4])
		case kind == optionDNS && len(value) >= 4:
			l.dns = bytes.Clone(value[:4])
		}
	}
	return true
}

// message is a lease as a configuration.
func (l *lease) message() wire.NetworkMessage {
	ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(l.mask[:]))
	return wire.NetworkMessage{
		Address: netip.PrefixFrom(netip.AddrFrom4(l.address), ones).String(),
		Gateway: addressText(l.router),
		DNS:     addressText(l.dns),
	}
}

func addressText(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return ""
}

// hardwareAddress is the Ethernet address of an interface.
func hardwareAddress(name string) ([]byte, error) {
	text, err := os.ReadFile("/sys/class/net/" + name + "/address")
	if err != nil {
		return nil, err
	}
	var b []byte
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ":") {
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			return nil, fmt.Errorf("hardware address of %s: %w", name, err)
		}
		b = append(b, byte(n))
	}
	if len(b) != 6 {
		return nil, fmt.Errorf("hardware address of %s has %d bytes", name, len(b))
	}
	return b, nil
}
