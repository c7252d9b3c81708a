package rootdisk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/qenex/qenex-kernel/oci/image"
	"github.com/qenex/qenex-kernel/rootdisk/ext4"
)

// entry is one of a tar made for a test: a name that ends in / is a directory.
type entry struct {
	name, data string
	h          tar.Header
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.h
		h.Name, h.Size, h.ModTime = e.name, int64(len(e.data)), time.Unix(1700000000, 0)
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func save(t testing.TB, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// tools skips a test that cannot be judged.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath("/usr/sbin/" + name)
	if err != nil {
		t.Skipf("NOT TESTED: %v; install the package e2fsprogs", err)
	}
	return p
}

// check runs e2fsck and debugfs on a disk and returns what debugfs prints.
func check(t testing.TB, disk string, commands ...string) string {
	t.Helper()
	if out, err := exec.Command(tool(t, "e2fsck"), "-fn", disk).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	c := exec.Command(tool(t, "debugfs"), "-f", "-", disk)
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	return string(out)
}

// layers are three layers that use everything layers can.
func layers(t testing.TB) [][]byte {
	return [][]byte{
		tarOf(t,
			entry{name: "usr/", h: tar.Header{Mode: 0o711, Uid: 3, Gid: 4}},
			entry{name: "usr/lib/base", data: "base"},
			entry{name: "lib", h: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/usr/lib"}},
			entry{name: "lib/through", data: "through a link"},
			entry{name: "gone/a", data: "1"}, entry{name: "gone/b", data: "2"}, entry{name: "opaque/old", data: "3"},
			entry{name: "set", data: "set", h: tar.Header{Mode: 0o6755, Uid: 70000, Gid: 80000}},
			entry{name: "ping", data: "ping", h: tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14)}}},
			entry{name: "dev/null", h: tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
			entry{name: "pipe", h: tar.Header{Typeflag: tar.TypeFifo}},
		),
		tarOf(t,
			entry{name: "gone/.wh.a"}, entry{name: "opaque/new", data: "new"}, entry{name: "opaque/.wh..wh..opq"},
			entry{name: "hard", h: tar.Header{Typeflag: tar.TypeLink, Linkname: "lib/base"}},
			entry{name: "usr/lib/base2", data: "second"},
		),
		tarOf(t, entry{name: "usr/lib/base", data: "changed"}, entry{name: ".wh.pipe"}, entry{name: "lib/last", data: strings.Repeat("last", 5000)}),
	}
}

