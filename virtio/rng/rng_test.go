package rng

import (
	"bytes"
	"errors"
	"flag"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

var stress = flag.Int("stress", 100_000, "operations of the stress tests")

func newDevice(t testing.TB, config Config) *Device {
	t.Helper()
	d, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// One random byte at least is in every answer, none behind its length, and no two are the same.
func TestRandom(t *testing.T) {
	kvmtest.NoLeaks(t)
	drv := virtiotest.New(t, newDevice(t, Config{}), 4*memmap.MiB)
	seen := map[string]bool{}
	for _, sizes := range [][]int{{16}, {16, 16, 33}, {1}, {4096}, {7, 64}, {16}} {
		u := drv.Send(0, nil, sizes...)
		total := 0
		for _, n := range sizes {
			total += n
		}
		if int(u.Len) != total {
			t.Errorf("%d bytes of %d", u.Len, total)
		}
		b := u.Bytes()
		if total >= 16 && (seen[string(b[:16])] || bytes.Equal(b[:16], make([]byte, 16)) || bytes.Equal(b[len(b)-7:], make([]byte, 7))) {
			t.Errorf("bytes %x are not random", b)
		}
		seen[string(b[:min(16, len(b))])] = true
	}
}

// The guest gets the burst at once, and no more than the rate afterwards; what it asks for beyond is a shorter answer.
func TestRate(t *testing.T) {
	kvmtest.NoLeaks(t)
	d := newDevice(t, Config{Rate: 1000, Burst: 100})
	drv := virtiotest.New(t, d, 4*memmap.MiB)
	begin := time.Now()
	u := drv.Send(0, nil, 4096)
	if u.Len < 1 || float64(u.Len) > 100+1000*time.Since(begin).Seconds() {
		t.Errorf("%d bytes at once", u.Len)
	}
	if rest := u.Data[0][u.Len:]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Error("bytes behind the answer's end are written")
	}
	got := float64(u.Len)
	for range 20 {
		u := drv.Send(0, nil, 4096)
		if u.Len == 0 {
			t.Fatal("an answer without a byte")
		}
		got += float64(u.Len)
	}
	// Elapsed is measured after the last byte was taken.
	if most := 100 + 1000*time.Since(begin).Seconds() + 1; got > most {
		t.Errorf("%v bytes, at most %v are due", got, most)
	}
	// A guest that has used up its bytes does not hold up a reset.
	slow := virtiotest.New(t, newDevice(t, Config{Rate: 1, Burst: 1}), 4*memmap.MiB)
	slow.Send(0, nil, 1)
	slow.Post(0, nil, 1)
	slow.Reset()
	if _, err := New(Config{Rate: -1}); err == nil {
		t.Error("a negative rate is taken")
	}
}

func TestProtocol(t *testing.T) {
	kvmtest.NoLeaks(t)
	for name, post := range map[string]func(drv *virtiotest.Driver){
		"readable buffer": func(drv *virtiotest.Driver) { drv.Post(0, [][]byte{{1}}, 8) },
		"only readable":   func(drv *virtiotest.Driver) { drv.Post(0, [][]byte{{1}}) },
		"empty buffer":    func(drv *virtiotest.Driver) { drv.Post(0, nil, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			drv := virtiotest.New(t, newDevice(t, Config{}), 4*memmap.MiB)
			post(drv)
			if err := drv.Failure(); !errors.Is(err, virtio.ErrProtocol) {
				t.Error(err)
			}
			drv.Reset()
			drv.Start()
			drv.Send(0, nil, 8)
		})
	}
}

func TestStressRNG(t *testing.T) {
	kvmtest.NoLeaks(t)
	count := virtiotest.Nonsense{}.Run(t, newDevice(t, Config{Rate: 1 << 30, Burst: 1 << 30}), 1, *stress)
	t.Log(count)
	if count.Answers == 0 || count.Failures == 0 || count.Starts < 2 {
		t.Errorf("%v: too little of it", count)
	}
}

func FuzzRNG(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add(bytes.Repeat([]byte("\x80\x17\x55\xaa\x3c"), 50))
	f.Fuzz(func(t *testing.T, data []byte) {
		virtiotest.Nonsense{}.Script(t, newDevice(t, Config{}), data)
	})
}
