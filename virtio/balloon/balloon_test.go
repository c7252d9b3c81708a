package balloon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

const size = 8 * memmap.MiB

// pages is a request of page frames.
func pages(frames ...uint32) [][]byte {
	var b []byte
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, f)
	}
	return [][]byte{b}
}

// fill writes to n pages from first on, and holds says which of them still have what was written.
func fill(t *testing.T, mem *memmap.Memory, first, n uint64) {
	t.Helper()
	if err := mem.Write(first*PageSize, bytes.Repeat([]byte{0xab}, int(n*PageSize))); err != nil {
		t.Fatal(err)
	}
}

func wantPages(t *testing.T, mem *memmap.Memory, first uint64, want ...bool) {
	t.Helper()
	for i, w := range want {
		v, err := mem.View((first+uint64(i))*PageSize, PageSize)
		if err != nil {
			t.Fatal(err)
		}
		b := byte(0)
		if w {
			b = 0xab
		}
		if !bytes.Equal(v, bytes.Repeat([]byte{b}, PageSize)) {
			t.Errorf("page %#x: kept %v, want %v", first+uint64(i), !w, w)
		}
	}
}

func TestInflate(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{})
	drv := virtiotest.New(t, d, size)
	fill(t, drv.Memory, 1024, 8)
	before, err := drv.Memory.Touched()
	if err != nil {
		t.Fatal(err)
	}
	if u := drv.Send(queueInflate, append(pages(1024, 1025, 1027), pages(1030)...)); u.Len != 0 {
		t.Errorf("%d bytes are said to be written", u.Len)
	}
	wantPages(t, drv.Memory, 1024, false, false, true, false, true, true, false, true)
	// wantPages has touched some, reading.
	if s := d.Sizes(); s.Inflated != 4*PageSize {
		t.Errorf("%+v", s)
	}
	drv.Send(queueInflate, pages(1029))
	if after, err := drv.Memory.Touched(); err != nil || after >= before {
		t.Errorf("%d bytes were touched, and now %d: %v", before, after, err)
	}
	drv.Send(queueDeflate, pages(1024, 1025, 1027))
	if s := d.Sizes(); s.Deflated != 3*PageSize || s.Inflated != 5*PageSize {
		t.Errorf("%+v", s)
	}
	fill(t, drv.Memory, 1024, 8)
	wantPages(t, drv.Memory, 1024, true, true, true, true, true, true, true, true)
	// A list that is longer than what is read of it at a time.
	var all []uint32
	for f := range uint32(700) {
		all = append(all, 1024+f)
	}
	fill(t, drv.Memory, 1024, 701)
	drv.Send(queueInflate, [][]byte{pages(all...)[0][:10], pages(all...)[0][10:]})
	wantPages(t, drv.Memory, 1024+698, false, false, true)
}

func TestTarget(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{DeflateOnOOM: true})
	if d.Features()&featureDeflateOnOOM == 0 || New(Config{}).Features()&featureDeflateOnOOM != 0 {
		t.Error("DEFLATE_ON_OOM is not as configured")
	}
	if err := d.SetTarget(memmap.MiB); err != nil { // before the driver runs
		t.Fatal(err)
	}
	drv := virtiotest.New(t, d, size)
	numPages := func() uint32 { return binary.LittleEndian.Uint32(drv.Config(0, 4)) }
	if got := numPages(); got != 256 {
		t.Errorf("num_pages is %d", got)
	}
	before := drv.Instance.Generation()
	if err := d.SetTarget(2 * memmap.MiB); err != nil {
		t.Fatal(err)
	}
	drv.WaitConfig()
	if got := numPages(); got != 512 || drv.Instance.Generation() == before {
		t.Errorf("num_pages is %d, generation %d", got, drv.Instance.Generation())
	}
	for _, bad := range []uint64{1, PageSize + 1, size + PageSize, 1 << 44, 1<<64 - PageSize} {
		if err := d.SetTarget(bad); err == nil {
			t.Errorf("a balloon of %d bytes is taken", bad)
		}
	}
	drv.Instance.WriteConfig(4, []byte{0, 1, 0, 0})
	drv.Instance.WriteConfig(0, []byte{9, 9, 9, 9}) // read-only
	drv.Instance.WriteConfig(5, []byte{9})
	if s := d.Sizes(); s.Target != 2*memmap.MiB || s.Actual != 256*PageSize || !bytes.Equal(drv.Config(4, 8), []byte{0, 1, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("%+v, configuration %x", s, drv.Config(0, 12))
	}
	// A driver that starts anew has given nothing.
	drv.Reset()
	drv.Start()
	if s := d.Sizes(); s.Actual != 0 || s.Target != 2*memmap.MiB {
		t.Errorf("%+v", s)
	}
}

