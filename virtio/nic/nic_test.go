package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

const (
	all     = vnethdr.Csum | vnethdr.TSO4 | vnethdr.TSO6
	memory  = 16 << 20
	patient = 30 * time.Second
)

var mac = [6]byte{0x52, 0x54, 0, 1, 2, 3}

// wire is a backend whose other end is the test.
type wire struct {
	take, give vnethdr.Offloads
	mtu, pairs int
	toGuest    [4]chan []byte // frames with a header
	fromGuest  chan sent
	started    chan vnethdr.Offloads // what Start was called with, if there is room
	setPairs   chan int              // as SetPairs, likewise
	lost       atomic.Pointer[error] // what Transmit says
	busy       bool                  // never idle

	mu   sync.Mutex
	stop chan struct{} // guarded by mu
	die  chan error    // a value is the end of Receive
}

type sent struct {
	pair  int
	bytes []byte
}

func newWire() *wire {
	w := &wire{take: all, give: all, mtu: 1500, pairs: 4, fromGuest: make(chan sent, 100), started: make(chan vnethdr.Offloads, 10), setPairs: make(chan int, 10), die: make(chan error, 1)}
	for i := range w.toGuest {
		w.toGuest[i] = make(chan []byte, 100)
	}
	return w
}

func (w *wire) Offloads() (take, give vnethdr.Offloads) { return w.take, w.give }
func (w *wire) MTU() int                                { return w.mtu }
func (w *wire) MaxPairs() int                           { return w.pairs }

func (w *wire) Start(give vnethdr.Offloads) error {
	w.mu.Lock()
	w.stop = make(chan struct{})
	w.mu.Unlock()
	select {
	case w.started <- give:
	default:
	}
	return nil
}

func (w *wire) Stop() {
	w.mu.Lock()
	close(w.stop)
	w.mu.Unlock()
}

func (w *wire) SetPairs(n int) error {
	select {
	case w.setPairs <- n:
	default:
	}
	return nil
}

func (w *wire) Transmit(pair int, views [][]byte) error {
	if err := w.lost.Load(); err != nil {
		return *err
	}
	select {
	case w.fromGuest <- sent{pair, bytes.Join(views, nil)}:
	default:
	}
	return nil
}

func (w *wire) Receive(pair int, views [][]byte, idle func()) (int, error) {
	w.mu.Lock()
	stop := w.stop
	w.mu.Unlock()
	var frame []byte
	select {
	case frame = <-w.toGuest[pair]:
	default:
		if !w.busy {
			idle()
		}
		select {
		case frame = <-w.toGuest[pair]:
		case err := <-w.die:
			return 0, err
		case <-stop:
			return 0, errors.New("stopped")
		}
	}
	rest := frame
	for _, v := range views {
		rest = rest[copy(v, rest):]
	}
	return len(frame), nil
}

// receive returns the next frame of the guest.
func (w *wire) receive(t *testing.T) sent {
	t.Helper()
	select {
	case s := <-w.fromGuest:
		return s
	case <-time.After(patient):
		t.Fatal("the frame did not arrive")
		return sent{}
	}
}

