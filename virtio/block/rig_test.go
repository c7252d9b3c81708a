package block

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

// memDisk is a disk in memory that counts and can be told to fail or to wait.
type memDisk struct {
	readOnly, volatile bool

	mu      sync.Mutex
	data    []byte
	flushed []byte // data at the last Flush
	fail    error
	ops     []string
	before  func(op string, off int64) // called without mu
}

func newMemDisk(n int) *memDisk {
	d := &memDisk{data: noise(1, n)}
	d.flushed = bytes.Clone(d.data)
	return d
}

func (d *memDisk) op(name string, off int64, f func()) error {
	d.mu.Lock()
	before := d.before
	d.mu.Unlock()
	if before != nil {
		before(name, off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, name)
	if d.fail != nil {
		return d.fail
	}
	f()
	return nil
}

func (d *memDisk) Read(vec [][]byte, off int64) error {
	return d.op("read", off, func() {
		for _, b := range vec {
			off += int64(copy(b, d.data[off:]))
		}
	})
}

func (d *memDisk) Write(vec [][]byte, off int64) error {
	return d.op("write", off, func() {
		for _, b := range vec {
			off += int64(copy(d.data[off:], b))
		}
	})
}

func (d *memDisk) Flush() error {
	return d.op("flush", 0, func() { d.flushed = bytes.Clone(d.data) })
}

func (d *memDisk) Discard(off, n int64) error {
	return d.op("discard", off, func() { clear(d.data[off : off+n]) })
}

func (d *memDisk) WriteZeroes(off, n int64, unmap bool) error {
	name := "zeroes"
	if unmap {
		name = "zeroes, unmap"
	}
	return d.op(name, off, func() { clear(d.data[off : off+n]) })
}

func (d *memDisk) TryRead([][]byte, int64) bool { return false }
func (d *memDisk) Size() int64                  { return int64(len(d.data)) }
func (d *memDisk) ReadOnly() bool               { return d.readOnly }
func (d *memDisk) Volatile() bool               { return d.volatile }
func (d *memDisk) BlockSize() int               { return 512 }
func (d *memDisk) Close() error                 { return nil }

// content returns what the disk has and what of it is durable.
func (d *memDisk) content() (data, flushed []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data), d.flushed
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// openDisk makes a raw image of this content and opens it.
func openDisk(t testing.TB, content []byte, s blockdev.Spec) blockdev.Disk {
	t.Helper()
	s.Path = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(s.Path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := blockdev.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	return disk
}

func newDevice(t testing.TB, c Config) *Device {
	t.Helper()
	dev, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// rig is a device and its driver.
type rig struct {
	*virtiotest.Driver
	t   testing.TB
	dev *Device
}

func newRig(t testing.TB, c Config, opts virtiotest.Options) *rig {
	t.Helper()
	dev := newDevice(t, c)
	return &rig{virtiotest.NewWith(t, dev, 32*memmap.MiB, opts), t, dev}
}

// with accepts the queues' features and these only.
func with(features uint64) virtiotest.Options {
	return virtiotest.Options{Refuse: ^(features | virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc)}
}

func header(kind uint32, sector uint64) []byte {
	h := make([]byte, headerLen)
	binary.LittleEndian.PutUint32(h, kind)
	binary.LittleEndian.PutUint64(h[8:], sector)
	return h
}

func segment(sector uint64, n, flags uint32) []byte {
	s := binary.LittleEndian.AppendUint64(nil, sector)
	s = binary.LittleEndian.AppendUint32(s, n)
	return binary.LittleEndian.AppendUint32(s, flags)
}

// ask makes a request with data to the device, and room for in bytes from it.
func (r *rig) ask(kind uint32, sector uint64, data []byte, in int) (status byte, answer []byte, used uint32) {
	r.t.Helper()
	return result(r.post(0, kind, sector, data, in).Wait())
}

func (r *rig) post(queue int, kind uint32, sector uint64, data []byte, in int) *virtiotest.Pending {
	readable := [][]byte{header(kind, sector)}
	if len(data) > 0 {
		readable = append(readable, data)
	}
	writable := []int{1}
	if in > 0 {
		writable = []int{in, 1}
	}
	return r.Post(queue, readable, writable...)
}

func result(u virtiotest.Used) (status byte, answer []byte, used uint32) {
	all := bytes.Join(u.Data, nil)
	return all[len(all)-1], all[:len(all)-1], u.Len
}

// want makes a request that gets this status.
func (r *rig) want(status byte, kind uint32, sector uint64, data []byte, in int) []byte {
	r.t.Helper()
	got, answer, used := r.ask(kind, sector, data, in)
	if got != status {
		r.t.Errorf("request %d of %d and %d bytes at sector %d: status %d, want %d", kind, len(data), in, sector, got, status)
	}
	if (status == statusOK || in == 0) && used != uint32(in)+1 || status != statusOK && in > 0 && used != 0 {
		r.t.Errorf("request %d: %d bytes used", kind, used)
	}
	return answer
}