// stat is an entry of a statistics buffer.
func stat(tag uint16, value uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), value)
}

func TestStatistics(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{})
	if _, err := d.Refresh(t.Context()); !errors.Is(err, ErrNoStatistics) {
		t.Errorf("without a driver: %v", err)
	}
	drv := virtiotest.New(t, d, size)
	if s := d.Statistics(); !s.Time.IsZero() || len(s.Values) != 0 {
		t.Errorf("before there are any: %+v", s)
	}
	held := drv.Post(queueStats, [][]byte{{}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a guest that does not answer: %v", err)
	}
	<-held.Done()
	// Any order, unknown tags and half an entry: the last word counts.
	held = drv.Post(queueStats, [][]byte{stat(5, 1000), stat(99, 1), stat(4, 77), stat(0xffff, 2), {1, 2, 3}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for free := uint64(78); free < 80; free++ {
			<-held.Done()
			held = drv.Post(queueStats, [][]byte{stat(4, free), stat(5, 1000), stat(0, 5)})
		}
	}()
	// The first of these may meet the answer to the one that was given up.
	var s Statistics
	for s.Values["free_bytes"] < 78 {
		var err error
		if s, err = d.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := (map[string]uint64{"free_bytes": s.Values["free_bytes"], "total_bytes": 1000, "swap_in_bytes": 5}); !maps.Equal(s.Values, want) {
		t.Errorf("%v, want %v", s.Values, want)
	}
	newer, err := d.Refresh(t.Context())
	if err != nil || newer.Values["free_bytes"] != s.Values["free_bytes"]+1 || newer.Time.Before(s.Time) {
		t.Errorf("%+v after %+v: %v", newer, s, err)
	}
	<-done
	// The copy is the caller's.
	newer.Values["free_bytes"] = 0
	if got := d.Statistics().Values["free_bytes"]; got != 79 {
		t.Errorf("free_bytes is %d", got)
	}
}

// The reporting queue has the number of the specification, or one of a driver that leaves no gaps.
func TestReporting(t *testing.T) {
	kvmtest.NoLeaks(t)
	for name, tt := range map[string]struct {
		queue int
		opts  virtiotest.Options
	}{
		"specification":           {queueReport, virtiotest.Options{}},
		"no gap":                  {queueHint, virtiotest.Options{Skip: []int{queueReport}}},
		"no gap, no statistics":   {queueStats, virtiotest.Options{Skip: []int{queueReport, queueHint}, Refuse: featureStats}},
		"statistics not accepted": {queueReport, virtiotest.Options{Skip: []int{queueHint, queueStats}, Refuse: featureStats}},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(Config{})
			drv := virtiotest.NewWith(t, d, size, tt.opts)
			before, err := drv.Memory.Touched()
			if err != nil {
				t.Fatal(err)
			}
			// The driver writes to its buffers before it posts them.
			p := drv.Post(tt.queue, nil, 64<<10, 3*PageSize)
			<-p.Done()
			if after, err := drv.Memory.Touched(); err != nil || after > before+6*PageSize {
				t.Errorf("%d bytes were touched, and now %d: %v", before, after, err)
			}
			u := p.Wait()
			if want := uint64(64<<10 + 3*PageSize); u.Len != 0 || d.Sizes().Reported != want {
				t.Errorf("%d bytes written, %+v", u.Len, d.Sizes())
			}
		})
	}
	d := New(Config{})
	drv := virtiotest.NewWith(t, d, size, virtiotest.Options{Refuse: featureReporting})
	p := drv.Post(queueReport, nil, 8192)
	drv.Send(queueDeflate, pages(1))
	select {
	case <-p.Done():
		t.Error("a report is taken although the feature was not accepted")
	default:
	}
}

