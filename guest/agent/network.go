package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// network is the guest's first network interface, and the loopback.
type network struct {
	line  string        // what the kernel command line says
	ready chan struct{} // closed when boot is done

	mu    sync.Mutex // below, and one configuration at a time
	state wire.NetworkMessage
	err   error
}

func newNetwork(line string) *network { return &network{line: line, ready: make(chan struct{})} }

// boot does what the kernel command line says.
func (n *network) boot() error {
	defer close(n.ready)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state, n.err = n.apply(wordsOf(n.line))
	return n.err
}

// wordsOf are the parts of qenex.ip: ADDRESS/BITS,GATEWAY,DNS or a word.
func wordsOf(line string) wire.NetworkMessage {
	f := append(strings.Split(line, ","), "", "")
	return wire.NetworkMessage{Address: f[0], Gateway: f[1], DNS: f[2]}
}

// configure waits for the boot, and then for an Address does what is asked for. What is in force is the answer.
func (n *network) configure(want wire.NetworkMessage) (wire.NetworkMessage, error) {
	<-n.ready
	n.mu.Lock()
	defer n.mu.Unlock()
	if want.Address != "" || n.err != nil && n.line == "dhcp" {
		if want.Address == "" {
			want.Address = "dhcp"
		}
		n.state, n.err = n.apply(want)
	}
	return n.state, n.err
}

// apply configures the interfaces.
func (n *network) apply(want wire.NetworkMessage) (wire.NetworkMessage, error) {
	nl, err := openNetlink()
	if err != nil {
		return wire.NetworkMessage{}, err
	}
	defer nl.close()
	report("/etc/hosts", setHosts())
	if index, err := indexOf("lo"); err == nil {
		report("loopback", nl.up(index))
	}
	name, err := firstInterface()
	if want.Address == "off" || name == "" || err != nil {
		return wire.NetworkMessage{}, err
	}
	index, err := indexOf(name)
	if err != nil {
		return wire.NetworkMessage{}, err
	}
	if err := nl.up(index); err != nil {
		return wire.NetworkMessage{}, fmt.Errorf("switch on %s: %w", name, err)
	}
	if want.Address == "dhcp" {
		if want, err = askDHCP(name, index); err != nil {
			return wire.NetworkMessage{}, fmt.Errorf("DHCP on %s: %w", name, err)
		}
	}
	if err := set(nl, index, want); err != nil {
		return wire.NetworkMessage{}, fmt.Errorf("configure %s: %w", name, err)
	}
	return want, nil
}

// set gives an interface its address, the guest its gateway and its name server.
func set(nl *netlink, index int, want wire.NetworkMessage) error {
	p, err := netip.ParsePrefix(want.Address)
	if err != nil || !p.Addr().Is4() {
		return fmt.Errorf("address %q: it takes the form 10.0.2.15/24", want.Address)
	}
	if err := nl.address(index, p); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	if want.Gateway != "" {
		a, err := netip.ParseAddr(want.Gateway)
		if err != nil || !a.Is4() {
			return fmt.Errorf("gateway %q: it takes the form 10.0.2.2", want.Gateway)
		}
		if err := nl.gateway(index, a); err != nil {
			return fmt.Errorf("gateway %s: %w", a, err)
		}
	}
	return setDNS(want.DNS)
}

// resolvConf is where programs look for name servers.
const resolvConf = "/etc/resolv.conf"

// setDNS writes resolv.conf. Where a root has its own init, what that has put there stays.
func setDNS(server string) error {
	if server == "" {
		return nil
	}
	if a, err := netip.ParseAddr(server); err != nil {
		return fmt.Errorf("name server: %w", err)
	} else {
		server = a.String()
	}
	if st, err := os.Stat(resolvConf); err == nil && st.Size() > 0 && os.Getpid() != 1 {
		return nil
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	if err := os.Remove(resolvConf); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be a link to what is not running
		return err
	}
	return os.WriteFile(resolvConf, []byte("nameserver "+server+"\n"), 0o644)
}

// setHosts gives a root that has no /etc/hosts one that knows localhost. Where a root has its own init, the file is its own affair.
func setHosts() error {
	const name = "/etc/hosts"
	if st, err := os.Stat(name); os.Getpid() != 1 || err == nil && st.Size() > 0 {
		return nil
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n"), 0o644)
}

// firstInterface is the name of the first Ethernet interface, "" if there is none.
func firstInterface() (string, error) {
	names, err := os.ReadDir("/sys/class/net")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for _, n := range names {
		kind, err := os.ReadFile("/sys/class/net/" + n.Name() + "/type")
		if err == nil && strings.TrimSpace(string(kind)) == "1" { // ARPHRD_ETHER
			return n.Name(), nil
		}
	}
	return "", err
}

// indexOf is the kernel's number of an interface.
func indexOf(name string) (int, error) {
	b, err := os.ReadFile("/sys/class/net/" + name + "/ifindex")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
