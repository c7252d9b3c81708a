package tapnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio/nic"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var (
	hostIP   = [4]byte{10, 9, 8, 1}
	guestIP  = [4]byte{10, 9, 8, 2}
	guestMAC = [6]byte{2, 0, 0, 0, 0, 9}
)

// inNamespace runs fn with a network of its own, which goes with the thread.
func inNamespace(t *testing.T, fn func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: TAP interfaces, which take root to make")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("NOT TESTED: TAP interfaces: %v", err)
	}
	kvmtest.NoLeaks(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		defer close(done)
		fn()
	}()
	if err := <-done; err != nil {
		t.Skipf("NOT TESTED: TAP interfaces: making a network namespace: %v", err)
	}
}

// open opens a TAP with the host's address, for use within inNamespace: it returns false after a failure.
func open(t *testing.T, config Config) (*TAP, bool) {
	tap, err := Open(config)
	if err != nil {
		t.Error(err)
		return nil, false
	}
	t.Cleanup(func() { tap.Close() })
	for _, r := range []struct {
		request uint
		ip      [4]byte
	}{{unix.SIOCSIFADDR, hostIP}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}}} {
		if _, err := query(tap.Name(), r.request, func(q *unix.Ifreq) { q.SetInet4Addr(r.ip[:]) }); err != nil {
			t.Error(err)
			return nil, false
		}
	}
	return tap, true
}

// withHeader puts an empty header before a frame.
func withHeader(frame []byte) [][]byte { return [][]byte{make([]byte, vnethdr.Size), frame} }

// arp makes a frame in which the guest asks for the host, or answers it.
func arp(op byte, to []byte) []byte {
	b := append(append(append([]byte{}, to...), guestMAC[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	b = append(append(b, guestMAC[:]...), guestIP[:]...)
	return append(append(b, to...), hostIP[:]...)
}

var broadcast = bytes.Repeat([]byte{0xff}, 6)

// isARPReply says whether a frame answers arp(1).
func isARPReply(f []byte) bool {
	return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && bytes.Equal(f[28:32], hostIP[:])
}

// sum is the internet checksum's sum, not complemented.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

// udpTo makes a frame with a datagram to the host, without its checksum but for the pseudo header, and the offload header that says so.
func udpTo(hostMAC []byte, port int, payload []byte) [][]byte {
	u := binary.BigEndian.AppendUint16(nil, 777)
	u = binary.BigEndian.AppendUint16(u, uint16(port))
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	pseudo := append(append(append([]byte{}, guestIP[:]...), hostIP[:]...), 0, 17, u[4], u[5])
	binary.BigEndian.PutUint16(u[6:], sum(0, pseudo))
	ip := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(u)))
	ip = append(append(append(ip, 0, 0, 0, 0, 64, 17, 0, 0), guestIP[:]...), hostIP[:]...)
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	var head [vnethdr.Size]byte
	vnethdr.Header{Flags: vnethdr.NeedsCsum, CsumStart: 34, CsumOffset: 6}.Put(&head)
	frame := append(append(append(append([]byte{}, hostMAC...), guestMAC[:]...), 8, 0), append(ip, u...)...)
	return [][]byte{head[:5], head[5:], frame[:30], frame[30:]}
}

// until receives frames on a queue until want says yes to one without its header, or a minute has passed.
func until(t *testing.T, tap *TAP, pair int, want func(h vnethdr.Header, frame []byte) bool) bool {
	timeout := time.AfterFunc(time.Minute, tap.Stop)
	defer timeout.Stop()
	buf := make([]byte, vnethdr.Size+vnethdr.MaxFrame)
	for {
		n, err := tap.Receive(pair, [][]byte{buf[:7], buf[7:40], buf[40:]}, func() {})
		if err != nil {
			t.Errorf("the frame did not come: %v", err)
			return false
		}
		if want(vnethdr.Parse((*[vnethdr.Size]byte)(buf)), buf[vnethdr.Size:n]) {
			return true
		}
	}
}

// TestFrames: ARP and UDP between the host's kernel and a guest played by the test, with and without offloads.
func TestFrames(t *testing.T) {
	inNamespace(t, func() {
		tap, ok := open(t, Config{Name: "qtap%d"})
		if !ok {
			return
		}
		if !strings.HasPrefix(tap.Name(), "qtap") || tap.MTU() != 1500 || tap.MaxPairs() != 1 {
			t.Errorf("%s, MTU %d, %d pairs", tap.Name(), tap.MTU(), tap.MaxPairs())
		}
		sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: hostIP[:]})
		if err != nil {
			t.Error(err)
			return
		}
		defer sock.Close()
		sock.SetDeadline(time.Now().Add(time.Minute))
		for _, give := range []vnethdr.Offloads{0, vnethdr.Csum, vnethdr.Csum | vnethdr.TSO4 | vnethdr.TSO6} {
			if err := tap.Start(give); err != nil {
				t.Error(err)
				return
			}
			hostMAC := meet(t, tap)
			if hostMAC == nil {
				return
			}
			payload := bytes.Repeat([]byte("hello "), 200)
			if err := tap.Transmit(0, udpTo(hostMAC, sock.LocalAddr().(*net.UDPAddr).Port, payload)); err != nil {
				t.Error(err)
			}
			buf := make([]byte, 2000)
			n, from, err := sock.ReadFromUDP(buf)
			if err != nil || !bytes.Equal(buf[:n], payload) || !from.IP.Equal(guestIP[:]) {
				t.Errorf("offloads %#x: the host got %d bytes from %v, %v", give, n, from, err)
				return
			}
			if _, err := sock.WriteToUDP(payload, from); err != nil {
				t.Error(err)
			}
			until(t, tap, 0, func(h vnethdr.Header, f []byte) bool {
				if len(f) < 42 || f[12] != 8 || f[13] != 0 || f[23] != 17 || f[36] != 777>>8 {
					return false
				}
				pseudo := uint32(17 + len(f) - 34)
				total := sum(pseudo+uint32(sum(0, f[26:34])), f[34:])
				if !bytes.Equal(f[42:], payload) || h.Flags&vnethdr.NeedsCsum != 0 && give == 0 || h.Flags&vnethdr.NeedsCsum == 0 && total != 0xffff {
					t.Errorf("offloads %#x: %+v before % x, sum %#x", give, h, f[:60], total)
				}
				return true
			})
			tap.Stop()
			if _, err := tap.Receive(0, [][]byte{buf}, func() {}); !errors.Is(err, ErrStopped) {
				t.Errorf("receiving from a stopped interface: %v", err)
			}
		}
	})
}

