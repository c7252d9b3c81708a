package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// netlink asks the kernel's routing sockets; messages are those of rtnetlink(7).
type netlink struct{ fd int }

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &netlink{fd}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// create has a message replace what is there, or add to it.
const create = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

// ask sends a message and waits for the kernel's acknowledgement.
func (n *netlink) ask(kind, flags uint16, body []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = binary.LittleEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	b = append(b, make([]byte, 8)...) // sequence number and port: one question at a time
	if err := unix.Sendto(n.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink", err)
	}
	answer := make([]byte, 4096)
	size, _, err := unix.Recvfrom(n.fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	if size < unix.NLMSG_HDRLEN+4 || binary.LittleEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: an answer of %d bytes that is no acknowledgement", size)
	}
	if e := int32(binary.LittleEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); e != 0 {
		return syscall.Errno(-e)
	}
	return nil
}

// attribute adds an attribute, which begins at a multiple of 4.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// up switches an interface on.
func (n *netlink) up(index int) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.LittleEndian.PutUint32(b[4:], uint32(index))
	binary.LittleEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.LittleEndian.PutUint32(b[12:], unix.IFF_UP) // the flags that change
	return n.ask(unix.RTM_NEWLINK, 0, b)
}

// address gives an interface an IPv4 address.
func (n *netlink) address(index int, p netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = unix.AF_INET, byte(p.Bits())
	binary.LittleEndian.PutUint32(b[4:], uint32(index))
	a := p.Addr().AsSlice()
	b = attribute(attribute(b, unix.IFA_LOCAL, a), unix.IFA_ADDRESS, a)
	broadcast := binary.BigEndian.Uint32(a) | uint32(1<<(32-p.Bits())-1)
	return n.ask(unix.RTM_NEWADDR, create, attribute(b, unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, broadcast)))
}

// gateway makes a router the way to everywhere.
func (n *netlink) gateway(index int, a netip.Addr) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[4], b[5], b[6], b[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attribute(b, unix.RTA_GATEWAY, a.AsSlice())
	return n.ask(unix.RTM_NEWROUTE, create, attribute(b, unix.RTA_OIF, binary.LittleEndian.AppendUint32(nil, uint32(index))))
}