func layered(t testing.TB, all [][]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, b := range all {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf.OS, cf.Architecture, cf.Config.Entrypoint, cf.Config.Env = "linux", "amd64", []string{"/ping", "-c1"}, []string{"A=b"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestLayers has the same image as a layout and as a docker archive.
func TestLayers(t *testing.T) {
	img := layered(t, layers(t))
	oci := t.TempDir()
	if _, err := layout.Write(oci, empty.Index); err != nil {
		t.Fatal(err)
	}
	if err := layout.Path(oci).AppendImage(img); err != nil {
		t.Fatal(err)
	}
	var docker bytes.Buffer
	if err := tarball.Write(nil, img, &docker); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	var disks []string
	for _, path := range []string{oci, save(t, "docker.tar", docker.Bytes())} {
		disk, config, err := Build(t.Context(), path, cache)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(config.Entrypoint, []string{"/ping", "-c1"}) || !slices.Equal(config.Env, []string{"A=b"}) {
			t.Errorf("configuration %+v", config)
		}
		disks = append(disks, disk)
	}
	if disks[0] != disks[1] {
		t.Errorf("the same image makes %q", disks)
	}
	out := check(t, disks[0], "ls -l /", "ls -l /gone", "ls -l /opaque", "ls -l /usr/lib", "cat /hard", "cat /usr/lib/base", "stat /set", "stat /dev/null", "ea_list /ping", "stat /usr")
	for _, want := range []string{
		"cat /hard\nbase", "cat /usr/lib/base\nchanged", "Mode:  06755", "User: 70000   Group: 80000", "Device major/minor number: 01:03", "security.capability (20)",
		"Mode:  0711", " through\n", " base2\n", " last\n", " new\n", " b\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("debugfs does not say %q", want)
		}
	}
	for _, no := range []string{" a\n", " old\n", " pipe\n"} {
		if strings.Contains(out, no) {
			t.Errorf("debugfs says %q", no)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	if st, err := os.Stat(disks[0]); err != nil || st.Mode().Perm() != 0o400 || st.Size() < defaultFree {
		t.Errorf("%v %v", st, err)
	}
}

func TestRootfsTar(t *testing.T) {
	plain := tarOf(t, entry{name: "./"}, entry{name: "./.wh.kept", data: "no whiteout"}, entry{name: "./etc/hostname", data: "h"})
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	disk, _, err := Build(t.Context(), save(t, "root.tar.gz", z.Bytes()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out := check(t, disk, "cat /.wh.kept"); !strings.Contains(out, "no whiteout") {
		t.Error(out)
	}
}

func TestDirectory(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	for name, data := range map[string]string{"a": "one", "sub/b": "two"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "sub/hard")), os.Symlink("/etc/passwd", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	disk, _, err := Build(t.Context(), dir, cache)
	if err != nil {
		t.Fatal(err)
	}
	out := check(t, disk, "cat /sub/hard", "stat /a", "stat /link", "cat /sub/b")
	for _, want := range []string{"one", "Links: 2", `Fast link dest: "/etc/passwd"`, "two", "Mode:  0640", "User:     0   Group:     0"} {
		if !strings.Contains(out, want) {
			t.Errorf("debugfs does not say %q\n%s", want, out)
		}
	}
	if again, _, err := Build(t.Context(), dir, cache); err != nil || again != disk {
		t.Errorf("again: %s, %v", again, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub/b"), []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	if changed, _, err := Build(t.Context(), dir, cache); err != nil || changed == disk {
		t.Errorf("changed: %s, %v", changed, err)
	}
}

// TestHostile has archives that must be refused, whose disks must not appear.
func TestHostile(t *testing.T) {
	link := func(name, target string, typ byte) entry {
		return entry{name: name, h: tar.Header{Typeflag: typ, Linkname: target}}
	}
	loop := []entry{link("a", "b", '2'), link("b", "a", '2'), {name: "a/x", data: "1"}}
	for name, entries := range map[string][]entry{
		"climbs":          {{name: "../x", data: "1"}},
		"climbs inside":   {{name: "a/../../x", data: "1"}},
		"root is a file":  {{name: ".", h: tar.Header{Typeflag: tar.TypeReg}}},
		"link loop":       loop,
		"hard to nothing": {link("h", "nothing", '1')},
		"hard to a dir":   {{name: "d/"}, link("h", "d", '1')},
		"hard climbs":     {link("h", "../../etc/passwd", '1')},
		"long name":       {{name: strings.Repeat("x", 256), data: "1"}},
		"long path":       {{name: strings.Repeat("abc/", 1500) + "x", data: "1"}},
		"long target":     {link("l", strings.Repeat("x", 5000), '2')},
		"below a file":    {{name: "f", data: "1"}, {name: "f/g", data: "2"}},
		"odd type":        {{name: "x", h: tar.Header{Typeflag: '7'}}},
		"device number":   {{name: "x", h: tar.Header{Typeflag: '3', Devmajor: 5000}}},
		"owner":           {{name: "x", h: tar.Header{Uid: 1<<32 - 1}}},
		"attributes":      {{name: "x", h: tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", 5000)}}}},
		"lost+found":      {{name: "lost+found", data: "1"}},
		"too many":        slices.Repeat([]entry{{name: "x"}}, 200),
		"too large":       {{name: "x", data: strings.Repeat("x", 2<<20)}},
	} {
		cache := t.TempDir()
		b := Builder{Cache: cache, Limits: image.Limits{Bytes: 1 << 20, Entries: 100}}
		_, _, err := b.Build(t.Context(), save(t, "x.tar", tarOf(t, entries...)))
		if !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		left, err := filepath.Glob(cache + "/*.[ep][xa][tr]*")
		if err != nil || len(left) != 0 {
			t.Errorf("%s leaves %v, %v", name, left, err)
		}
	}
	cut := tarOf(t, entry{name: "x", data: strings.Repeat("x", 9000)})
	if _, _, err := Build(t.Context(), save(t, "cut.tar", cut[:4000]), t.TempDir()); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("cut off: %v", err)
	}
}

// TestDamaged has images whose layers are not what their digests say.
func TestDamaged(t *testing.T) {
	var docker bytes.Buffer
	if err := tarball.Write(nil, layered(t, layers(t)), &docker); err != nil {
		t.Fatal(err)
	}
	b := docker.Bytes()
	damaged := 0
	for off := len(b) / 8; off < len(b); off += len(b)/8 + 7 {
		bad := bytes.Clone(b)
		bad[off] ^= 0x55
		cache := t.TempDir()
		disk, _, err := Build(t.Context(), save(t, "docker.tar", bad), cache)
		if err == nil { // padding between the archive's members
			check(t, disk)
			continue
		}
		damaged++
		if left, err := filepath.Glob(cache + "/*.[ep][xa][tr]*"); err != nil || len(left) != 0 {
			t.Errorf("a damaged image leaves %v, %v", left, err)
		}
	}
	if damaged == 0 {
		t.Error("no damage was noticed")
	}
}

// TestLinksStayInside follows links that lead out of a root directory on a host.
func TestLinksStayInside(t *testing.T) {
	disk, _, err := Build(t.Context(), save(t, "x.tar", tarOf(t,
		entry{name: "l", h: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "../../../../tmp"}},
		entry{name: "l/file", data: "inside"},
		entry{name: "self", data: "1"}, entry{name: "self", h: tar.Header{Typeflag: tar.TypeLink, Linkname: "self"}},
	)), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out := check(t, disk, "cat /tmp/file"); !strings.Contains(out, "inside") {
		t.Error(out)
	}
}

// TestConcurrent has many builders of one image, of which one builds.
func TestConcurrent(t *testing.T) {
	c, err := openCache(t.TempDir(), defaultKeep)
	if err != nil {
		t.Fatal(err)
	}
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			disk, config, err := c.put(t.Context(), "name", func(f *os.File) (image.Config, error) {
				fills.Add(1)
				_, err := f.WriteString("whole")
				return image.Config{User: "u"}, err
			})
			if b, rerr := os.ReadFile(disk); err != nil || rerr != nil || string(b) != "whole" || config.User != "u" {
				t.Errorf("%s: %q, %v, %v", disk, b, err, rerr)
			}
		})
	}
	wg.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("made %d times", n)
	}
}

// TestWaitEnds has a builder that gives up waiting for another.
func TestWaitEnds(t *testing.T) {
	c, err := openCache(t.TempDir(), defaultKeep)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := c.lock(t.Context(), "name")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.put(ctx, "name", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	unlock()
	again, err := c.lock(t.Context(), "name")
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// TestFailure has a builder that fails, and then one that does not.
func TestFailure(t *testing.T) {
	c, err := openCache(t.TempDir(), defaultKeep)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk full")
	if _, _, err := c.put(t.Context(), "name", func(*os.File) (image.Config, error) { return image.Config{}, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := os.Stat(c.path("name.part")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := os.WriteFile(c.path("name.part"), []byte("left by one that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, _, err := c.put(t.Context(), "name", func(*os.File) (image.Config, error) { return image.Config{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(disk); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// TestTrim wants the disks not used for longest to go, but none that was just asked for.
func TestTrim(t *testing.T) {
	c, err := openCache(t.TempDir(), 100<<10)
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, age time.Duration) {
		_, _, err := c.put(t.Context(), name, func(f *os.File) (image.Config, error) {
			_, err := f.Write(bytes.Repeat([]byte("x"), 40<<10))
			return image.Config{}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(c.path(name+".json"), then, then); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := c.lock(t.Context(), "being-made")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for _, name := range []string{"being-made.part", "left.part"} {
		if err := os.WriteFile(c.path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add("old", 3*time.Hour)
	add("older", 4*time.Hour)
	add("new", 0)
	add("newer", 0)
	add("newest", 0)
	left, err := filepath.Glob(c.path("*.[ep][xa][tr]*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range left {
		left[i] = filepath.Base(p)
	}
	if want := []string{"being-made.part", "new.ext4", "newer.ext4", "newest.ext4"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}

func TestCacheOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(dir, 1); err == nil {
		t.Error("a cache that everybody may write to is used")
	}
}

func TestRecognise(t *testing.T) {
	dir := t.TempDir()
	mbr := make([]byte, 2048)
	copy(mbr[510:], "\x55\xaa")
	ext := make([]byte, 2048)
	copy(ext[1080:], "\x53\xef")
	for name, b := range map[string][]byte{
		"a.img": nil, "b.raw": []byte("any"), "c.qcow2": []byte("QFI\xfb..."), "d.img": []byte("QFI\xfb..."), "e": mbr, "f": ext,
		"g.tar": tarOf(t, entry{name: "x"}), "h": []byte("\x1f\x8b"), "i": []byte("nothing"), "j.qcow2": mbr, "k": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		spec string
		kind Kind
	}{
		{"a.img", Raw}, {"b.raw", Raw}, {"c.qcow2", Qcow2}, {"d.img", ""}, {"e", Raw}, {"f", Raw}, {"g.tar", Image}, {"h", Image}, {"i", ""}, {"j.qcow2", ""}, {"k", ""},
		{"", Image}, {"missing", ""},
	} {
		kind, path, err := Recognise(filepath.Join(dir, c.spec))
		if kind != c.kind || (err == nil) != (c.kind != "") || err == nil && path != filepath.Join(dir, c.spec) {
			t.Errorf("%s: %q, %s, %v; want %q", c.spec, kind, path, err, c.kind)
		}
	}
	for spec, kind := range map[string]Kind{"raw:d.img": Raw, "qcow2:d.img": Qcow2, "oci:d": Image, "docker-archive:d": Image, "tar:d": Image, "dir:d": Image} {
		got, path, err := Recognise(spec)
		if got != kind || err != nil || path != spec[strings.Index(spec, ":")+1:] {
			t.Errorf("%s: %q, %s, %v", spec, got, path, err)
		}
	}
	if _, _, err := Recognise("raw:"); err == nil {
		t.Error("a prefix without a path")
	}
}

// FuzzLayer puts any bytes above a layer and wants a tree that can be written, or an error that blames the image. What is written
// of any tree is judged by ext4's FuzzTree.
func FuzzLayer(f *testing.F) {
	for _, l := range layers(f) {
		f.Add(l)
	}
	f.Add(tarOf(f, entry{name: "a/f", data: "1"}, entry{name: "a/.wh..wh..opq"}, entry{name: ".wh.a"}))
	f.Add(tarOf(f, entry{name: "l", h: tar.Header{Typeflag: '2', Linkname: "/.."}}, entry{name: "l/v", data: "2"}, entry{name: "h", h: tar.Header{Typeflag: '1', Linkname: "l/v"}}))
	base := layers(f)[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		w := ext4.NewWriter(disk)
		tr := newTree(t.Context(), w, image.Limits{Bytes: 1 << 20, Entries: 1000})
		if err := tr.layer(bytes.NewReader(base), true); err != nil {
			t.Fatal(err)
		}
		if err := tr.layer(bytes.NewReader(data), true); err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Errorf("an error that does not blame the image: %v", err)
			}
			return
		}
		if err := w.Finish(tr.root, 0, [32]byte{}, time.Unix(0, 0)); err != nil {
			if !errors.Is(err, ext4.ErrLimit) && !strings.Contains(fmt.Sprint(err), "lost+found") {
				t.Error(err)
			}
		}
	})
}

// FuzzByName gives the recognition any bytes: qcow2 only ever by name.
func FuzzByName(f *testing.F) {
	f.Add(".img", []byte("QFI\xfb"))
	f.Add(".qcow2", []byte("QFI\xfb"))
	f.Fuzz(func(t *testing.T, suffix string, head []byte) {
		if kind, err := byName(suffix, head); kind == Qcow2 && suffix != ".qcow2" || (kind == "") != (err != nil) {
			t.Errorf("%q, %v", kind, err)
		}
	})
}
