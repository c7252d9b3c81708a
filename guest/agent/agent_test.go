package main

import (
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent/wire"
)

func TestParseCommandLine(t *testing.T) {
	plain := commandLine{rootType: "ext4", ip: "dhcp", agentPort: wire.Port}
	for line, change := range map[string]func(*commandLine){
		"":                                 func(*commandLine) {},
		"quiet\n":                          func(*commandLine) {},
		"notqenex.root=/dev/vda":           func(*commandLine) {},
		"qenex.root=/dev/vda":              func(c *commandLine) { c.root = "/dev/vda" },
		"qenex.root=a qenex.root=b":        func(c *commandLine) { c.root = "b" },
		`"qenex.root=/dev/a b" qenex.hold`: func(c *commandLine) { c.root, c.hold = "/dev/a b", true },
		"qenex.hold=1 qenex.overlay=tmpfs": func(c *commandLine) { c.hold, c.overlay = true, "tmpfs" },
		"qenex.hold qenex.hold=0":          func(*commandLine) {},
		"qenex.rootfs=9p noxsave":          func(c *commandLine) { c.rootType, c.noXSave = "9p", true },
		"qenex.ip=10.0.2.15/24,10.0.2.2,":  func(c *commandLine) { c.ip = "10.0.2.15/24,10.0.2.2," },
		"qenex.agent=77":                   func(c *commandLine) { c.agentPort = 77 },
		"qenex.agent=off":                  func(c *commandLine) { c.agentPort = 0 },
		"qenex.share=a:/b qenex.share=c:/d:ro qenex.share=e": func(c *commandLine) {
			c.shares = []share{{"a", "/b", false}, {"c", "/d", true}, {"e", "", false}}
		},
	} {
		want := plain
		change(&want)
		got := parseCommandLine(line)
		got.words = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, want %+v", line, got, want)
		}
	}
}

func TestParameters(t *testing.T) {
	c := parseCommandLine(`virtio_mmio.device=4K@0xd0000000:5 quiet virtio-mmio.device=4K@0xd0001000:6 other.x=y "virtio_mmio.z=a b" virtio_mmio`)
	if got, want := c.parameters("virtio_mmio"), "device=4K@0xd0000000:5 device=4K@0xd0001000:6 z=a b"; got != want {
		t.Errorf("parameters %q, want %q", got, want)
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add(`console=ttyS0 "qenex.root=a b" qenex.share=x:/y:ro`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, w := range parseCommandLine(line).words {
			if strings.Contains(w, `"`) {
				t.Errorf("%q: a quote is left in %q", line, w)
			}
		}
	})
}

func TestHints(t *testing.T) {
	if h := hints(parseCommandLine("quiet")); h != nil {
		t.Errorf("without noxsave: %q", h)
	}
	if h := hints(parseCommandLine("noxsave")); len(h) != 2 || !strings.HasPrefix(h[0], "GODEBUG=cpu.avx=off") {
		t.Errorf("with noxsave: %q", h)
	}
}

// answer is a server's message in an IPv4 packet, as our own question with the sides changed.
func answer(options ...byte) []byte {
	p := question(0x12345678, []byte{2, 0, 0, 0, 0, 1}, dhcpDiscover, nil)
	m := p[ipHeader+udpHeader:]
	binary.BigEndian.PutUint16(p[ipHeader+2:], 68)
	m[0] = 2
	copy(m[16:], []byte{10, 0, 2, 15})
	return append(p[:ipHeader+udpHeader+dhcpFixed+4], options...)
}

