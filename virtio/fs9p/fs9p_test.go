package fs9p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/virtio"
)

// Flags of opening.
const (
	rdonly = uint32(unix.O_RDONLY)
	wronly = uint32(unix.O_WRONLY)
	rdwr   = uint32(unix.O_RDWR)
	trunc  = uint32(unix.O_TRUNC)
	app    = uint32(unix.O_APPEND)
	excl   = uint32(unix.O_EXCL)
)

const root, group = uint32(0), uint32(0)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q, want %q: %v", path, b, want, err)
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	c := newClient(t, dir, false)
	if got := c.drv.Config(0, 10); !bytes.Equal(got, append([]byte{5, 0}, "share\x00\x00\x00"...)) {
		t.Errorf("configuration %q", got)
	}
	write(t, filepath.Join(dir, "f"), "")
	for _, bad := range []Config{{Dir: dir}, {Tag: strings.Repeat("x", MaxTag+1), Dir: dir}, {Tag: "x", Dir: filepath.Join(dir, "f")}, {Tag: "x", Dir: filepath.Join(dir, "none")}} {
		if d, err := New(bad); err == nil {
			d.Close()
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestVersion(t *testing.T) {
	c := newClient(t, t.TempDir(), false)
	c.fails(unix.EINVAL, tVersion, uint32(minMessage-1), "9P2000.L")
	if r := c.ok(tVersion, uint32(1<<32-1), "9P2000.L"); r.u32() != maxMessage {
		t.Error("a larger message than the largest is agreed on")
	}
	c.fails(unix.EBADF, tGetattr, root, uint64(0)) // a new session has no fids
	if r := c.ok(tVersion, uint32(testSize), "9P2000"); r.u32() != testSize || r.str() != "unknown" {
		t.Error("9P2000 is agreed on")
	}
	c.fails(unix.EPROTO, tAttach, root, uint32(noFID), "", "", uint32(0))
	c.start()
	c.fails(unix.EBADF, tAttach, root, uint32(noFID), "", "", uint32(0))
	c.fails(unix.ENOENT, tAttach, uint32(9), uint32(noFID), "", "/etc", uint32(0))
	c.fails(unix.EINVAL, tAttach, uint32(9), uint32(3), "", "", uint32(0))
	c.fails(unix.EOPNOTSUPP, 102, uint32(9), "", "", uint32(0)) // Tauth
	c.fails(unix.EOPNOTSUPP, 30, root, uint32(9), "user.x")     // Txattrwalk
	c.fails(unix.EOPNOTSUPP, 20, root, root, "x")               // Trename
	c.ok(tFlush, uint16(3))
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	c := newClient(t, dir, false)
	c.to(root, 1)
	c.ok(tLcreate, uint32(1), "file", rdwr, uint32(0o640), group)
	data := bytes.Repeat([]byte("0123456789"), 5000)
	if n := c.ok(tWrite, uint32(1), uint64(3), uint32(len(data)), data).u32(); int(n) != len(data) {
		t.Fatalf("%d bytes written", n)
	}
	c.ok(tFsync, uint32(1))
	c.ok(tFsync, uint32(1), uint32(1))
	wantFile(t, filepath.Join(dir, "file"), "\x00\x00\x00"+string(data))
	d := c.ok(tRead, uint32(1), uint64(0), uint32(50_003))
	if n := d.u32(); n != 50_003 || string(d.b) != "\x00\x00\x00"+string(data) {
		t.Fatalf("%d bytes read", n)
	}
	if n := c.ok(tRead, uint32(1), uint64(50_003), uint32(10)).u32(); n != 0 {
		t.Errorf("%d bytes behind the end", n)
	}
	// No more than a message holds.
	if n := c.ok(tRead, uint32(1), uint64(0), uint32(1<<32-1)).u32(); n != 50_003 {
		t.Errorf("%d bytes", n)
	}
	c.to(root, 2, "file")
	if a := c.getattr(2); a.size != 50_003 || a.mode != unix.S_IFREG|0o640 || a.nlink != 1 {
		t.Errorf("%+v", a)
	}
	zero := uint64(0)
	set := func(f uint32, valid, mode, uid, gid uint32, size uint64, times ...uint64) []any {
		args := []any{f, valid, mode, uid, gid, size}
		for _, v := range append(times, zero, zero, zero, zero)[:4] {
			args = append(args, v)
		}
		return args
	}
	c.ok(tSetattr, set(2, setSize|setMode, 0o600, 0, 0, 5)...)
	c.ok(tSetattr, set(1, setSize, 0, 0, 0, 4)...)
	c.ok(tSetattr, set(2, setAtime|setMtime|setMtimeTo, 0, 0, 0, 0, 0, 0, 1_000_000_000, 5)...)
	info, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil || info.Size() != 4 || info.Mode() != 0o600 || !info.ModTime().Equal(time.Unix(1_000_000_000, 5)) {
		t.Errorf("%v: %v", info, err)
	}
	a := c.getattr(2)
	c.ok(tSetattr, set(2, setUID|setGID, 0, a.uid, a.gid, 0)...)
	c.fails(unix.EPERM, tSetattr, set(2, setUID, 0, a.uid+1, 0, 0)...)
	c.fails(unix.EPERM, tSetattr, set(2, setMode, 0o4755, 0, 0, 0)...)
	c.fails(unix.EPERM, tSetattr, set(2, setMode, 0o2755, 0, 0, 0)...)
	c.fails(unix.EFBIG, tSetattr, set(2, setSize, 0, 0, 0, 1<<63)...)
	c.fails(unix.EINVAL, tSetattr, set(2, setMtime|setMtimeTo, 0, 0, 0, 0, 0, 0, 0, unix.UTIME_NOW)...)
	c.fails(unix.EINVAL, tSetattr, set(root, setSize, 0, 0, 0, 0)...)

	// Opening again, by another fid; reading what is for writing only, and the other way.
	c.fails(unix.EINVAL, tLopen, uint32(1), rdonly)
	c.ok(tLopen, uint32(2), wronly|app)
	if n := c.ok(tWrite, uint32(2), zero, uint32(2), []byte("ab")).u32(); n != 2 {
		t.Errorf("%d bytes written", n)
	}
	c.fails(unix.EBADF, tRead, uint32(2), zero, uint32(1))
	c.to(root, 3, "file")
	c.fails(unix.EINVAL, tRead, uint32(3), zero, uint32(1))
	c.ok(tLopen, uint32(3), rdonly)
	c.fails(unix.EBADF, tWrite, uint32(3), zero, uint32(1), []byte("x"))
	if d := c.ok(tRead, uint32(3), uint64(4), uint32(100)); d.u32() != 2 || string(d.b) != "ab" {
		t.Errorf("%q", d.b)
	}
	if c.ok(tLock, uint32(3), uint8(0), uint32(0), zero, zero, uint32(1), "me").u8() != 0 {
		t.Error("no lock")
	}
	if c.ok(tGetlock, uint32(3), uint8(0), zero, zero, uint32(1), "me").u8() != unix.F_UNLCK {
		t.Error("somebody has a lock")
	}
	// A fid stays the file's when its names change.
	c.ok(tLink, root, uint32(3), "second")
	if a := c.getattr(3); a.nlink != 2 {
		t.Errorf("%+v", a)
	}
	c.ok(tUnlinkat, root, "file", uint32(0))
	c.ok(tRenameat, root, "second", root, "third")
	if d := c.ok(tRead, uint32(3), uint64(4), uint32(100)); d.u32() != 2 {
		t.Error("the file is not there any more")
	}
	// Creating a file that exists opens it, unless it must not exist.
	c.to(root, 4)
	c.fails(unix.EEXIST, tLcreate, uint32(4), "third", rdwr|excl, uint32(0o600), group)
	c.ok(tLcreate, uint32(4), "third", rdwr|trunc, uint32(0o600), group)
	if a := c.getattr(4); a.size != 0 {
		t.Errorf("%+v", a)
	}
	c.fails(unix.ENOTDIR, tLcreate, uint32(4), "x", rdwr, uint32(0o600), group)
	c.fails(unix.EOPNOTSUPP, tRemove, uint32(4))
	c.fails(unix.EBADF, tClunk, uint32(4)) // removed or not, it is clunked
	d = c.ok(tStatfs, root)
	if d.u32() != statfsMagic || d.u32() == 0 {
		t.Error("no statistics of the file system")
	}
	c.clunk(1, 2, 3)
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	c := newClient(t, dir, false)
	if d := c.ok(tMkdir, root, "sub", uint32(0o755), group); d.u8() != 0x80 {
		t.Error("a directory's qid is not one")
	}
	c.fails(unix.EEXIST, tMkdir, root, "sub", uint32(0o755), group)
	c.to(root, 1, "sub")
	want := map[string]bool{".": true, "..": true}
	for i := range 300 {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("n", i%250))
		c.ok(tMknod, uint32(1), name, uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), group)
		want[name] = true
	}
	c.to(root, 2, "sub")
	c.fails(unix.EINVAL, tReaddir, uint32(2), uint64(0), uint32(4096)) // not open
	c.fails(unix.EISDIR, tLopen, uint32(2), rdwr)
	c.ok(tLopen, uint32(2), rdonly)
	c.fails(unix.EISDIR, tRead, uint32(2), uint64(0), uint32(10))
	for _, count := range []uint32{300, 4096, 60_000, 1<<32 - 1} {
		got := map[string]bool{}
		for cookie := uint64(0); ; {
			entries := c.readdir(2, cookie, count)
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				if got[e.name] || !want[e.name] || (e.typ == unix.DT_DIR) != (e.name[0] == '.') {
					t.Errorf("entry %+v", e)
				}
				got[e.name] = true
				cookie = e.cookie
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d entries of %d", len(got), len(want))
		}
	}
	c.fails(unix.EINVAL, tReaddir, uint32(2), uint64(0), uint32(10)) // no room for one

	c.fails(unix.EISDIR, tUnlinkat, root, "sub", uint32(0))
	c.fails(unix.ENOTEMPTY, tUnlinkat, root, "sub", uint32(unix.AT_REMOVEDIR))
	c.fails(unix.EINVAL, tUnlinkat, root, "sub", uint32(1))
	c.fails(unix.EINVAL, tRenameat, root, "sub", uint32(1), "below-itself")
	c.ok(tMkdir, root, "other", uint32(0o755), group)
	c.to(root, 3, "other")
	c.ok(tRenameat, uint32(1), "000-", uint32(3), "moved")
	if _, err := os.Stat(filepath.Join(dir, "other", "moved")); err != nil {
		t.Error(err)
	}
	// Not all of the way.
	if n, err := c.walk(root, 9, "other", "none", "x"); n != 1 || err != nil {
		t.Errorf("%d names, %v", n, err)
	}
	c.fails(unix.EBADF, tClunk, uint32(9))
	if _, err := c.walk(root, 9, "none"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	c.to(root, 4, "other", "moved")
	if _, err := c.walk(4, 9, "x"); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
	if _, err := c.walk(root, 4); !errors.Is(err, unix.EBADF) {
		t.Error(err) // in use
	}
	if _, err := c.walk(2, 2, "."); !errors.Is(err, unix.EBUSY) {
		t.Error(err) // open
	}
	c.to(2, 5, "001-n") // from an open directory to another fid, as Linux does
	c.to(4, 4)
	// Symbolic links are text.
	c.ok(tSymlink, root, "link", "/any/where/../at all", group)
	c.to(root, 6, "link")
	if got := c.ok(tReadlink, uint32(6)).str(); got != "/any/where/../at all" {
		t.Errorf("target %q", got)
	}
	c.fails(unix.EINVAL, tReadlink, uint32(5))
	// A reset closes everything, and what the guest held is forgotten.
	c.drv.Reset()
	c.drv.Start()
	c.start()
	c.fails(unix.EBADF, tClunk, uint32(6))
}

// snapshot is all of a directory: names, modes, contents, times.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			b.Write(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "content")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	c := newClient(t, dir, true)
	c.to(root, 1, "file")
	c.to(root, 2, "sub")
	c.to(root, 3)
	for _, flags := range []uint32{wronly, rdwr, trunc, wronly | app | trunc} {
		c.fails(unix.EROFS, tLopen, uint32(1), flags)
	}
	c.fails(unix.EROFS, tLcreate, uint32(3), "file", rdonly, uint32(0o600), group)
	c.fails(unix.EROFS, tLcreate, uint32(3), "new", rdwr, uint32(0o600), group)
	c.fails(unix.EROFS, tMkdir, root, "new", uint32(0o755), group)
	c.fails(unix.EROFS, tSymlink, root, "new", "x", group)
	c.fails(unix.EROFS, tMknod, root, "new", uint32(unix.S_IFREG), uint32(0), uint32(0), group)
	c.fails(unix.EROFS, tLink, root, uint32(1), "new")
	c.fails(unix.EROFS, tRenameat, root, "file", uint32(2), "new")
	c.fails(unix.EROFS, tUnlinkat, root, "file", uint32(0))
	c.fails(unix.EROFS, tUnlinkat, root, "sub", uint32(unix.AT_REMOVEDIR))
	for bit := range 9 {
		c.fails(unix.EROFS, tSetattr, uint32(1), uint32(1<<bit), uint32(0o777), uint32(0), uint32(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	}
	c.ok(tLopen, uint32(1), rdonly)
	c.fails(unix.EBADF, tWrite, uint32(1), uint64(0), uint32(1), []byte("x"))
	if d := c.ok(tRead, uint32(1), uint64(0), uint32(100)); d.u32() != 7 || string(d.b) != "content" {
		t.Errorf("%q", d.b)
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("the directory has changed:\n%s\n%s", before, after)
	}
}

// Devices are not made, and what exists of devices, pipes and sockets is not opened.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	c := newClient(t, dir, false)
	for _, mode := range []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFDIR, unix.S_IFLNK, 0} {
		c.fails(unix.EPERM, tMknod, root, "node", mode|0o666, uint32(1), uint32(3), group)
	}
	c.ok(tMknod, root, "pipe", uint32(unix.S_IFIFO|0o666), uint32(0), uint32(0), group)
	c.ok(tMknod, root, "socket", uint32(unix.S_IFSOCK|0o666), uint32(0), uint32(0), group)
	names := []string{"pipe", "socket"}
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
		names = append(names, "null")
	} else {
		t.Logf("no device node to try, only root can make one: %v", err)
	}
	for i, name := range names {
		f := uint32(i + 1)
		c.to(root, f, name)
		c.fails(unix.EPERM, tLopen, f, rdonly)
		c.to(root, f+100)
		c.fails(unix.EPERM, tLcreate, f+100, name, rdwr, uint32(0o600), group)
		c.fails(unix.EINVAL, tSetattr, f, uint32(setSize), uint32(0), uint32(0), uint32(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	}
	c.ok(tUnlinkat, root, "pipe", uint32(0))
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	c := newClient(t, dir, false)
	c.drv.Reset()
	c.drv.Instance.Device().(*Device).s.maxFIDs = 10
	c.drv.Start()
	c.start()
	for f := range uint32(9) {
		c.to(root, f+1)
	}
	if _, err := c.walk(root, 100); !errors.Is(err, unix.EMFILE) {
		t.Error(err)
	}
	if _, err := c.walk(root, noFID); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	c.clunk(1, 2)
	c.fails(unix.ENAMETOOLONG, tMkdir, root, strings.Repeat("x", maxName+1), uint32(0o755), group)
	c.fails(unix.ENAMETOOLONG, tSymlink, root, "x", strings.Repeat("x", maxTarget+1), group)
	c.fails(unix.EMSGSIZE, tSymlink, root, "x", strings.Repeat("x", maxRequest), group)
	if _, err := c.walk(root, 1, make([]string, maxNames+1)...); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	// A message that is larger than agreed, larger than its buffer, or smaller than its header.
	m := message(tGetattr, root, uint64(0))
	for _, size := range []uint32{testSize + 1, uint32(len(m) + 1), 6, 0, 1<<32 - 1} {
		binary.LittleEndian.PutUint32(m, size)
		if b := c.drv.Send(0, [][]byte{m}, 4096).Bytes(); b[4] != tError+1 || unix.Errno(b[7]) != unix.EINVAL {
			t.Errorf("size %d: answer %x", size, b)
		}
	}
	// Half a message of every type.
	for typ := range 256 {
		if typ == tFlush || typ == tVersion {
			continue
		}
		b := c.drv.Send(0, [][]byte{message(uint8(typ))}, 4096).Bytes()
		if b[4] != tError+1 {
			t.Errorf("type %d without anything: answer %x", typ, b)
		}
	}
	c.fails(unix.EINVAL, tWrite, uint32(3), uint64(0), uint32(5), []byte("four"))
	c.to(root, 1)
	c.ok(tLcreate, uint32(1), "file", rdwr, uint32(0o600), group)
	c.fails(unix.EINVAL, tWrite, uint32(1), uint64(0), uint32(5), []byte("four"))
	c.fails(unix.EINVAL, tWrite, uint32(1), uint64(1<<63), uint32(4), []byte("four"))
	c.fails(unix.EINVAL, tRead, uint32(1), uint64(1<<64-1), uint32(4))
	// An answer that does not fit is an error.
	m = message(tGetattr, root, uint64(0))
	if b := c.drv.Send(0, [][]byte{m}, 100).Bytes(); b[4] != tError+1 || unix.Errno(b[7]) != unix.EMSGSIZE {
		t.Errorf("answer %x", b)
	}
}

// What cannot be answered costs the guest its driver.
func TestProtocol(t *testing.T) {
	for name, post := range map[string]func(c *client){
		"half a header": func(c *client) { c.drv.Post(0, [][]byte{make([]byte, headerSize-1)}, 4096) },
		"no room":       func(c *client) { c.drv.Post(0, [][]byte{message(tClunk, root)}, errorSize-1) },
		"nothing":       func(c *client) { c.drv.Post(0, nil, 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, t.TempDir(), false)
			post(c)
			if err := c.drv.Failure(); !errors.Is(err, virtio.ErrProtocol) {
				t.Error(err)
			}
			c.drv.Reset()
			c.drv.Start()
			c.start()
		})
	}
}
