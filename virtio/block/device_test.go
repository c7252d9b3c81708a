package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

const sector = blockdev.SectorSize

// TestConfigSpace holds the configuration against the offsets of the specification.
func TestConfigSpace(t *testing.T) {
	r := newRig(t, Config{Disk: newMemDisk(100 * sector), Queues: 3, QueueSize: 64}, virtiotest.Options{})
	le := binary.LittleEndian
	c := r.Config(0, 64)
	for name, v := range map[string][2]uint64{
		"capacity":                 {le.Uint64(c), 100},
		"size_max":                 {uint64(le.Uint32(c[8:])), sizeMax},
		"seg_max":                  {uint64(le.Uint32(c[12:])), 62},
		"geometry":                 {uint64(le.Uint32(c[16:])), 0},
		"blk_size":                 {uint64(le.Uint32(c[20:])), 512},
		"physical_block_exp":       {uint64(c[24]), 3},
		"alignment_offset":         {uint64(c[25]), 0},
		"min_io_size":              {uint64(le.Uint16(c[26:])), 8},
		"opt_io_size":              {uint64(le.Uint32(c[28:])), 0},
		"writeback":                {uint64(c[32]), 1},
		"unused0":                  {uint64(c[33]), 0},
		"num_queues":               {uint64(le.Uint16(c[34:])), 3},
		"max_discard_sectors":      {uint64(le.Uint32(c[36:])), maxDiscardSectors},
		"max_discard_seg":          {uint64(le.Uint32(c[40:])), maxSegments},
		"discard_sector_alignment": {uint64(le.Uint32(c[44:])), 8},
		"max_write_zeroes_sectors": {uint64(le.Uint32(c[48:])), maxZeroSectors},
		"max_write_zeroes_seg":     {uint64(le.Uint32(c[52:])), maxSegments},
		"write_zeroes_may_unmap":   {uint64(c[56]), 1},
		"unused1":                  {uint64(le.Uint32(c[56:]) >> 8), 0},
		"behind":                   {uint64(le.Uint32(c[60:])), 0},
	} {
		if v[0] != v[1] {
			t.Errorf("%s is %d, want %d", name, v[0], v[1])
		}
	}
	for off := range uint64(70) {
		r.Instance.WriteConfig(off, []byte{255})
	}
	r.Instance.WriteConfig(1<<63, []byte{255})
	if got := r.Config(0, 64); !bytes.Equal(got, c) {
		t.Errorf("writes changed the configuration from %v to %v", c, got)
	}
	for off := range uint64(64) {
		for n := range 9 {
			if got := r.Config(off, n); !bytes.Equal(got, append(c, make([]byte, 16)...)[off:][:n]) {
				t.Fatalf("%d bytes at %d: %v", n, off, got)
			}
		}
	}
	if got := r.Config(1<<64-4, 8); !bytes.Equal(got, make([]byte, 8)) {
		t.Errorf("behind the end: %v", got)
	}
}