// meet exchanges addresses with the host on the first queue and returns the host's MAC address, or nil after a failure.
func meet(t *testing.T, tap *TAP) (hostMAC []byte) {
	if err := tap.Transmit(0, withHeader(arp(1, broadcast))); err != nil {
		t.Error(err)
		return nil
	}
	until(t, tap, 0, func(_ vnethdr.Header, f []byte) bool {
		if isARPReply(f) {
			hostMAC = bytes.Clone(f[6:12])
		}
		return hostMAC != nil
	})
	if err := tap.Transmit(0, withHeader(arp(2, hostMAC))); err != nil { // lest the host has to ask
		t.Error(err)
	}
	return hostMAC
}

// TestQueues: a queue that is not in use waits for its time, and the host's answers come by the queue that the guest used.
func TestQueues(t *testing.T) {
	inNamespace(t, func() {
		tap, ok := open(t, Config{Pairs: 3})
		if !ok {
			return
		}
		if err := tap.Start(0); err != nil {
			t.Error(err)
			return
		}
		for _, n := range []int{0, 4} {
			if tap.SetPairs(n) == nil {
				t.Errorf("%d queues of 3", n)
			}
		}
		hostMAC := meet(t, tap)
		sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: hostIP[:]})
		if err != nil || hostMAC == nil {
			t.Error(hostMAC, err)
			return
		}
		defer sock.Close()
		sock.SetDeadline(time.Now().Add(time.Minute))
		port := sock.LocalAddr().(*net.UDPAddr).Port
		waits, done := make(chan struct{}), make(chan struct{})
		var once sync.Once
		go func() {
			defer close(done)
			buf := make([]byte, 2000)
			for { // until the answer
				n, err := tap.Receive(2, [][]byte{buf}, func() { once.Do(func() { close(waits) }) })
				if err != nil || n > 54 && string(buf[54:n]) == "answer 0" {
					if err != nil {
						t.Errorf("receiving on a queue that was not in use: %v", err)
					}
					return
				}
			}
		}()
		<-waits
		for range 2 {
			if err := tap.SetPairs(3); err != nil {
				t.Error(err)
				return
			}
		}
		for i, pair := range []int{2, 0, 1, 2} {
			buf := make([]byte, 100)
			question := fmt.Sprintf("question %d", i)
			if err := tap.Transmit(pair, udpTo(hostMAC, port, []byte(question))); err != nil {
				t.Error(err)
			}
			n, from, err := sock.ReadFromUDP(buf)
			if err != nil || string(buf[:n]) != question {
				t.Errorf("%q, %v", buf[:n], err)
				return
			}
			answer := fmt.Sprintf("answer %d", i)
			if _, err := sock.WriteToUDP([]byte(answer), from); err != nil {
				t.Error(err)
			}
			if i == 0 {
				<-done
			} else {
				until(t, tap, pair, func(_ vnethdr.Header, f []byte) bool { return len(f) > 42 && string(f[42:]) == answer })
			}
		}
	})
}

