package nic_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/usernet"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than the guest takes: a hang ends the test, slowness does not.
const bootLimit = 3 * time.Minute

// TestLinux boots a guest that fetches a file from a server on the host's loopback, and serves it to the host on a forwarded port.
func TestLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	kvmtest.Open(t)
	kvmtest.NoLeaks(t)
	content := make([]byte, 96<<10)
	rand.NewChaCha8([32]byte{1}).Read(content)
	port, err := usernet.Open(usernet.Config{Loopback: true, Forwards: []usernet.Forward{{Proto: "tcp", Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	card, err := nic.New(nic.Config{MAC: usernet.MACPeer, Pairs: 2, Lost: func(err error) { t.Error(err) }}, port)
	if err != nil {
		t.Fatal(err)
	}

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	mux := http.NewServeMux()
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { w.Write(content) })
	mux.HandleFunc("/fetch", func(w http.ResponseWriter, r *http.Request) {
		resp, err := client.Get(fmt.Sprintf("http://%v/file", port.Forwards()[0].Host))
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the guest served %d bytes, %v", len(got), err)
		}
		fmt.Fprintln(w, "thank you")
	})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Close(); <-served }()
	url := fmt.Sprintf("http://%v:%d", usernet.Router, l.Addr().(*net.TCPAddr).Port)

	out := new(linuxtest.Console)
	m, err := vmm.New(vmm.Config{
		Kernel:  linuxtest.File(t, artefact.LeanELF),
		Initrds: []string{linuxtest.File(t, artefact.InitBusybox)},
		Cmdline: "console=ttyS0 panic=-1 pci=off quiet qenex.cmd=\"" + strings.Join([]string{
			"ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up", "route add default gw 10.0.2.2",
			"read m </sys/class/net/eth0/address", "read u </sys/class/net/eth0/mtu", "echo card $m $u.",
			"ping -c 1 -W 60 10.0.2.2",
			"mkdir /www", "wget -q -O /www/file " + url + "/file", "md5sum /www/file",
			"httpd -p 80 -h /www", "wget -q -O - " + url + "/fetch",
		}, ";") + `"`,
		Hints: true, Memory: 64 * memmap.MiB, CPUs: 1, Heal: true, Console: out,
		Virtio: []virtio.Device{card},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if o, err := m.Wait(ctx); err != nil || o.Cause != vmm.PowerOff {
		t.Fatalf("outcome %v, %v; console:\n%s", o, err, out)
	}
	for _, want := range []string{"card 52:54:00:12:34:56 1500.", "1 packets received", fmt.Sprintf("%x", md5.Sum(content)), "thank you"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the console has no %q", want)
		}
	}
	s := card.Stats()
	t.Logf("%+v", s)
	if s.SentDropped+s.ReceivedDropped+port.Dropped() != 0 {
		t.Errorf("frames were dropped: %+v, %d in the network", s, port.Dropped())
	}
	if t.Failed() {
		t.Logf("console:\n%s", out)
	}
}
