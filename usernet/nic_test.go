package usernet

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// TestCard: a driver gets its address through a network card, before and after a reset.
func TestCard(t *testing.T) {
	kvmtest.NoLeaks(t)
	port, err := Open(Config{Hostname: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	card, err := nic.New(nic.Config{MAC: MACPeer, Pairs: MaxPairs}, port)
	if err != nil {
		t.Fatal(err)
	}
	d := virtiotest.New(t, card, 16<<20)
	c := &client{t: t}
	for range 3 {
		m := c.message(dhcpv4.MessageTypeDiscover)
		p := d.Post(0, nil, 400, 400)
		d.Send(1, [][]byte{make([]byte, vnethdr.Size), c.frame(header.IPv4Broadcast, m.ToBytes())})
		f := p.Wait().Bytes()
		r, err := dhcpv4.FromBytes(header.UDP(header.IPv4(f[vnethdr.Size+14:]).Payload()).Payload())
		if err != nil || r.HostName() != "guest" || r.TransactionID != m.TransactionID {
			t.Fatalf("%v, %v", r, err)
		}
		d.Reset()
		d.Start()
	}
	d.Close()
}