func TestAddress(t *testing.T) {
	mem, err := memmap.New(size)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	fill(t, mem, 100, 4)
	for _, tt := range []struct{ gpa, n uint64 }{{0, 1}, {100*PageSize + 5, 10}, {size - 1, 1}} {
		v, err := mem.View(tt.gpa, tt.n)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := address(mem, v); err != nil || got != tt.gpa {
			t.Errorf("address of the view at %#x: %#x, %v", tt.gpa, got, err)
		}
	}
	if gpa, err := address(mem, make([]byte, 1)); err == nil {
		t.Errorf("memory of this process is at guest address %#x", gpa)
	}
}

func TestProtocol(t *testing.T) {
	kvmtest.NoLeaks(t)
	for name, post := range map[string]func(drv *virtiotest.Driver){
		"page behind memory":         func(drv *virtiotest.Driver) { drv.Post(queueInflate, pages(1024, size/PageSize)) },
		"last page of all":           func(drv *virtiotest.Driver) { drv.Post(queueInflate, pages(1<<32-1)) },
		"deflated page behind":       func(drv *virtiotest.Driver) { drv.Post(queueDeflate, pages(size/PageSize)) },
		"half a page number":         func(drv *virtiotest.Driver) { drv.Post(queueInflate, [][]byte{{1, 2, 3, 4, 5, 6}}) },
		"writable inflate buffer":    func(drv *virtiotest.Driver) { drv.Post(queueInflate, pages(1), 8) },
		"readable report":            func(drv *virtiotest.Driver) { drv.Post(queueReport, pages(1), 8192) },
		"writable statistics buffer": func(drv *virtiotest.Driver) { drv.Post(queueStats, nil, 100) },
	} {
		t.Run(name, func(t *testing.T) {
			drv := virtiotest.New(t, New(Config{}), size)
			post(drv)
			if err := drv.Failure(); !errors.Is(err, virtio.ErrProtocol) {
				t.Error(err)
			}
			drv.Reset()
			drv.Start()
			drv.Send(queueInflate, pages(1024))
		})
	}
}

func TestStressBalloon(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := New(Config{DeflateOnOOM: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := uint64(0); ctx.Err() == nil; i++ {
			wait, cancel := context.WithTimeout(ctx, time.Millisecond)
			d.Refresh(wait)
			cancel()
			d.SetTarget(i % 1000 * PageSize)
		}
	}()
	count := virtiotest.Nonsense{Fill: func(r *rand.Rand, queue, _ int, p []byte) {
		// Frames behind the rings mostly, so that the driver finds what it wrote.
		for ; len(p) >= 4 && queue != queueStats; p = p[4:] {
			binary.LittleEndian.PutUint32(p, 64+uint32(r.IntN(190))+uint32(r.IntN(2000)/1999)*r.Uint32())
		}
	}}.Run(t, d, 1, *stress)
	cancel()
	<-done
	t.Logf("%v; %+v", count, d.Sizes())
	if s := d.Sizes(); count.Answers == 0 || count.Failures == 0 || count.Starts < 2 || s.Inflated == 0 || s.Reported == 0 {
		t.Errorf("%v, %+v: too little of it", count, s)
	}
	if n := len(d.Statistics().Values); n > len(statNames) {
		t.Errorf("%d statistics", n)
	}
}

func FuzzBalloon(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Fuzz(func(t *testing.T, data []byte) {
		virtiotest.Nonsense{}.Script(t, New(Config{}), data)
	})
}
