package sentry

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/qenex/qenex-kernel/usernet"
)

const (
	ethernetIndex  = linux.LOOPBACK_IFINDEX + 1
	ethernetQueue  = 4096 // frames on their way out
	ethernetMaxMTU = usernet.MaxMTU
)

// cable joins the guest's Ethernet interface with a gateway.
type cable struct {
	link    *channel.Endpoint
	gateway *usernet.Gateway
}

// WriteNotify implements channel.Notification: the guest has sent frames.
func (c *cable) WriteNotify() {
	for pkt := c.link.Read(); pkt != nil; pkt = c.link.Read() {
		c.gateway.FromGuest(pkt.ToView().AsSlice())
		pkt.DecRef()
	}
}

// toGuest gives the guest a frame.
func (c *cable) toGuest(frame []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	c.link.InjectInbound(0, pkt) // the Ethernet layer finds the protocol
	pkt.DecRef()
}

// plug gives the guest's stack an Ethernet interface at the end of a new gateway's cable.
func plug(s *stack.Stack, loopback bool) (*usernet.Gateway, error) {
	c := &cable{link: channel.New(ethernetQueue, ethernetMaxMTU+header.EthernetMinimumSize, tcpip.LinkAddress(usernet.MACPeer[:]))}
	c.link.AddNotify(c)
	var err error
	if c.gateway, err = usernet.New(usernet.Config{MTU: ethernetMaxMTU, Loopback: loopback}, c.toGuest); err != nil {
		return nil, err
	}
	if terr := s.CreateNICWithOptions(ethernetIndex, ethernet.New(c.link), stack.NICOptions{Name: "eth0"}); terr != nil {
		c.gateway.Close()
		return nil, fmt.Errorf("making the guest's network interface: %s", terr)
	}
	addr := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(usernet.Guest.As4()), PrefixLen: usernet.Subnet.Bits()},
	}
	if terr := s.AddProtocolAddress(ethernetIndex, addr, stack.AddressProperties{}); terr != nil {
		c.gateway.Close()
		return nil, fmt.Errorf("giving the guest's network interface its address: %s", terr)
	}
	s.SetRouteTable(append(s.GetRouteTable(),
		tcpip.Route{Destination: addr.AddressWithPrefix.Subnet(), NIC: ethernetIndex},
		tcpip.Route{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(usernet.Router.As4()), NIC: ethernetIndex}))
	return c.gateway, nil
}

// mountResolvConf shows the gateway's name server at /etc/resolv.conf, whatever the root has there.
func (m *mounter) mountResolvConf() error {
	const target = "/etc/resolv.conf"
	mnt, err := m.v.MountDisconnected(m.ctx, m.creds, "", tmpfs.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			Data:          "mode=0644",
			InternalData:  tmpfs.FilesystemOpts{RootFileType: linux.S_IFREG},
		},
	})
	if err != nil {
		return err
	}
	defer mnt.DecRef(m.ctx)
	top := vfs.MakeVirtualDentry(mnt, mnt.Root())
	fd, err := m.v.OpenAt(m.ctx, m.creds, &vfs.PathOperation{Root: top, Start: top, Path: fspath.Parse("")}, &vfs.OpenOptions{Flags: linux.O_WRONLY})
	if err != nil {
		return err
	}
	defer fd.DecRef(m.ctx)
	text := fmt.Sprintf("nameserver %v\n", usernet.DNS)
	if _, err := fd.Write(m.ctx, usermem.BytesIOSequence([]byte(text)), vfs.WriteOptions{}); err != nil {
		return err
	}
	if err := m.makeMountPoint(target, false); err != nil {
		return err
	}
	return m.v.ConnectMountAt(m.ctx, m.creds, mnt, m.at(target, true))
}