// TestLost: an interface that is deleted under us ends Receive and Transmit with a clear error, and a card above loses its link.
func TestLost(t *testing.T) {
	inNamespace(t, func() {
		tap, ok := open(t, Config{})
		if !ok {
			return
		}
		told := make(chan error, 1)
		card, err := nic.New(nic.Config{MAC: guestMAC, Lost: func(err error) { told <- err }}, tap)
		if err != nil {
			t.Error(err)
			return
		}
		d := virtiotest.New(t, card, 16<<20)
		p := d.Post(0, nil, 2000)
		d.Send(1, withHeader(arp(1, broadcast)))
		for ; !isARPReply(p.Wait().Bytes()[vnethdr.Size:]); p = d.Post(0, nil, 2000) {
		}
		d.Post(0, nil, 2000)
		if err := remove(tap.Name()); err != nil {
			t.Error(err)
			return
		}
		if err := <-told; !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), tap.Name()) {
			t.Errorf("told %v", err)
		}
		d.WaitConfig()
		if status := d.Config(6, 1); status[0] != 0 {
			t.Errorf("link status %d", status[0])
		}
		if err := tap.Transmit(0, withHeader(arp(1, broadcast))); !errors.Is(err, ErrLost) {
			t.Errorf("sending: %v", err)
		}
		d.Reset()
		d.Start() // the device works, without a link
		d.Send(1, withHeader(arp(1, broadcast)))
		d.Close()
	})
}

// remove deletes an interface by RTM_DELLINK (rtnetlink(7)).
func remove(name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(ifi.Index))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	n, err := unix.Read(fd, b)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	if errno := -int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// TestUnprivileged: an interface made for a user needs no privilege, another cannot be opened or made without.
func TestUnprivileged(t *testing.T) {
	inNamespace(t, func() {
		const user = 65534
		for _, name := range []string{"mine", "roots"} {
			tap, err := Open(Config{Name: name})
			if err != nil {
				t.Error(err)
				return
			}
			owner := user
			if name == "roots" {
				owner = 0
			}
			err = tap.queues[0].control(func(fd int) error {
				return errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
			})
			if err := errors.Join(err, tap.Close()); err != nil {
				t.Error(err)
				return
			}
		}
		// Of this thread alone, which ends.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, user, user, user); errno != 0 {
			t.Error(errno)
			return
		}
		tap, err := Open(Config{Name: "mine"})
		if err != nil {
			t.Errorf("the user's own: %v", err)
			return
		}
		defer tap.Close()
		if err := tap.Start(vnethdr.Csum); err != nil {
			t.Error(err)
		}
		if err := tap.Transmit(0, withHeader(arp(1, broadcast))); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"roots", "new", ""} {
			if other, err := Open(Config{Name: name}); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "ip tuntap") {
				t.Errorf("%q: %v", name, err)
				if err == nil {
					other.Close()
				}
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	inNamespace(t, func() {
		first, ok := open(t, Config{Name: "first"})
		if !ok {
			return
		}
		defer first.Close()
		for name, c := range map[string]struct {
			config Config
			want   error
		}{
			"taken":          {Config{Name: "first"}, unix.EBUSY},
			"no TAP":         {Config{Name: "lo"}, unix.EINVAL},
			"a long name":    {Config{Name: "a-name-of-16-byt"}, unix.EINVAL},
			"too many pairs": {Config{Pairs: MaxPairs + 1}, nil},
			"less than none": {Config{Pairs: -1}, nil},
		} {
			tap, err := Open(c.config)
			if err == nil {
				tap.Close()
				t.Errorf("%s: opened", name)
			} else if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
