package fs9p

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

const testSize = 64 << 10 // msize of the tests' client

// client is a guest's.
type client struct {
	t   testing.TB
	drv *virtiotest.Driver
}

// newClient shares dir and attaches it as fid 0.
func newClient(t testing.TB, dir string, readOnly bool) *client {
	t.Helper()
	kvmtest.NoLeaks(t)
	dev, err := New(Config{Tag: "share", Dir: dir, ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &client{t, virtiotest.New(t, dev, 16*memmap.MiB)}
	c.start()
	return c
}

func (c *client) start() {
	c.t.Helper()
	if r := c.ok(tVersion, uint32(testSize), "9P2000.L"); r.u32() != testSize || r.str() != "9P2000.L" {
		c.t.Fatal("the version is not agreed")
	}
	c.ok(tAttach, uint32(0), uint32(noFID), "root", "", uint32(0))
}

// message encodes a request.
func message(typ uint8, args ...any) []byte {
	e := &encoder{}
	e.header()
	for _, a := range args {
		switch v := a.(type) {
		case uint8:
			e.u8(v)
		case uint16:
			e.u16(v)
		case uint32:
			e.u32(v)
		case uint64:
			e.u64(v)
		case string:
			e.str(v)
		case []byte:
			e.b = append(e.b, v...)
		default:
			panic("argument of no 9p type")
		}
	}
	e.finish(typ, 7, 0)
	return e.b
}

// rpc makes a request and returns the answer without its header.
func (c *client) rpc(typ uint8, args ...any) (*decoder, error) {
	c.t.Helper()
	m := message(typ, args...)
	// In two parts, as Linux has it: the header, and the data of a large read or write.
	cut := min(len(m), writeHeader)
	req := [][]byte{m[:cut]}
	if cut < len(m) {
		req = append(req, m[cut:])
	}
	b := c.drv.Send(0, req, readHeader, testSize-readHeader).Bytes()
	if size := binary.LittleEndian.Uint32(b); int(size) != len(b) || binary.LittleEndian.Uint16(b[5:]) != 7 {
		c.t.Fatalf("request %d: answer of %d bytes begins with %x", typ, len(b), b[:headerSize])
	}
	d := &decoder{b: b[headerSize:]}
	switch b[4] {
	case typ + 1:
		return d, nil
	case tError + 1:
		return nil, unix.Errno(d.u32())
	}
	c.t.Fatalf("request %d: answer %d", typ, b[4])
	return nil, nil
}

func (c *client) ok(typ uint8, args ...any) *decoder {
	c.t.Helper()
	d, err := c.rpc(typ, args...)
	if err != nil {
		c.t.Fatalf("request %d %v: %v", typ, args, err)
	}
	return d
}

func (c *client) fails(want unix.Errno, typ uint8, args ...any) {
	c.t.Helper()
	if _, err := c.rpc(typ, args...); !errors.Is(err, want) {
		c.t.Errorf("request %d %q: error %v, want %v", typ, args, err, want)
	}
}

// walk goes from fid 0 to a new fid and returns how many names it came.
func (c *client) walk(from, to uint32, names ...string) (int, error) {
	c.t.Helper()
	args := []any{from, to, uint16(len(names))}
	for _, n := range names {
		args = append(args, n)
	}
	d, err := c.rpc(tWalk, args...)
	if err != nil {
		return 0, err
	}
	return int(d.u16()), nil
}

func (c *client) to(from, to uint32, names ...string) {
	c.t.Helper()
	if n, err := c.walk(from, to, names...); err != nil || n != len(names) {
		c.t.Fatalf("walk %q: %d names, %v", names, n, err)
	}
}

func (c *client) clunk(fids ...uint32) {
	c.t.Helper()
	for _, f := range fids {
		c.ok(tClunk, f)
	}
}

// attr is what tests look at of Rgetattr.
type attr struct {
	mode, uid, gid   uint32
	nlink, size, ino uint64
}

func (c *client) getattr(f uint32) (a attr) {
	c.t.Helper()
	d := c.ok(tGetattr, f, uint64(getattrBasic))
	d.u64()
	d.bytes(5)
	a.ino = d.u64()
	a.mode, a.uid, a.gid = d.u32(), d.u32(), d.u32()
	a.nlink = d.u64()
	d.u64()
	a.size = d.u64()
	return a
}

// entry is one of Rreaddir.
type entry struct {
	name   string
	typ    uint8
	cookie uint64
}

func (c *client) readdir(f uint32, off uint64, count uint32) (entries []entry) {
	c.t.Helper()
	d := c.ok(tReaddir, f, off, count)
	if n := d.u32(); int(n) != len(d.b) || n > count {
		c.t.Fatalf("%d bytes of entries in an answer of %d, asked for %d", n, len(d.b), count)
	}
	for len(d.b) > 0 {
		d.bytes(qidSize)
		e := entry{cookie: d.u64(), typ: d.u8()}
		e.name = d.str()
		entries = append(entries, e)
	}
	if d.bad {
		c.t.Fatal("half an entry")
	}
	return entries
}
