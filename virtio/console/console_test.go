package console

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

// wire collects what is written, or holds it up.
type wire struct {
	mu   sync.Mutex
	cond sync.Cond
	got  []byte
	held bool
}

func newWire() *wire {
	w := &wire{}
	w.cond.L = &w.mu
	return w
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.held {
		w.cond.Wait()
	}
	w.got = append(w.got, p...)
	w.cond.Broadcast()
	return len(p), nil
}

func (w *wire) hold(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = held
	w.cond.Broadcast()
}

// want waits for as many bytes as want has.
func (w *wire) want(t *testing.T, want []byte) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.got) < len(want) {
		w.cond.Wait()
	}
	if !bytes.Equal(w.got, want) {
		t.Errorf("%d bytes are not the %d written", len(w.got), len(want))
	}
	w.got = nil
}

func TestOutput(t *testing.T) {
	kvmtest.NoLeaks(t)
	w := newWire()
	drv := virtiotest.New(t, New(Config{Output: w}), 4*memmap.MiB)
	if u := drv.Send(queueTransmit, [][]byte{[]byte("hello, "), []byte("world\n")}); u.Len != 0 {
		t.Errorf("%d bytes are said to be written to a buffer of the driver", u.Len)
	}
	w.want(t, []byte("hello, world\n"))

	// A writer that blocks makes the guest wait; nothing is lost.
	w.hold(true)
	var all []byte
	var pending []*virtiotest.Pending
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		b := bytes.Repeat([]byte{byte(i)}, 1+r.IntN(10_000))
		all = append(all, b...)
		pending = append(pending, drv.Post(queueTransmit, [][]byte{b}))
	}
	if len(all) < 3*maxWaiting {
		t.Fatal("too little output for this test")
	}
	select {
	case <-pending[len(pending)-1].Done():
		t.Error("all of the output is taken by a writer that blocks")
	default:
	}
	w.hold(false)
	for _, p := range pending {
		p.Wait()
	}
	w.want(t, all)

	// Nor does it hold up a reset. What was taken before is written; what was not is not the device's any more.
	w.hold(true)
	for range 20 {
		drv.Post(queueTransmit, [][]byte{make([]byte, 10_000)})
	}
	drv.Reset()
	w.hold(false)
	drv.Start()
	drv.Send(queueTransmit, [][]byte{[]byte("again")})
	w.mu.Lock()
	for !bytes.HasSuffix(w.got, []byte("again")) {
		w.cond.Wait()
	}
	if len(w.got) > 2*maxWaiting+20_000 {
		t.Errorf("%d bytes had waited", len(w.got))
	}
	w.mu.Unlock()
}

func TestInput(t *testing.T) {
	kvmtest.NoLeaks(t)
	r, w := io.Pipe()
	defer w.Close()
	drv := virtiotest.New(t, New(Config{Input: r}), 4*memmap.MiB)
	// The reader is read only when there is room: this Write waits until the driver has given a buffer.
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		io.WriteString(w, "0123456789")
	}()
	got := ""
	for _, n := range []int{4, 1, 100} {
		u := drv.Send(queueReceive, nil, n)
		got += string(u.Bytes())
	}
	<-wrote
	if got != "0123456789" {
		t.Errorf("input %q", got)
	}
	// Many chunks, to buffers of several parts.
	want := strings.Repeat("the quick brown fox ", 3000)
	go io.WriteString(w, want)
	var all []byte
	for len(all) < len(want) {
		all = append(all, drv.Send(queueReceive, nil, 1, 50, 1000).Bytes()...)
	}
	if string(all) != want {
		t.Error("the input is not what was written")
	}
	// A Read on its way does not hold up a reset, and what it brings is not lost.
	drv.Post(queueReceive, nil, 10)
	drv.Reset()
	drv.Start()
	go io.WriteString(w, "kept")
	if got := string(drv.Send(queueReceive, nil, 10).Bytes()); got != "kept" {
		t.Errorf("input %q", got)
	}
	// After the end there is no input, and the console goes on.
	w.Close()
	drv.Post(queueReceive, nil, 10)
	drv.Send(queueTransmit, [][]byte{[]byte("still here")})
}

func TestSize(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{Cols: 80, Rows: 25})
	d.Resize(81, 25) // not started
	drv := virtiotest.New(t, d, 4*memmap.MiB)
	check := func(cols, rows uint16) {
		t.Helper()
		b := drv.Config(0, 12)
		if c, r := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]); c != cols || r != rows || !bytes.Equal(b[4:], make([]byte, 8)) {
			t.Errorf("configuration %x, want %d x %d", b, cols, rows)
		}
	}
	check(81, 25)
	drv.WaitConfig() // a driver that waits for changes hears of the first size too
	before := drv.Instance.Generation()
	d.Resize(200, 50)
	drv.WaitConfig()
	check(200, 50)
	if drv.Instance.Generation() == before {
		t.Error("the generation stays")
	}
	before = drv.Instance.Generation()
	d.Resize(200, 50)
	if drv.Instance.Generation() != before {
		t.Error("the same size is a change")
	}
	drv.Instance.WriteConfig(0, []byte{1, 1})
	check(200, 50)
}

func TestProtocol(t *testing.T) {
	kvmtest.NoLeaks(t)
	for name, post := range map[string]func(drv *virtiotest.Driver){
		"readable input buffer":  func(drv *virtiotest.Driver) { drv.Post(queueReceive, [][]byte{{1}}, 8) },
		"empty input buffer":     func(drv *virtiotest.Driver) { drv.Post(queueReceive, nil, 0) },
		"writable output buffer": func(drv *virtiotest.Driver) { drv.Post(queueTransmit, [][]byte{{1}}, 8) },
	} {
		t.Run(name, func(t *testing.T) {
			drv := virtiotest.New(t, New(Config{}), 4*memmap.MiB)
			post(drv)
			if err := drv.Failure(); !errors.Is(err, virtio.ErrProtocol) {
				t.Error(err)
			}
			drv.Reset()
			drv.Start()
			drv.Send(queueTransmit, [][]byte{{1}})
		})
	}
}

// chatter is an endless Reader.
type chatter struct{}

func (chatter) Read(p []byte) (int, error) { return copy(p, "chatter"), nil }

func TestStressConsole(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{Output: io.Discard, Input: chatter{}})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := uint16(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				d.Resize(i, i)
				runtime.Gosched()
			}
		}
	}()
	count := virtiotest.Nonsense{}.Run(t, d, 1, *stress)
	close(stop)
	<-done
	t.Log(count)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 {
		t.Errorf("%v: too little of it", count)
	}
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	if n := cap(d.out.buf); n > 2*maxWaiting {
		t.Errorf("%d bytes wait to be written", n)
	}
}

// TestFlush: the last words of a guest are with the writer when Flush returns, and a writer that blocks holds up nobody who need not wait.
func TestFlush(t *testing.T) {
	kvmtest.NoLeaks(t)
	w := newWire()
	dev := New(Config{Output: w})
	if err := dev.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	w.hold(true)
	d := virtiotest.New(t, dev, 1<<20)
	d.Send(queueTransmit, [][]byte{[]byte("last words")})
	d.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	if err := dev.Flush(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a blocked writer: %v", err)
	}
	w.hold(false)
	if err := dev.Flush(t.Context()); err != nil || string(w.got) != "last words" {
		t.Errorf("%q, %v", w.got, err)
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Fuzz(func(t *testing.T, data []byte) {
		virtiotest.Nonsense{}.Script(t, New(Config{Output: io.Discard, Input: strings.NewReader("input")}), data)
	})
}