func TestParseAnswer(t *testing.T) {
	whole := answer(optionPad, optionType, 1, dhcpACK, optionMask, 4, 255, 255, 0, 0, optionRouter, 8, 10, 0, 2, 2, 10, 0, 2, 9,
		optionDNS, 4, 10, 0, 2, 3, optionServer, 4, 10, 0, 2, 2, 200, 0, optionEnd, 1)
	l, ok := parseAnswer(whole)
	want := wire.NetworkMessage{Address: "10.0.2.15/16", Gateway: "10.0.2.2", DNS: "10.0.2.3"}
	if !ok || l.kind != dhcpACK || l.id != 0x12345678 || l.message() != want || string(l.server) != "\x0a\x00\x02\x02" {
		t.Errorf("%+v, %t: %+v", l, ok, l.message())
	}
	if l, ok := parseAnswer(answer(optionEnd)); !ok || l.message() != (wire.NetworkMessage{Address: "10.0.2.15/24"}) {
		t.Errorf("without options: %+v, %t", l.message(), ok)
	}
	for name, change := range map[string]func(p []byte) []byte{
		"no IPv4":           func(p []byte) []byte { p[0] = 0x65; return p },
		"no UDP":            func(p []byte) []byte { p[9] = unix.IPPROTO_TCP; return p },
		"a short header":    func(p []byte) []byte { p[0] = 0x44; return p },
		"a long header":     func(p []byte) []byte { p[0] = 0x4f; return p[:64] },
		"another port":      func(p []byte) []byte { p[ipHeader+3] = 67; return p },
		"a question":        func(p []byte) []byte { p[ipHeader+udpHeader] = 1; return p },
		"no cookie":         func(p []byte) []byte { p[ipHeader+udpHeader+dhcpFixed] = 0; return p },
		"cut":               func(p []byte) []byte { return p[:ipHeader+udpHeader+dhcpFixed+3] },
		"an option cut off": func(p []byte) []byte { return append(p[:len(p)-1], optionDNS, 4, 1) },
		"half an option":    func(p []byte) []byte { return append(p[:len(p)-1], optionDNS) },
		"nothing":           func(p []byte) []byte { return nil },
	} {
		if l, ok := parseAnswer(change(answer(optionType, 1, dhcpACK, optionEnd))); ok {
			t.Errorf("%s: taken as %+v", name, l)
		}
	}
}

func TestQuestion(t *testing.T) {
	p := question(7, []byte{2, 0, 0, 0, 0, 1}, dhcpRequest, &lease{address: [4]byte{10, 0, 2, 15}, server: []byte{10, 0, 2, 2}})
	if len(p) != ipHeader+udpHeader+300 || int(binary.BigEndian.Uint16(p[2:])) != len(p) || checksum(p[:ipHeader]) != 0 {
		t.Errorf("%d bytes: % x", len(p), p[:ipHeader])
	}
	binary.BigEndian.PutUint16(p[ipHeader+2:], 68)
	p[ipHeader+udpHeader] = 2
	if l, ok := parseAnswer(p); !ok || l.kind != dhcpRequest || l.id != 7 || string(l.server) != "\x0a\x00\x02\x02" {
		t.Errorf("%+v, %t", l, ok)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(answer(optionType, 1, dhcpACK, optionMask, 4, 255, 255, 255, 0, optionEnd))
	f.Add(answer(optionDNS, 255, 1))
	f.Fuzz(func(t *testing.T, p []byte) {
		if l, ok := parseAnswer(p); ok {
			if _, err := netip.ParsePrefix(l.message().Address); err != nil {
				t.Errorf("%+v: %v", l, err)
			}
		}
	})
}

// TestNetlink configures a network of its own: the loopback, and a pair of cards.
func TestNetlink(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: only root can make a network namespace")
	}
	done := make(chan struct{})
	go func() { // the thread is given up with the goroutine, and its namespace with it
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Logf("NOT RUN: a network namespace: %v", err)
			return
		}
		nl, err := openNetlink()
		if err != nil {
			t.Error(err)
			return
		}
		defer nl.close()
		const lo = 1 // in each namespace
		if err := nl.up(lo); err != nil {
			t.Errorf("loopback: %v", err)
		}
		for range 2 { // what is there is replaced
			if err := nl.address(lo, netip.MustParsePrefix("10.9.8.7/24")); err != nil {
				t.Errorf("address: %v", err)
			}
			if err := nl.gateway(lo, netip.MustParseAddr("10.9.8.1")); err != nil {
				t.Errorf("gateway: %v", err)
			}
		}
		if err := nl.address(99, netip.MustParsePrefix("10.9.8.7/24")); err != unix.ENODEV {
			t.Errorf("address of no interface: %v", err)
		}
		if err := nl.gateway(lo, netip.MustParseAddr("10.1.1.1")); err != unix.ENETUNREACH {
			t.Errorf("a gateway out of reach: %v", err)
		}
		routes, err := os.ReadFile("/proc/thread-self/net/route")
		if err != nil || !strings.Contains(string(routes), "lo\t00000000\t0108090A") || strings.Count(string(routes), "\t0108090A") != 1 {
			t.Errorf("routes, %v:\n%s", err, routes)
		}
	}()
	<-done
}

// TestNotAnInit: on a host the program does nothing.
func TestNotAnInit(t *testing.T) {
	if os.Getenv("QENEX_TEST_AGENT") != "" {
		main()
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestNotAnInit$")
	c.Env = append(os.Environ(), "QENEX_TEST_AGENT=1")
	out, err := c.CombinedOutput()
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 2 || !strings.Contains(string(out), "init of a QENEX guest") {
		t.Errorf("%v: %s", err, out)
	}
}