func newDevice(t testing.TB, w Backend, pairs int) *Device {
	t.Helper()
	d, err := New(Config{MAC: mac, Pairs: pairs}, w)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// header makes a virtio_net_hdr.
func header(h vnethdr.Header) []byte {
	var b [vnethdr.Size]byte
	h.Put(&b)
	return b[:]
}

// pattern makes a frame's bytes.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func TestNewRefuses(t *testing.T) {
	for _, mtu := range []int{67, 65536} {
		w := newWire()
		w.mtu = mtu
		if _, err := New(Config{MAC: mac}, w); err == nil {
			t.Errorf("an MTU of %d is taken", mtu)
		}
	}
	for name, c := range map[string]Config{
		"too many pairs":    {MAC: mac, Pairs: 5},
		"fewer than none":   {MAC: mac, Pairs: -1},
		"no address":        {},
		"a group's address": {MAC: [6]byte{1, 2, 3, 4, 5, 6}},
	} {
		if _, err := New(c, newWire()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestFeatures(t *testing.T) {
	const always = featureMAC | featureStatus | featureMTU | featureMrgRxbuf | featureCtrlVQ | featureCtrlRX | featureCtrlMAC
	for _, c := range []struct {
		take, give vnethdr.Offloads
		pairs      int
		want       uint64
	}{
		{0, 0, 1, always},
		{vnethdr.Csum, 0, 1, always | featureCsum},
		{vnethdr.Csum | vnethdr.TSO4, vnethdr.Csum, 1, always | featureCsum | featureHostTSO4 | featureGuestCsum},
		{all, all, 4, always | featureMQ | featureCsum | featureHostTSO4 | featureHostTSO6 | featureGuestCsum | featureGuestTSO4 | featureGuestTSO6},
	} {
		w := newWire()
		w.take, w.give = c.take, c.give
		d := newDevice(t, w, c.pairs)
		if got := d.Features(); got != c.want {
			t.Errorf("take %#x, give %#x, %d pairs: features %#x, want %#x", c.take, c.give, c.pairs, got, c.want)
		}
		if n := len(d.Queues()); n != 2*c.pairs+1 {
			t.Errorf("%d pairs: %d queues", c.pairs, n)
		}
	}
}

// TestFeaturesDepend: features without those they need are refused (virtio 1.2, 5.1.3.1).
func TestFeaturesDepend(t *testing.T) {
	for name, f := range map[string]uint64{
		"GUEST_TSO4 without GUEST_CSUM": featureGuestTSO4,
		"GUEST_TSO6 without GUEST_CSUM": featureGuestTSO6 | featureCsum,
		"HOST_TSO4 without CSUM":        featureHostTSO4 | featureGuestCsum,
		"HOST_TSO6 without CSUM":        featureHostTSO6,
		"MQ without CTRL_VQ":            featureMQ,
		"CTRL_RX without CTRL_VQ":       featureCtrlRX,
		"CTRL_MAC_ADDR without CTRL_VQ": featureCtrlMAC,
	} {
		if err := newDevice(t, newWire(), 1).Start(f|virtio.FeatureVersion1, make([]*virtio.Queue, 3), nil); err == nil || !strings.Contains(err.Error(), "without") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConfig: the configuration has its fields, the rest is zero, and nothing can be written (5.1.4).
func TestConfig(t *testing.T) {
	w := newWire()
	w.mtu = 9000
	d := virtiotest.New(t, newDevice(t, w, 3), memory)
	want := []byte{0x52, 0x54, 0, 1, 2, 3, linkUp, 0, 3, 0, 0x28, 0x23, 0, 0, 0, 0}
	for range 2 {
		if got := d.Config(0, 16); !bytes.Equal(got, want) {
			t.Fatalf("configuration % x, want % x", got, want)
		}
		if got := d.Config(4, 2); !bytes.Equal(got, want[4:6]) {
			t.Fatalf("bytes 4 and 5: % x", got)
		}
		if got := d.Config(1<<40, 4); !bytes.Equal(got, make([]byte, 4)) {
			t.Fatalf("far outside: % x", got)
		}
		d.Instance.WriteConfig(0, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	}
	if got := <-w.started; got != all {
		t.Errorf("started with offloads %#x", got)
	}
}

func TestSend(t *testing.T) {
	frame := pattern(3000)
	csum := vnethdr.Header{Flags: vnethdr.NeedsCsum, CsumStart: 34, CsumOffset: 16}
	tso := vnethdr.Header{Flags: vnethdr.NeedsCsum, GSO: vnethdr.GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	far := csum
	far.CsumStart = 2999
	none := tso
	none.GSOSize = 0
	hint := tso
	hint.HdrLen = 9999
	ufo := tso
	ufo.GSO = 3
	var many [][]byte
	for i := range frame {
		many = append(many, frame[i:i+1])
	}
	for _, c := range []struct {
		name   string
		refuse uint64
		parts  [][]byte
		want   []byte // nil: dropped
	}{
		{"plain", 0, [][]byte{header(vnethdr.Header{}), frame[:1514]}, append(header(vnethdr.Header{}), frame[:1514]...)},
		{"in one piece", 0, [][]byte{append(header(csum), frame[:60]...)}, append(header(csum), frame[:60]...)},
		{"header in pieces", 0, [][]byte{header(csum)[:3], header(csum)[3:11], append(header(csum)[11:], frame[:20]...), frame[20:60]}, append(header(csum), frame[:60]...)},
		{"to be segmented", 0, [][]byte{header(tso), frame}, append(header(tso), frame...)},
		{"in a thousand pieces", 0, append([][]byte{header(tso)}, many[:1000]...), append(header(tso), frame[:1000]...)},
		{"the largest", 0, [][]byte{header(tso), pattern(vnethdr.MaxFrame)}, append(header(tso), pattern(vnethdr.MaxFrame)...)},
		{"a hint that is wrong", 0, [][]byte{header(hint), frame}, append(header(vnethdr.Header{Flags: 1, GSO: 1, HdrLen: 3000, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}), frame...)},
		{"too large", 0, [][]byte{header(tso), pattern(vnethdr.MaxFrame + 1)}, nil},
		{"no header", 0, [][]byte{frame[:11]}, nil},
		{"no frame", 0, [][]byte{header(vnethdr.Header{}), frame[:13]}, nil},
		{"checksum outside", 0, [][]byte{header(far), frame}, nil},
		{"segments of nothing", 0, [][]byte{header(none), frame}, nil},
		{"UFO", 0, [][]byte{header(ufo), frame}, nil},
		{"TSO not negotiated", featureHostTSO4, [][]byte{header(tso), frame}, nil},
		{"nothing negotiated", featureHostTSO4 | featureHostTSO6 | featureCsum, [][]byte{header(csum), frame[:100]}, nil},
		{"nothing to read", 0, nil, nil},
	} {
		t.Run(name(c.name), func(t *testing.T) {
			w := newWire()
			dev := newDevice(t, w, 1)
			d := virtiotest.NewWith(t, dev, memory, virtiotest.Options{Refuse: c.refuse})
			if c.parts == nil {
				d.Send(1, nil, 10)
			} else {
				if u := d.Send(1, c.parts); u.Len != 0 {
					t.Errorf("%d bytes written to a frame sent", u.Len)
				}
			}
			s := dev.Stats()
			if c.want == nil {
				if s.SentDropped != 1 || s.Sent != 0 || len(w.fromGuest) != 0 {
					t.Fatalf("not dropped: %+v", s)
				}
				return
			}
			if got := w.receive(t); got.pair != 0 || !bytes.Equal(got.bytes, c.want) {
				t.Fatalf("%d bytes % x on pair %d, want %d % x", len(got.bytes), got.bytes[:min(40, len(got.bytes))], got.pair, len(c.want), c.want[:40])
			}
			if s.Sent != 1 || s.SentBytes != uint64(len(c.want)-vnethdr.Size) || s.SentDropped != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func name(s string) string { return strings.ReplaceAll(s, " ", "-") }

// answers returns what the device wrote into the buffers, each up to its used length.
func answers(pending []*virtiotest.Pending) (lens []int, data []byte) {
	for _, p := range pending {
		u := p.Wait()
		lens = append(lens, int(u.Len))
		data = append(data, u.Bytes()...)
	}
	return lens, data
}

func TestReceive(t *testing.T) {
	in := vnethdr.Header{Flags: vnethdr.NeedsCsum, GSO: vnethdr.GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	many := make([]int, 60)
	for i := range many {
		many[i] = 1200
	}
	for _, c := range []struct {
		name    string
		refuse  uint64
		buffers [][]int // sizes of the parts of each
		frame   int
		lens    []int // nil: dropped
	}{
		{"one buffer", 0, [][]int{{1526}}, 100, []int{112}},
		{"a full buffer", 0, [][]int{{112}}, 100, []int{112}},
		{"three buffers", 0, [][]int{{1000}, {1000}, {1000}}, 2500, []int{1000, 1000, 512}},
		{"the header in pieces", 0, [][]int{{3, 8, 2}, {500, 500}}, 800, []int{13, 799}},
		{"the header alone", 0, [][]int{{12}, {2000}}, 1000, []int{12, 1000}},
		{"the largest", 0, [][]int{{32768, 32768}, {40}}, vnethdr.MaxFrame, []int{65536, 29}},
		{"in many pieces", 0, [][]int{many, many}, 65549, nil}, // set below
		{"one buffer, no merging", featureMrgRxbuf, [][]int{{12, 1514}}, 1514, []int{1526}},
		{"too small, no merging", featureMrgRxbuf, [][]int{{12, 1000}}, 1514, nil},
	} {
		if c.name == "in many pieces" {
			c.buffers, c.frame, c.lens = [][]int{many[:40], many[:20]}, 65549, []int{48000, 17561}
		}
		t.Run(name(c.name), func(t *testing.T) {
			w := newWire()
			dev := newDevice(t, w, 1)
			d := virtiotest.NewWith(t, dev, memory, virtiotest.Options{Refuse: c.refuse})
			var pending []*virtiotest.Pending
			for _, b := range c.buffers {
				pending = append(pending, d.Post(0, nil, b...))
			}
			frame := append(header(in), pattern(c.frame)...)
			binary.LittleEndian.PutUint16(frame[vnethdr.NumBuffers:], 0x7777) // the backend's has no meaning
			w.toGuest[0] <- bytes.Clone(frame)
			if c.lens == nil {
				// The buffer is for the next frame.
				w.toGuest[0] <- append(header(vnethdr.Header{}), 1, 2, 3)
				if lens, data := answers(pending); lens[0] != 15 || !bytes.Equal(data[12:], []byte{1, 2, 3}) || dev.Stats().ReceivedDropped != 1 {
					t.Fatalf("%v % x, %+v", lens, data, dev.Stats())
				}
				return
			}
			lens, data := answers(pending)
			binary.LittleEndian.PutUint16(frame[vnethdr.NumBuffers:], uint16(len(c.lens)))
			for i := range lens {
				if lens[i] != c.lens[i] {
					t.Fatalf("used lengths %v, want %v", lens, c.lens)
				}
			}
			if !bytes.Equal(data, frame) {
				t.Fatalf("%d bytes beginning % x, want %d % x", len(data), data[:16], len(frame), frame[:16])
			}
		})
	}
}

// TestReceiveLate: a frame that found too few buffers goes on in those that come later; with all that there can be, it is dropped.
func TestReceiveLate(t *testing.T) {
	w := newWire()
	dev := newDevice(t, w, 1)
	d := virtiotest.NewWith(t, dev, memory, virtiotest.Options{QueueSize: 4})
	frame := append(header(vnethdr.Header{}), pattern(1000)...)
	pending := []*virtiotest.Pending{d.Post(0, nil, 100)}
	w.toGuest[0] <- bytes.Clone(frame)
	pending = append(pending, d.Post(0, nil, 800), d.Post(0, nil, 400))
	lens, data := answers(pending)
	frame[vnethdr.NumBuffers] = 3
	if lens[0] != 100 || lens[1] != 800 || lens[2] != 112 || !bytes.Equal(data, frame) {
		t.Fatalf("%v, %d bytes", lens, len(data))
	}
	pending = nil
	for range 4 {
		pending = append(pending, d.Post(0, nil, 200))
	}
	w.toGuest[0] <- bytes.Clone(frame) // fits nowhere
	w.toGuest[0] <- append(header(vnethdr.Header{}), pattern(700)...)
	if lens, _ := answers(pending); lens[3] != 112 {
		t.Fatalf("used lengths %v", lens)
	}
	if s := dev.Stats(); s.ReceivedDropped != 1 || s.Received != 2 || s.ReceivedBytes != 1700 {
		t.Fatalf("%+v", s)
	}
}

// TestReceiveBusy: a driver hears of frames also when the backend never rests.
func TestReceiveBusy(t *testing.T) {
	w := newWire()
	w.busy = true
	d := virtiotest.New(t, newDevice(t, w, 1), memory)
	var pending []*virtiotest.Pending
	for range 200 {
		pending = append(pending, d.Post(0, nil, 2000))
	}
	for range flushEvery {
		w.toGuest[0] <- append(header(vnethdr.Header{}), 1)
	}
	if lens, _ := answers(pending[:flushEvery]); lens[flushEvery-1] != 13 {
		t.Fatal(lens)
	}
}

// TestReceiveMTU: what is larger than the MTU comes only to be segmented (5.1.4.1).
func TestReceiveMTU(t *testing.T) {
	w := newWire()
	dev := newDevice(t, w, 1)
	d := virtiotest.New(t, dev, memory)
	p := d.Post(0, nil, 4000)
	w.toGuest[0] <- append(header(vnethdr.Header{}), pattern(1519)...)
	w.toGuest[0] <- append(header(vnethdr.Header{Flags: 1, GSO: vnethdr.GSOTCPv6, GSOSize: 100}), pattern(1519)...)
	if u := p.Wait(); u.Len != 1531 || u.Bytes()[1] != vnethdr.GSOTCPv6 || dev.Stats().ReceivedDropped != 1 {
		t.Fatalf("%d bytes, %+v", u.Len, dev.Stats())
	}
}

// TestReceiveFlags: what was not negotiated is not in the header (5.1.6.4.1).
func TestReceiveFlags(t *testing.T) {
	for _, c := range []struct {
		refuse uint64
		in     vnethdr.Header
		flags  byte
		drop   bool
	}{
		{0, vnethdr.Header{Flags: vnethdr.DataValid}, vnethdr.DataValid, false},
		{featureGuestCsum | featureGuestTSO4 | featureGuestTSO6, vnethdr.Header{Flags: vnethdr.DataValid}, 0, false},
		{featureGuestTSO4, vnethdr.Header{Flags: 1, GSO: vnethdr.GSOTCPv6, GSOSize: 100}, 1, false},
		{featureGuestTSO4, vnethdr.Header{Flags: 1, GSO: vnethdr.GSOTCPv4, GSOSize: 100}, 0, true},
		{featureGuestTSO6, vnethdr.Header{Flags: 1, GSO: vnethdr.GSOTCPv6, GSOSize: 100}, 0, true},
		{0, vnethdr.Header{Flags: 1, GSO: 3, GSOSize: 100}, 0, true},
	} {
		w := newWire()
		dev := newDevice(t, w, 1)
		d := virtiotest.NewWith(t, dev, memory, virtiotest.Options{Refuse: c.refuse})
		p := d.Post(0, nil, 1, 300)
		w.toGuest[0] <- append(header(c.in), pattern(200)...)
		if c.drop {
			w.toGuest[0] <- append(header(vnethdr.Header{}), 1)
		}
		if u := p.Wait(); u.Bytes()[0] != c.flags || (u.Len == 13) != c.drop || (dev.Stats().ReceivedDropped == 1) != c.drop {
			t.Errorf("%+v: %d bytes, flags %d, %+v", c, u.Len, u.Bytes()[0], dev.Stats())
		}
	}
}

// TestReceiveNoHeader: a buffer without room for a header breaks the protocol (5.1.6.3.1).
func TestReceiveNoHeader(t *testing.T) {
	d := virtiotest.New(t, newDevice(t, newWire(), 1), memory)
	d.Post(0, nil, 11)
	if err := d.Failure(); !strings.Contains(err.Error(), "11 bytes") {
		t.Fatal(err)
	}
}

func TestControl(t *testing.T) {
	put := func(n uint32, rest ...byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, n), rest...) }
	type step struct {
		name    string
		command []byte
		ack     byte
	}
	for _, c := range []struct {
		refuse uint64
		queue  int
		steps  []step
	}{
		{0, 6, []step{
			{"promiscuous", []byte{classRX, rxPromisc, 1}, ackOK},
			{"not promiscuous", []byte{classRX, rxPromisc, 0}, ackOK},
			{"all multicast", []byte{classRX, rxAllMulti, 1}, ackOK},
			{"neither on nor off", []byte{classRX, rxPromisc, 2}, ackError},
			{"no value", []byte{classRX, rxPromisc}, ackError},
			{"two values", []byte{classRX, rxAllMulti, 1, 1}, ackError},
			{"CTRL_RX_EXTRA, not offered", []byte{classRX, 2, 1}, ackError},
			{"MAC tables", append([]byte{classMAC, macTableSet}, append(put(1, 1, 2, 3, 4, 5, 6), put(2, make([]byte, 12)...)...)...), ackOK},
			{"empty MAC tables", append([]byte{classMAC, macTableSet}, append(put(0), put(0)...)...), ackOK},
			{"one MAC table", append([]byte{classMAC, macTableSet}, put(0)...), ackError},
			{"MAC tables cut", append([]byte{classMAC, macTableSet}, append(put(0), put(2, make([]byte, 11)...)...)...), ackError},
			{"MAC tables without end", append([]byte{classMAC, macTableSet}, append(put(0xffffffff), make([]byte, 100)...)...), ackError},
			{"MAC tables and more", append([]byte{classMAC, macTableSet}, append(put(0), put(0, 1)...)...), ackError},
			{"MAC address", []byte{classMAC, macAddrSet, 2, 4, 6, 8, 10, 12}, ackOK},
			{"MAC address cut", []byte{classMAC, macAddrSet, 2, 4, 6, 8, 10}, ackError},
			{"MAC address of a group", []byte{classMAC, macAddrSet, 3, 4, 6, 8, 10, 12}, ackError},
			{"3 pairs", []byte{classMQ, mqPairsSet, 3, 0}, ackOK},
			{"no pair", []byte{classMQ, mqPairsSet, 0, 0}, ackError},
			{"4 pairs of 3", []byte{classMQ, mqPairsSet, 4, 0}, ackError},
			{"0x8001 pairs", []byte{classMQ, mqPairsSet, 1, 0x80}, ackError},
			{"pairs cut", []byte{classMQ, mqPairsSet, 1}, ackError},
			{"RSS, not offered", []byte{classMQ, 1, 1, 0}, ackError},
			{"VLAN, not offered", []byte{2, 0, 1, 0}, ackError},
			{"announce, not offered", []byte{3, 0}, ackError},
			{"guest offloads, not offered", append([]byte{5, 0}, make([]byte, 8)...), ackError},
			{"an unknown class", []byte{200, 0, 0}, ackError},
			{"half a command", []byte{classRX}, ackError},
			{"a large command", make([]byte, maxControl+1), ackError},
		}},
		{featureMQ | featureCtrlRX | featureCtrlMAC, 2, []step{ // then it is queue 2 (5.1.2)
			{"RX, not accepted", []byte{classRX, rxPromisc, 1}, ackError},
			{"MAC tables, not accepted", append([]byte{classMAC, macTableSet}, append(put(0), put(0)...)...), ackError},
			{"MAC address, not accepted", []byte{classMAC, macAddrSet, 2, 4, 6, 8, 10, 12}, ackError},
			{"pairs, not accepted", []byte{classMQ, mqPairsSet, 1, 0}, ackError},
		}},
	} {
		w := newWire()
		d := virtiotest.NewWith(t, newDevice(t, w, 3), memory, virtiotest.Options{Refuse: c.refuse})
		for _, s := range c.steps {
			u := d.Send(c.queue, [][]byte{s.command}, 1)
			if u.Len != 1 || u.Data[0][0] != s.ack {
				t.Errorf("%s: answer % x of %d bytes, want %d", s.name, u.Data[0], u.Len, s.ack)
			}
			if len(s.command) > 2 { // in pieces, as Linux does it
				if u := d.Send(c.queue, [][]byte{s.command[:2], s.command[2:]}, 1); u.Data[0][0] != s.ack {
					t.Errorf("%s in pieces: answer %d", s.name, u.Data[0][0])
				}
			}
		}
		if u := d.Send(c.queue, [][]byte{{classRX, 0, 0}}); u.Len != 0 {
			t.Errorf("an answer of %d bytes where there is no room", u.Len)
		}
		want := mac[:]
		if c.refuse == 0 {
			want = []byte{2, 4, 6, 8, 10, 12}
			if n := <-w.setPairs; n != 3 {
				t.Errorf("the backend was told of %d pairs", n)
			}
		}
		if got := d.Config(0, 6); !bytes.Equal(got, want) {
			t.Errorf("MAC address % x, want % x", got, want)
		}
		d.Reset()
		if got := d.Config(0, 6); !bytes.Equal(got, mac[:]) {
			t.Errorf("MAC address % x after a reset", got)
		}
	}
}

// TestPairs: only the first pair is in use until the driver says otherwise (5.1.6.5.6).
func TestPairs(t *testing.T) {
	w := newWire()
	dev := newDevice(t, w, 4)
	d := virtiotest.New(t, dev, memory)
	send := func(pair int) {
		d.Send(2*pair+1, [][]byte{header(vnethdr.Header{}), {0: byte(pair), 20: 1}})
	}
	send(2)
	if s := dev.Stats(); s.SentDropped != 1 {
		t.Fatalf("%+v", s)
	}
	set := func(n byte) {
		if u := d.Send(8, [][]byte{{classMQ, mqPairsSet}, {n, 0}}, 1); u.Data[0][0] != ackOK {
			t.Fatal("refused")
		}
	}
	set(4)
	for pair := range 4 {
		p := d.Post(2*pair, nil, 200)
		send(pair)
		if got := w.receive(t); got.pair != pair || got.bytes[vnethdr.Size] != byte(pair) {
			t.Fatalf("pair %d: % x on pair %d", pair, got.bytes, got.pair)
		}
		w.toGuest[pair] <- append(header(vnethdr.Header{}), byte(pair))
		if u := p.Wait(); u.Len != 13 || u.Bytes()[12] != byte(pair) {
			t.Fatalf("pair %d: % x", pair, u.Bytes())
		}
	}
	set(2)
	send(2)
	d.Post(4, nil, 200)
	w.toGuest[2] <- append(header(vnethdr.Header{}), 1)
	for dev.Stats().ReceivedDropped == 0 {
		runtime.Gosched()
	}
	if s := dev.Stats(); s.SentDropped != 2 || s.Sent != 4 || s.Received != 4 {
		t.Fatalf("%+v", s)
	}
}

// TestReset: a device stops at any time, and starts again.
func TestReset(t *testing.T) {
	w := newWire()
	dev := newDevice(t, w, 2)
	d := virtiotest.New(t, dev, memory)
	for i := range 20 {
		for range i {
			d.Post(0, nil, 2000)
		}
		w.toGuest[0] <- append(header(vnethdr.Header{}), pattern(1500)...)
		d.Send(1, [][]byte{header(vnethdr.Header{}), pattern(60)})
		w.receive(t)
		d.Reset()
		for len(w.toGuest[0]) > 0 {
			<-w.toGuest[0]
		}
		d.Start()
	}
}

// TestLost: a backend that is gone takes the link down and nothing else.
func TestLost(t *testing.T) {
	gone := errors.New("unplugged")
	for _, by := range []string{"receive", "transmit"} {
		w := newWire()
		told := make(chan error, 10)
		dev, err := New(Config{MAC: mac, Lost: func(err error) { told <- err }}, w)
		if err != nil {
			t.Fatal(err)
		}
		d := virtiotest.New(t, dev, memory)
		if by == "receive" {
			d.Post(0, nil, 2000)
			w.die <- gone
		} else {
			w.lost.Store(&gone)
			d.Send(1, [][]byte{header(vnethdr.Header{}), pattern(60)})
		}
		d.WaitConfig()
		if err := <-told; err != gone {
			t.Errorf("%s: told %v", by, err)
		}
		if got := d.Config(6, 2); got[0]&linkUp != 0 {
			t.Errorf("%s: link status %#x", by, got)
		}
		d.Send(1, [][]byte{header(vnethdr.Header{}), pattern(60)})
		if d.Instance.Status()&virtio.StatusNeedsReset != 0 || len(told) != 0 || len(w.fromGuest) != 0 {
			t.Errorf("%s: status %#x, told %d times more, %d frames", by, d.Instance.Status(), len(told), len(w.fromGuest))
		}
		d.Reset()
		d.Start()
		if got := d.Config(6, 2); got[0]&linkUp != 0 {
			t.Errorf("%s: link status %#x after a reset", by, got)
		}
	}
}
