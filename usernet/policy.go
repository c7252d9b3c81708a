package usernet

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"strings"
)

// loopback is where Router leads with Config.Loopback.
var loopback = netip.MustParseAddr("127.0.0.1")

// target says where on the host's network a flow to addr goes; ok is false if the guest may not go there.
//
// Refused are the host's loopback (but for Router, if Loopback is set), addresses that are no single host's, and link-local ones: the
// services that clouds offer there hand out the host's credentials.
func (c *Config) target(addr netip.AddrPort) (netip.AddrPort, bool) {
	ip := addr.Addr()
	switch {
	case addr.Port() == 0:
		return netip.AddrPort{}, false
	case ip == DNS:
		if addr.Port() == 53 && len(c.Resolver) > 0 {
			return c.Resolver[0], true
		}
		return netip.AddrPort{}, false
	case ip == Router:
		return netip.AddrPortFrom(loopback, addr.Port()), c.Loopback
	case Subnet.Contains(ip):
		return netip.AddrPort{}, false
	case !ip.Is4(), ip.IsLoopback(), ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return netip.AddrPort{}, false
	}
	if b := ip.As4(); b[0] == 0 || b[0] >= 240 {
		return netip.AddrPort{}, false // this network; reserved and broadcast
	}
	return addr, true
}

// hostResolvers are the name servers of the host.
func hostResolvers() []netip.AddrPort {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseResolvConf(f)
}

// maxResolvers is how many name servers resolv.conf can have (MAXNS).
const maxResolvers = 3

// parseResolvConf finds the name servers in a resolv.conf (see resolv.conf(5)).
func parseResolvConf(r io.Reader) []netip.AddrPort {
	var found []netip.AddrPort
	sc := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for sc.Scan() && len(found) < maxResolvers {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil {
			found = append(found, netip.AddrPortFrom(ip.Unmap(), 53))
		}
	}
	return found
}
