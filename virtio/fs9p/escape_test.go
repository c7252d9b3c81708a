package fs9p

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// outside makes a directory with a secret, and a directory to share beside it.
func outside(t testing.TB) (top, share string) {
	t.Helper()
	top = t.TempDir()
	share = filepath.Join(top, "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(top, "secret"), "secret")
	return top, share
}

// Names that are no name of an entry are refused wherever a name stands.
func TestEscapeByName(t *testing.T) {
	top, share := outside(t)
	write(t, filepath.Join(share, "file"), "")
	if err := os.MkdirAll(filepath.Join(share, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, share, false)
	c.to(root, 1, "a", "b")
	c.to(root, 2, "file")
	for _, name := range []string{"..", ".", "", "/", "../secret", "/etc/passwd", "a/b", "a/../../secret", "./file", "file\x00x", "\x00"} {
		for _, dir := range []uint32{root, 1} {
			if _, err := c.walk(dir, 9, name); !errors.Is(err, unix.EINVAL) {
				t.Errorf("walk %q: %v", name, err)
			}
			c.fails(unix.EINVAL, tMkdir, dir, name, uint32(0o755), group)
			c.fails(unix.EINVAL, tSymlink, dir, name, "x", group)
			c.fails(unix.EINVAL, tMknod, dir, name, uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), group)
			c.fails(unix.EINVAL, tLcreate, dir, name, rdwr, uint32(0o644), group)
			c.fails(unix.EINVAL, tLink, dir, uint32(2), name)
			c.fails(unix.EINVAL, tUnlinkat, dir, name, uint32(0))
			c.fails(unix.EINVAL, tUnlinkat, dir, name, uint32(unix.AT_REMOVEDIR))
			c.fails(unix.EINVAL, tRenameat, dir, name, root, "x")
			c.fails(unix.EINVAL, tRenameat, root, "file", dir, name)
		}
	}
	// Later names of a walk end it where they stand.
	if n, err := c.walk(root, 9, "a", "..", "..", "secret"); n != 1 || err != nil {
		t.Errorf("%d names, %v", n, err)
	}
	wantFile(t, filepath.Join(top, "secret"), "secret")
}

// Symbolic links, of the host's making or the guest's, lead nowhere.
func TestEscapeBySymlink(t *testing.T) {
	top, share := outside(t)
	c := newClient(t, share, false)
	for i, target := range []string{"..", "../secret", top, filepath.Join(top, "secret"), "/", "/proc/self/root", "."} {
		f := uint32(10 * (i + 1))
		name := string(rune('a' + i))
		if i%2 == 0 {
			c.ok(tSymlink, root, name, target, group)
		} else if err := os.Symlink(target, filepath.Join(share, name)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.walk(root, f, name, "secret"); n != 1 || err != nil {
			t.Errorf("%s: %d names, %v", target, n, err)
		}
		c.to(root, f, name)
		if a := c.getattr(f); a.mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s: %+v is not of the link", target, a)
		}
		if _, err := c.walk(f, f+1, "secret"); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", target, err)
		}
		c.fails(unix.ELOOP, tLopen, f, rdonly)
		c.fails(unix.ENOTDIR, tMkdir, f, "x", uint32(0o755), group)
		c.fails(unix.ENOTDIR, tRenameat, root, name, f, "x")
		c.fails(unix.EOPNOTSUPP, tSetattr, f, uint32(setMode), uint32(0o777), uint32(0), uint32(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
		c.fails(unix.EINVAL, tSetattr, f, uint32(setSize), uint32(0), uint32(0), uint32(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
		c.ok(tSetattr, f, uint32(setMtime|setMtimeTo), uint32(0), uint32(0), uint32(0), uint64(0), uint64(0), uint64(0), uint64(1), uint64(0))
		// Creating, also with truncation, does not follow.
		c.to(root, f+2)
		c.fails(unix.ELOOP, tLcreate, f+2, name, rdwr|trunc, uint32(0o600), group)
		// A hard link to the link is one to the link.
		c.ok(tLink, root, f, name+"2")
		if info, err := os.Lstat(filepath.Join(share, name+"2")); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s: hard link %v, %v", target, info, err)
		}
		c.clunk(f, f+2)
	}
	wantFile(t, filepath.Join(top, "secret"), "secret")
	if info, err := os.Stat(filepath.Join(top, "secret")); err != nil || info.ModTime().Unix() == 1 {
		t.Errorf("the secret's time was set: %v, %v", info, err)
	}
}

// A directory that is held stays what it is when it is moved, replaced by a link, or taken out of the share by the host.
func TestEscapeByRename(t *testing.T) {
	top, share := outside(t)
	if err := os.MkdirAll(filepath.Join(share, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(share, "a", "b", "file"), "mine")
	c := newClient(t, share, false)
	c.to(root, 1, "a")
	c.to(root, 2, "a", "b")
	c.to(root, 3, "a", "b", "file")
	c.ok(tRenameat, uint32(1), "b", root, "b")
	c.ok(tUnlinkat, root, "a", uint32(unix.AT_REMOVEDIR))
	c.ok(tSymlink, root, "a", "..", group)
	if _, err := c.walk(1, 9, "secret"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	// The host takes it out: the guest keeps what it held, and what is in that, and comes no higher.
	if err := os.Rename(filepath.Join(share, "b"), filepath.Join(top, "b")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.walk(2, 9, ".."); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	c.fails(unix.EINVAL, tRenameat, uint32(2), "../secret", root, "x")
	if _, err := c.walk(2, 9, "secret"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	c.ok(tLopen, uint32(3), rdonly)
	if d := c.ok(tRead, uint32(3), uint64(0), uint32(100)); d.u32() != 4 || string(d.b) != "mine" {
		t.Errorf("%q", d.b)
	}
	wantFile(t, filepath.Join(top, "secret"), "secret")
}

// While a name is now a directory and now a link out of the share, and now a file and now a link to a secret, the guest that
// walks, opens, creates, truncates and removes by these names never touches what is outside.
func TestEscapeByRace(t *testing.T) {
	top, share := outside(t)
	write(t, filepath.Join(top, "file"), "outside")
	for _, p := range []string{"dir", "link"} {
		if err := os.Mkdir(filepath.Join(share, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(share, "dir", "file"), "inside")
	write(t, filepath.Join(share, "f"), "inside")
	if err := os.Remove(filepath.Join(share, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(share, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret", filepath.Join(share, "g")); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, share, false)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, pair := range [][2]string{{"dir", "link"}, {"f", "g"}} {
		wg.Go(func() {
			a, b := filepath.Join(share, pair[0]), filepath.Join(share, pair[1])
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	came, led := 0, 0
	for range max(400, *stress/2000) {
		if n, err := c.walk(root, 1, "dir", "file"); n == 2 {
			came++
			if _, err := c.rpc(tLopen, uint32(1), rdonly); err != nil {
				t.Fatal(err)
			}
			if d := c.ok(tRead, uint32(1), uint64(0), uint32(100)); d.u32() != 6 || string(d.b) != "inside" {
				t.Fatalf("the guest has read %q", d.b)
			}
			c.clunk(1)
		} else if n == 1 && err == nil {
			led++
		}
		c.to(root, 2)
		if _, err := c.rpc(tLcreate, uint32(2), "f", rdwr|trunc, uint32(0o600), group); err == nil {
			c.ok(tWrite, uint32(2), uint64(0), uint32(6), []byte("inside"))
		}
		c.clunk(2)
		if n, _ := c.walk(root, 3, "g"); n == 1 {
			c.rpc(tSetattr, uint32(3), uint32(setSize|setMode), uint32(0o777), uint32(0), uint32(0), uint64(3), uint64(0), uint64(0), uint64(0), uint64(0))
			c.clunk(3)
		}
	}
	close(stop)
	wg.Wait()
	if came == 0 || led == 0 {
		t.Errorf("no race: %d times inside, %d times at the link", came, led)
	}
	wantFile(t, filepath.Join(top, "secret"), "secret")
	wantFile(t, filepath.Join(top, "file"), "outside")
	if info, err := os.Stat(filepath.Join(top, "secret")); err != nil || info.Mode() != 0o644 {
		t.Errorf("the secret's mode: %v, %v", info.Mode(), err)
	}
}

// Other file systems below the directory are not entered.
func TestEscapeByMount(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc to try")
	}
	c := newClient(t, "/", true)
	if _, err := c.walk(root, 1, "proc"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("walk into /proc: %v", err)
	}
	if n, err := c.walk(root, 1, "proc", "self", "mem"); n != 0 || !errors.Is(err, unix.EXDEV) {
		t.Errorf("walk into /proc: %d names, %v", n, err)
	}
}