func TestConfigRefused(t *testing.T) {
	disk := newMemDisk(9 * sector)
	for name, c := range map[string]Config{
		"no disk":        {},
		"queues":         {Disk: disk, Queues: MaxQueues + 1},
		"negative":       {Disk: disk, Queues: -1},
		"queue size":     {Disk: disk, QueueSize: 100},
		"small queue":    {Disk: disk, QueueSize: 2},
		"block size":     {Disk: disk, BlockSize: 1024},
		"half a block":   {Disk: disk, BlockSize: 4096},
		"long serial":    {Disk: disk, Serial: strings.Repeat("x", 21)},
		"serial's bytes": {Disk: disk, Serial: "a\nb"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestFeatures says what is offered for which disk.
func TestFeatures(t *testing.T) {
	const always = FeatureSizeMax | FeatureSegMax | FeatureBlkSize | FeatureTopology
	ro, volatile := newMemDisk(sector), newMemDisk(sector)
	ro.readOnly, volatile.volatile = true, true
	for name, c := range map[string]struct {
		cfg  Config
		want uint64
	}{
		"plain":     {Config{Disk: newMemDisk(sector)}, always | FeatureFlush | FeatureConfigWCE | FeatureDiscard | FeatureWriteZeroes},
		"queues":    {Config{Disk: newMemDisk(sector), Queues: 2}, always | FeatureMQ | FeatureFlush | FeatureConfigWCE | FeatureDiscard | FeatureWriteZeroes},
		"read-only": {Config{Disk: ro}, always | FeatureRO | FeatureFlush},
		"volatile":  {Config{Disk: volatile}, always | FeatureDiscard | FeatureWriteZeroes},
	} {
		if got := newDevice(t, c.cfg).Features(); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}

// TestReadWrite moves data on real files, in chains of every shape: the device must not care for the framing (virtio 1.2, 2.7.4.1).
func TestReadWrite(t *testing.T) {
	kvmtest.NoLeaks(t)
	for name, s := range map[string]blockdev.Spec{
		"raw": {Format: blockdev.Raw}, "throwaway": {Throwaway: true, Dir: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			content := noise(2, 64*sector)
			r := newRig(t, Config{Disk: openDisk(t, content, s)}, virtiotest.Options{})
			if got := r.want(statusOK, typeIn, 0, nil, len(content)); !bytes.Equal(got, content) {
				t.Error("the disk reads as something else")
			}
			fresh := noise(3, 8*sector)
			h := header(typeOut, 5)
			for i, parts := range [][][]byte{
				{append(bytes.Clone(h), fresh...)},
				{h[:1], h[1:9], h[9:], fresh[:1], fresh[1:700], fresh[700:]},
				{h[:15], append([]byte{h[15]}, fresh[:511]...), fresh[511:]},
			} {
				r.want(statusOK, typeOut, 5, make([]byte, 8*sector), 0)
				if st, _, used := result(r.Send(0, parts, 1)); st != statusOK || used != 1 {
					t.Errorf("write %d: status %d, %d bytes used", i, st, used)
				}
				for _, sizes := range [][]int{{8*sector + 1}, {1, 4095, 1}, {4095, 1, 1}, {100, 200, 4096 - 300, 1}} {
					st, got, used := result(r.Send(0, [][]byte{header(typeIn, 5)}, sizes...))
					if st != statusOK || used != 8*sector+1 || !bytes.Equal(got, fresh) {
						t.Errorf("write %d, read %v: status %d, %d bytes used, right: %v", i, sizes, st, used, bytes.Equal(got, fresh))
					}
				}
			}
			copy(content[5*sector:], fresh)
			if got := r.want(statusOK, typeIn, 0, nil, len(content)); !bytes.Equal(got, content) {
				t.Error("another part of the disk changed")
			}
			r.want(statusOK, typeIn, 64, nil, 0) // nothing, at the end
			r.want(statusOK, typeFlush, 0, nil, 0)
			if s := r.dev.Stats(); s.Reads != 15 || s.Writes != 6 || s.WrittenBytes != 48*sector || s.Flushes != 1 || s.Errors+s.Refused != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRefused sends what no driver may send: an answer, and the disk stays as it is.
func TestRefused(t *testing.T) {
	const size = 64
	disk := newMemDisk(size * sector)
	r := newRig(t, Config{Disk: disk}, virtiotest.Options{})
	before, _ := disk.content()
	data := func(n int) []byte { return noise(4, n) }
	many := bytes.Repeat(segment(0, 1, 0), maxSegments+1)
	for name, c := range map[string]struct {
		status byte
		kind   uint32
		sector uint64
		data   []byte
		in     int
	}{
		"read at the end":               {statusIOErr, typeIn, size, nil, sector},
		"read over the end":             {statusIOErr, typeIn, size - 1, nil, 2 * sector},
		"read far away":                 {statusIOErr, typeIn, 1 << 55, nil, sector},
		"read at 2^64":                  {statusIOErr, typeIn, 1<<64 - 1, nil, sector},
		"read of half a sector":         {statusIOErr, typeIn, 0, nil, sector / 2},
		"read of a sector and a byte":   {statusIOErr, typeIn, 0, nil, sector + 1},
		"read with data":                {statusIOErr, typeIn, 0, data(sector), sector},
		"write at the end":              {statusIOErr, typeOut, size, data(sector), 0},
		"write over the end":            {statusIOErr, typeOut, size - 1, data(2 * sector), 0},
		"write at 2^55":                 {statusIOErr, typeOut, 1 << 55, data(sector), 0},
		"write at 2^64":                 {statusIOErr, typeOut, 1<<64 - 1, data(sector), 0},
		"write of 100 bytes":            {statusIOErr, typeOut, 0, data(100), 0},
		"write with room for data":      {statusIOErr, typeOut, 0, data(sector), sector},
		"flush with room for data":      {statusIOErr, typeFlush, 0, nil, 20},
		"ID of 19 bytes":                {statusIOErr, typeGetID, 0, nil, 19},
		"ID of 21 bytes":                {statusIOErr, typeGetID, 0, nil, 21},
		"ID of nothing":                 {statusIOErr, typeGetID, 0, nil, 0},
		"discard of nothing":            {statusIOErr, typeDiscard, 0, nil, 0},
		"discard of half a segment":     {statusIOErr, typeDiscard, 0, data(8), 0},
		"discard of a segment and more": {statusIOErr, typeDiscard, 0, append(segment(0, 1, 0), 1), 0},
		"discard of many segments":      {statusIOErr, typeDiscard, 0, many, 0},
		"discard over the end":          {statusIOErr, typeDiscard, 0, segment(size-1, 2, 0), 0},
		"discard far away":              {statusIOErr, typeDiscard, 0, segment(1<<55, 1, 0), 0},
		"discard at 2^64":               {statusIOErr, typeDiscard, 0, segment(1<<64-1, 2, 0), 0},
		"discard, second is outside":    {statusIOErr, typeDiscard, 0, append(segment(0, 1, 0), segment(size, 1, 0)...), 0},
		"discard with unmap":            {statusUnsupp, typeDiscard, 0, segment(0, 1, flagUnmap), 0},
		"discard with unknown flag":     {statusUnsupp, typeDiscard, 0, segment(0, 1, 2), 0},
		"discard with highest flag":     {statusUnsupp, typeDiscard, 0, segment(0, 1, 1<<31), 0},
		"zeroes over the end":           {statusIOErr, typeWriteZeroes, 0, segment(size-1, 2, 0), 0},
		"zeroes of too much":            {statusIOErr, typeWriteZeroes, 0, segment(0, maxZeroSectors+1, 0), 0},
		"zeroes with unknown flag":      {statusUnsupp, typeWriteZeroes, 0, segment(0, 1, 2), 0},
		"zeroes, all flags":             {statusUnsupp, typeWriteZeroes, 0, segment(0, 1, 1<<32-1), 0},
		"zeroes with room for data":     {statusIOErr, typeWriteZeroes, 0, segment(0, 1, 0), 16},
		"SCSI":                          {statusUnsupp, 2, 0, nil, sector},
		"lifetime":                      {statusUnsupp, 10, 0, nil, 6},
		"secure erase":                  {statusUnsupp, 14, 0, segment(0, 1, 0), 0},
		"zone append":                   {statusUnsupp, 15, 0, data(sector), 8},
		"zone report":                   {statusUnsupp, 16, 0, nil, sector},
		"zone open":                     {statusUnsupp, 18, 0, nil, 0},
		"zone close":                    {statusUnsupp, 20, 0, nil, 0},
		"zone finish":                   {statusUnsupp, 22, 0, nil, 0},
		"zone reset":                    {statusUnsupp, 24, 0, nil, 0},
		"zone reset all":                {statusUnsupp, 26, 0, nil, 0},
		"barrier":                       {statusUnsupp, 1<<31 | typeOut, 0, data(sector), 0},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			answer := r.want(c.status, c.kind, c.sector, c.data, c.in)
			if !bytes.Equal(answer, make([]byte, len(answer))) {
				t.Error("data were written")
			}
		})
	}
	r.t = t
	if after, _ := disk.content(); !bytes.Equal(after, before) {
		t.Error("the disk changed")
	}
	r.want(statusOK, typeIn, 0, nil, sector)
}

// TestTooMuch reads more than a request may: guest memory that is named again and again.
func TestTooMuch(t *testing.T) {
	dev := newDevice(t, Config{Disk: sized{newMemDisk(sector), 1 << 40}})
	d := virtiotest.New(t, dev, 64<<20)
	if st, _, _ := result(d.Send(0, [][]byte{header(typeIn, 0)}, maxData+sector, 1)); st != statusIOErr {
		t.Errorf("status %d", st)
	}
}

// sized says that a disk is larger than it is.
type sized struct {
	blockdev.Disk
	size int64
}

func (s sized) Size() int64 { return s.size }

// TestFraming sends chains without a whole header, which is an error of the request, and one that cannot be answered: the device needs
// a reset, and works after it.
func TestFraming(t *testing.T) {
	r := newRig(t, Config{Disk: newMemDisk(sector)}, virtiotest.Options{})
	for _, readable := range [][][]byte{nil, {header(typeFlush, 0)[:15]}, {{4}}} {
		if st, _, used := result(r.Send(0, readable, 1)); st != statusIOErr || used != 1 {
			t.Errorf("status %d, %d bytes used", st, used)
		}
	}
	r.Post(0, [][]byte{header(typeFlush, 0)})
	if err := r.Failure(); !errors.Is(err, errFraming) {
		t.Error(err)
	}
	if r.Instance.Status()&virtio.StatusNeedsReset == 0 {
		t.Error("the device does not ask for a reset")
	}
	r.Reset()
	r.Start()
	r.want(statusOK, typeIn, 0, nil, sector)
}

func TestReadOnly(t *testing.T) {
	disk := newMemDisk(8 * sector)
	disk.readOnly = true
	before, _ := disk.content()
	r := newRig(t, Config{Disk: disk}, virtiotest.Options{})
	r.want(statusIOErr, typeOut, 0, noise(1, sector), 0)
	r.want(statusIOErr, typeDiscard, 0, segment(0, 1, 0), 0)
	r.want(statusIOErr, typeWriteZeroes, 0, segment(0, 1, 0), 0)
	r.want(statusOK, typeFlush, 0, nil, 0)
	if got := r.want(statusOK, typeIn, 0, nil, 8*sector); !bytes.Equal(got, before) {
		t.Error("the disk changed")
	}
	// Also if the driver does not accept the feature.
	r = newRig(t, Config{Disk: disk}, virtiotest.Options{Refuse: FeatureRO})
	r.want(statusIOErr, typeOut, 0, noise(1, sector), 0)
}

func TestGetID(t *testing.T) {
	for _, id := range []string{"", "disk-1", strings.Repeat("x", 20)} {
		r := newRig(t, Config{Disk: newMemDisk(sector), Serial: id}, virtiotest.Options{})
		want := make([]byte, SerialLen)
		copy(want, id)
		if got := r.want(statusOK, typeGetID, 0, nil, SerialLen); !bytes.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestDiscardAndZeroes(t *testing.T) {
	disk := newMemDisk(64 * sector)
	r := newRig(t, Config{Disk: disk}, virtiotest.Options{})
	r.want(statusOK, typeDiscard, 0, append(segment(1, 2, 0), segment(60, 4, 0)...), 0)
	r.want(statusOK, typeWriteZeroes, 0, append(segment(8, 3, 0), segment(20, 1, flagUnmap)...), 0)
	disk.mu.Lock()
	ops := disk.ops
	disk.mu.Unlock()
	if got := strings.Join(ops, "; "); got != "discard; discard; zeroes; zeroes, unmap" {
		t.Error(got)
	}
	want := noise(1, 64*sector)
	for _, s := range [][2]int{{1, 3}, {60, 64}, {8, 11}, {20, 21}} {
		clear(want[s[0]*sector : s[1]*sector])
	}
	if got, _ := disk.content(); !bytes.Equal(got, want) {
		t.Error("the disk is not what it should be")
	}
	// Without the features.
	r = newRig(t, Config{Disk: disk}, virtiotest.Options{Refuse: FeatureDiscard | FeatureWriteZeroes})
	r.want(statusUnsupp, typeDiscard, 0, segment(1, 2, 0), 0)
	r.want(statusUnsupp, typeWriteZeroes, 0, segment(1, 2, 0), 0)
}

// TestStable looks what is durable when a write is answered (virtio 1.2, 5.2.6.2), whichever features were accepted.
func TestStable(t *testing.T) {
	const all = FeatureFlush | FeatureConfigWCE | FeatureDiscard | FeatureWriteZeroes
	for name, c := range map[string]struct {
		features uint64
		config   int // written to writeback, -1: nothing
		reads    byte
		stable   bool
	}{
		"neither FLUSH nor CONFIG_WCE": {all &^ (FeatureFlush | FeatureConfigWCE), -1, 1, true},
		"FLUSH":                        {all &^ FeatureConfigWCE, -1, 1, false},
		"both":                         {all, -1, 1, false},
		"both, writethrough":           {all, 0, 0, true},
		"both, writeback":              {all, 1, 1, false},
		"CONFIG_WCE":                   {all &^ FeatureFlush, -1, 0, true},
		"CONFIG_WCE, writeback":        {all &^ FeatureFlush, 1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newMemDisk(8 * sector)
			r := newRig(t, Config{Disk: disk}, with(c.features))
			if c.config >= 0 {
				r.Instance.WriteConfig(writebackAt, []byte{byte(c.config)})
			}
			if got := r.Config(writebackAt, 1)[0]; got != c.reads {
				t.Errorf("writeback reads as %d", got)
			}
			for i, change := range []func(){
				func() { r.want(statusOK, typeOut, 1, noise(9, sector), 0) },
				func() { r.want(statusOK, typeWriteZeroes, 0, segment(3, 1, 0), 0) },
			} {
				change()
				data, flushed := disk.content()
				if got := bytes.Equal(data, flushed); got != c.stable {
					t.Errorf("change %d is stable: %v, want %v", i, got, c.stable)
				}
				r.want(statusOK, typeFlush, 0, nil, 0)
				if data, flushed = disk.content(); !bytes.Equal(data, flushed) {
					t.Errorf("change %d is not stable after a flush", i)
				}
			}
			r.Reset()
			r.Start()
			if got := r.Config(writebackAt, 1)[0]; got != 1 && c.features&FeatureFlush != 0 {
				t.Error("a reset leaves the cache mode as it was")
			}
		})
	}
}

// TestErrors lets the storage fail: the driver gets an error for each request, the host hears of the first.
func TestErrors(t *testing.T) {
	disk := newMemDisk(8 * sector)
	heard := make(chan error, 10)
	r := newRig(t, Config{Disk: disk, Failed: func(err error) { heard <- err }}, virtiotest.Options{})
	disk.mu.Lock()
	disk.fail = unix.ENOSPC
	disk.mu.Unlock()
	r.want(statusIOErr, typeIn, 0, nil, sector)
	r.want(statusIOErr, typeOut, 0, noise(1, sector), 0)
	r.want(statusIOErr, typeFlush, 0, nil, 0)
	r.want(statusIOErr, typeDiscard, 0, segment(0, 1, 0), 0)
	r.want(statusIOErr, typeWriteZeroes, 0, segment(0, 1, 0), 0)
	disk.mu.Lock()
	disk.fail = nil
	disk.mu.Unlock()
	r.want(statusOK, typeIn, 0, nil, sector)
	if err := <-heard; !errors.Is(err, unix.ENOSPC) || len(heard) != 0 {
		t.Errorf("%v, and %d more", err, len(heard))
	}
	if s := r.dev.Stats(); s.Errors != 5 || s.Reads != 1 {
		t.Errorf("%+v", s)
	}
}

// TestOrder holds one read back: the others overtake it, on its queue and another. A reset waits for it.
func TestOrder(t *testing.T) {
	kvmtest.NoLeaks(t)
	disk := newMemDisk(8 * sector)
	gate, held := make(chan struct{}), make(chan struct{})
	var reset atomic.Bool
	disk.before = func(op string, off int64) {
		if off != 7*sector {
			return
		}
		close(held)
		<-gate
		for range 1000 {
			runtime.Gosched()
		}
		if reset.Load() {
			t.Error("the reset did not wait for a read that is under way")
		}
	}
	r := newRig(t, Config{Disk: disk, Queues: 2}, virtiotest.Options{})
	r.post(0, typeIn, 7, nil, sector)
	<-held
	for range 3 * parallel {
		r.want(statusOK, typeIn, 1, nil, sector)
		if st, _, _ := result(r.post(1, typeOut, 2, noise(1, sector), 0).Wait()); st != statusOK {
			t.Errorf("second queue: status %d", st)
		}
	}
	close(gate)
	r.Reset()
	reset.Store(true)
	r.Start()
	r.want(statusOK, typeIn, 1, nil, sector)
}

// TestQueues asks on every queue at once; without MQ there is only the first.
func TestQueues(t *testing.T) {
	const n = 4
	disk := newMemDisk(n * sector)
	r := newRig(t, Config{Disk: disk, Queues: n}, virtiotest.Options{})
	var all []*virtiotest.Pending
	for q := range n {
		all = append(all, r.post(q, typeOut, uint64(q), bytes.Repeat([]byte{byte(q + 1)}, sector), 0))
	}
	for q, p := range all {
		if st, _, _ := result(p.Wait()); st != statusOK {
			t.Errorf("queue %d: status %d", q, st)
		}
	}
	for q := range n {
		if got := r.want(statusOK, typeIn, uint64(q), nil, sector); got[sector-1] != byte(q+1) {
			t.Errorf("queue %d wrote %d", q, got[0])
		}
	}
	r = newRig(t, Config{Disk: disk, Queues: n}, virtiotest.Options{Refuse: FeatureMQ})
	r.post(1, typeFlush, 0, nil, 0)
	r.want(statusOK, typeFlush, 0, nil, 0)
	if s := r.dev.Stats(); s.Flushes != 1 {
		t.Errorf("%d flushes: a queue is served that does not exist", s.Flushes)
	}
}

// TestLimits makes requests that have to wait for long, and resets.
func TestLimits(t *testing.T) {
	kvmtest.NoLeaks(t)
	r := newRig(t, Config{Disk: newMemDisk(64 * sector), Limits: blockdev.Limits{IOPS: 1, BurstOps: 2}}, virtiotest.Options{})
	r.want(statusOK, typeIn, 0, nil, sector)
	r.want(statusOK, typeIn, 0, nil, sector)
	for range 100 {
		r.post(0, typeIn, 0, nil, sector)
	}
	r.Reset() // does not wait for 100 seconds: the test would time out
	if s := r.dev.Stats(); s.Reads > 20 {
		t.Errorf("%d reads", s.Reads)
	}
}

// TestTruncated shortens the image under the device.
func TestTruncated(t *testing.T) {
	disk := openDisk(t, noise(1, 64*sector), blockdev.Spec{Format: blockdev.Raw})
	r := newRig(t, Config{Disk: sized{disk, 128 * sector}}, virtiotest.Options{})
	r.want(statusOK, typeIn, 63, nil, sector)
	r.want(statusIOErr, typeIn, 64, nil, sector)
	r.want(statusIOErr, typeOut, 64, noise(1, sector), 0)
	r.want(statusOK, typeOut, 63, noise(1, sector), 0)
}
