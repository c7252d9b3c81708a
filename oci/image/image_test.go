package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

// file is one entry of a tar made for a test; a name ending in / is a directory.
type file struct {
	name, data string
	typ        byte
	link       string
	mode       int64
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.typ, Linkname: f.link, Mode: f.mode, Size: int64(len(f.data)), Uid: os.Geteuid(), Gid: os.Getegid()}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(f.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listing describes a tree: "path" for directories, "path=contents" and "path->target".
func listing(t *testing.T, root string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch d.Type() {
		case fs.ModeDir:
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			rel += "->" + target
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel += "=" + string(b)
		default:
			rel += d.Type().String()
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestLayers(t *testing.T) {
	for name, tt := range map[string]struct {
		layers [][]file
		want   string
		fails  string
	}{
		"plain":                      {layers: [][]file{{{name: "a/"}, {name: "a/f", data: "1"}, {name: "./b/c/d", data: "2"}}}, want: "a a/f=1 b b/c b/c/d=2"},
		"whiteout":                   {layers: [][]file{{{name: "a/f", data: "1"}, {name: "a/g", data: "2"}}, {{name: "a/.wh.f"}}}, want: "a a/g=2"},
		"whiteout of a tree":         {layers: [][]file{{{name: "a/b/c/f", data: "1"}}, {{name: ".wh.a"}}}, want: ""},
		"whiteout, then anew":        {layers: [][]file{{{name: "a/f", data: "1"}}, {{name: ".wh.a"}, {name: "a/"}, {name: "a/g", data: "2"}}}, want: "a a/g=2"},
		"anew, then whiteout":        {layers: [][]file{{{name: "a/f", data: "1"}}, {{name: "a/"}, {name: "a/g", data: "2"}, {name: ".wh.a"}}}, want: "a a/g=2"},
		"opaque":                     {layers: [][]file{{{name: "a/f", data: "1"}, {name: "a/s/g", data: "1"}}, {{name: "a/h", data: "2"}, {name: "a/.wh..wh..opq"}, {name: "a/i", data: "3"}}}, want: "a a/h=2 a/i=3"},
		"opaque keeps new subtrees":  {layers: [][]file{{{name: "a/s/f", data: "1"}}, {{name: "a/s/g", data: "2"}, {name: "a/.wh..wh..opq"}}}, want: "a a/s a/s/g=2"},
		"opaque root":                {layers: [][]file{{{name: "a/s/f", data: "1"}}, {{name: "b", data: "2"}, {name: ".wh..wh..opq"}}}, want: "b=2"},
		"whiteout of nothing":        {layers: [][]file{{{name: "no/such/.wh.f"}, {name: ".wh.g"}}}, want: ""},
		"aufs leftovers":             {layers: [][]file{{{name: ".wh..wh.aufs"}, {name: "a", data: "1"}}}, want: "a=1"},
		"file over directory":        {layers: [][]file{{{name: "a/f", data: "1"}}, {{name: "a", data: "2"}}}, want: "a=2"},
		"directory over file":        {layers: [][]file{{{name: "a", data: "1"}}, {{name: "a/f", data: "2"}}}, fails: "not a directory"},
		"directory entry over file":  {layers: [][]file{{{name: "a", data: "1"}}, {{name: "a/"}, {name: "a/f", data: "2"}}}, want: "a a/f=2"},
		"directory over directory":   {layers: [][]file{{{name: "a/f", data: "1"}}, {{name: "a/"}, {name: "a/g", data: "2"}}}, want: "a a/f=1 a/g=2"},
		"hard link":                  {layers: [][]file{{{name: "a", data: "1"}, {name: "b", typ: tar.TypeLink, link: "a"}, {name: "c", typ: tar.TypeLink, link: "./b"}}}, want: "a=1 b=1 c=1"},
		"hard link to itself":        {layers: [][]file{{{name: "a", data: "1"}, {name: "a", typ: tar.TypeLink, link: "a"}}}, want: "a=1"},
		"hard link to nothing":       {layers: [][]file{{{name: "b", typ: tar.TypeLink, link: "a"}}}, fails: "hard link"},
		"hard link to a directory":   {layers: [][]file{{{name: "a/"}, {name: "b", typ: tar.TypeLink, link: "a"}}}, fails: "hard link"},
		"hard link out":              {layers: [][]file{{{name: "b", typ: tar.TypeLink, link: "../../../etc/passwd"}}}, fails: "climbs"},
		"symlink in the way":         {layers: [][]file{{{name: "usr/bin/"}, {name: "bin", typ: tar.TypeSymlink, link: "usr/bin"}, {name: "bin/sh", data: "1"}}}, want: "bin->usr/bin usr usr/bin usr/bin/sh=1"},
		"absolute symlink stays in":  {layers: [][]file{{{name: "in/"}, {name: "l", typ: tar.TypeSymlink, link: "/in"}, {name: "l/f", data: "1"}}}, want: "in in/f=1 l->/in"},
		"climbing symlink stays in":  {layers: [][]file{{{name: "in/"}, {name: "l", typ: tar.TypeSymlink, link: "../../../in"}, {name: "l/f", data: "1"}}}, want: "in in/f=1 l->../../../in"},
		"symlink to an outside name": {layers: [][]file{{{name: "l", typ: tar.TypeSymlink, link: "/OUTSIDE"}, {name: "l/f", data: "1"}}}, fails: "file exists"},
		"write through a file link":  {layers: [][]file{{{name: "l", typ: tar.TypeSymlink, link: "/OUTSIDE/victim"}}, {{name: "l", data: "1"}}}, want: "l=1"},
		"directory replaces link":    {layers: [][]file{{{name: "l", typ: tar.TypeSymlink, link: "/OUTSIDE"}, {name: "l/"}, {name: "l/f", data: "1"}}}, want: "l l/f=1"},
		"link replaces directory":    {layers: [][]file{{{name: "in/"}, {name: "l/f", data: "0"}, {name: "l", typ: tar.TypeSymlink, link: "in"}, {name: "l/f", data: "1"}}}, want: "in in/f=1 l->in"},
		"link loop":                  {layers: [][]file{{{name: "a", typ: tar.TypeSymlink, link: "b"}, {name: "b", typ: tar.TypeSymlink, link: "a"}, {name: "a/f"}}}, fails: "too many"},
		"hard link through link":     {layers: [][]file{{{name: "l", typ: tar.TypeSymlink, link: "/OUTSIDE"}, {name: "h", typ: tar.TypeLink, link: "l/victim"}}}, fails: "hard link"},
		"climbing name":              {layers: [][]file{{{name: "a/../../x", data: "1"}}}, fails: "climbs"},
		"absolute name stays in":     {layers: [][]file{{{name: "/a", data: "1"}}}, want: "a=1"},
		"whiteout of ..":             {layers: [][]file{{{name: "a/"}}, {{name: "a/.wh..."}}}, fails: "whiteout"},
		"FIFO":                       {layers: [][]file{{{name: "p", typ: tar.TypeFifo}}}, want: "pp---------"},
		"the root itself":            {layers: [][]file{{{name: "./"}, {name: "a"}}}, want: "a="},
		"file as root":               {layers: [][]file{{{name: "."}}}, fails: "root"},
		"setuid and modes":           {layers: [][]file{{{name: "s", mode: 0o4755}}}, want: "s="},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
			for _, dir := range []string{root, outside} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "victim"), []byte("safe"), 0o644); err != nil {
				t.Fatal(err)
			}
			u, err := newUnpacker(root, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer u.close()
			for i := 0; err == nil && i < len(tt.layers); i++ {
				for j, f := range tt.layers[i] {
					tt.layers[i][j].link = strings.Replace(f.link, "/OUTSIDE", outside, 1)
				}
				err = u.layer(bytes.NewReader(tarOf(t, tt.layers[i]...)), true)
			}
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error %v, want %q in it", err, tt.fails)
				}
			} else if err != nil {
				t.Error(err)
			} else if got := listing(t, root); got != tt.want {
				t.Errorf("the tree is %q, want %q", got, tt.want)
			}
			if got := listing(t, outside); got != "victim=safe" {
				t.Errorf("outside is %q", got)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	data := tarOf(t, file{name: "a", data: "12345"}, file{name: "b", data: "67890"})
	for _, tt := range []struct {
		l    Limits
		want string
	}{{Limits{Bytes: 9}, "larger"}, {Limits{Entries: 1}, "too many files"}, {Limits{Bytes: 10, Entries: 2}, ""}} {
		u, err := newUnpacker(t.TempDir(), tt.l)
		if err != nil {
			t.Fatal(err)
		}
		defer u.close()
		err = u.layer(bytes.NewReader(data), true)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: %v, want %q", tt.l, err, tt.want)
		}
	}
}

func TestAttributes(t *testing.T) {
	root := t.TempDir()
	u, err := newUnpacker(root, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	if err := u.layer(bytes.NewReader(tarOf(t, file{name: "s", mode: 0o4751}, file{name: "d/", mode: 0o1777}, file{name: "d/f", mode: 0o600})), true); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"s": 0o751 | os.ModeSetuid, "d": 0o777 | os.ModeSticky | os.ModeDir, "d/f": 0o600} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil || info.Mode() != want || info.ModTime().Unix() != 0 {
			t.Errorf("%s: %v, %v; want mode %v and time 0", name, info, err, want)
		}
	}
}

// testImage is an image of two layers with a configuration.
func testImage(t testing.TB) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, files := range [][]file{
		{{name: "etc/"}, {name: "etc/passwd", data: "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n"}, {name: "old", data: "1"}},
		{{name: ".wh.old"}, {name: "new", data: "2"}},
	} {
		data := tarOf(t, files...)
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", "amd64"
	f.Config = v1.Config{Entrypoint: []string{"/new"}, Cmd: []string{"x"}, Env: []string{"A=b"}, WorkingDir: "/etc", User: "web", StopSignal: "SIGQUIT"}
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

func gzipped(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// layoutDir writes testImage as an OCI layout.
func layoutDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(testImage(t), layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"})); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tarDir is a tar of a directory's files.
func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dockerArchive(t testing.TB) []byte {
	t.Helper()
	tag, err := name.NewTag("test:latest")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, testImage(t), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOpen(t *testing.T) {
	rootfs := tarOf(t, file{name: "./"}, file{name: "./bin/"}, file{name: "./bin/sh", data: "x"})
	dir := layoutDir(t)
	plainDir := t.TempDir()
	write := func(b []byte) string {
		p := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const tree = "etc etc/passwd=root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n new=2"
	for name, tt := range map[string]struct {
		path string
		kind Kind
		tree string
	}{
		"directory":                {plainDir, KindDirectory, ""},
		"rootfs tar":               {write(rootfs), KindTar, "bin bin/sh=x"},
		"rootfs tar.gz":            {write(gzipped(t, rootfs)), KindTar, "bin bin/sh=x"},
		"rootfs tar.zst":           {write(zstded(t, rootfs)), KindTar, "bin bin/sh=x"},
		"OCI layout":               {dir, KindLayout, tree},
		"OCI layout tar":           {write(tarDir(t, dir)), KindLayout, tree},
		"OCI layout tar.gz":        {write(gzipped(t, tarDir(t, dir))), KindLayout, tree},
		"docker archive":           {write(dockerArchive(t)), KindDockerArchive, tree},
		"docker archive, zstd":     {write(zstded(t, dockerArchive(t))), KindDockerArchive, tree},
		"rootfs with a whiteout":   {write(tarOf(t, file{name: "bin/.wh.x", data: "1"})), KindTar, "bin bin/.wh.x=1"},
		"rootfs of no known names": {write(tarOf(t, file{name: "blobs/"}, file{name: "blobs/x", data: "1"})), KindTar, "blobs blobs/x=1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Cache: filepath.Join(t.TempDir(), "cache")}
			for round := range 2 { // the second time from the cache
				img, err := Open(tt.path, o)
				if err != nil {
					t.Fatal(err)
				}
				if img.Kind != tt.kind || img.Shared != (tt.kind != KindDirectory) {
					t.Errorf("round %d: %+v", round, img)
				}
				if got := listing(t, img.Root); got != tt.tree {
					t.Errorf("round %d: the tree is %q, want %q", round, got, tt.tree)
				}
				if tt.tree == tree && (!slices.Equal(img.Config.Entrypoint, []string{"/new"}) || img.Config.WorkingDir != "/etc" || img.Config.StopSignal != "SIGQUIT" || img.Config.User != "web") {
					t.Errorf("round %d: configuration %+v", round, img.Config)
				}
			}
		})
	}
}

// TestConcurrentOpen unpacks one image from many goroutines, each as a process would, into one cache that a killed run has left rubbish in.
func TestConcurrentOpen(t *testing.T) {
	dir, cache := layoutDir(t), filepath.Join(t.TempDir(), "cache")
	first, err := Open(dir, Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	want := listing(t, first.Root)
	if err := os.Rename(filepath.Dir(first.Root), filepath.Dir(first.Root)+".partial"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			img, err := Open(dir, Options{Cache: cache})
			if err != nil {
				t.Error(err)
			} else if got := listing(t, img.Root); got != want {
				t.Errorf("the tree is %q, want %q", got, want)
			}
		})
	}
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(cache, "*.partial"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestChangedFile wants a file that was replaced to be read anew.
func TestChangedFile(t *testing.T) {
	path, o := filepath.Join(t.TempDir(), "tar"), Options{Cache: filepath.Join(t.TempDir(), "cache")}
	for _, data := range []string{"one", "two"} {
		next := path + ".next"
		if err := os.WriteFile(next, tarOf(t, file{name: "bin", data: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		img, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if got := listing(t, img.Root); got != "bin="+data {
			t.Errorf("the tree is %q, want %q", got, "bin="+data)
		}
	}
}

func TestBrokenImages(t *testing.T) {
	// blob returns the file of the layout's only blob of the wanted kind.
	blob := func(t *testing.T, dir, holds string) string {
		entries, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p := filepath.Join(dir, "blobs/sha256", e.Name())
			if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(holds)) {
				return p
			}
		}
		t.Fatalf("no blob holds %q", holds)
		return ""
	}
	layerBlob := "\x1f\x8b"
	for name, breakIt := range map[string]func(t *testing.T, dir string) string{
		"config changed": func(t *testing.T, dir string) string {
			p := blob(t, dir, `"StopSignal"`)
			b, _ := os.ReadFile(p)
			return write(t, p, bytes.Replace(b, []byte("SIGQUIT"), []byte("SIGKILL"), 1), "damaged")
		},
		"layer cut": func(t *testing.T, dir string) string {
			p := blob(t, dir, layerBlob)
			b, _ := os.ReadFile(p)
			return write(t, p, b[:len(b)-10], "bytes")
		},
		"layer swapped": func(t *testing.T, dir string) string {
			p := blob(t, dir, layerBlob)
			b, _ := os.ReadFile(p)
			other := gzipped(t, tarOf(t, file{name: "evil"}))
			return write(t, p, append(other, make([]byte, max(0, len(b)-len(other)))...)[:len(b)], "")
		},
		"config missing": func(t *testing.T, dir string) string {
			if err := os.Remove(blob(t, dir, `"StopSignal"`)); err != nil {
				t.Fatal(err)
			}
			return "missing"
		},
		"index is no JSON": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "index.json"), []byte("{"), "index")
		},
		"index huge": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "index.json"), make([]byte, maxJSON+1), "more than")
		},
		"index a FIFO": func(t *testing.T, dir string) string {
			p := filepath.Join(dir, "index.json")
			if err := errors.Join(os.Remove(p), mkfifo(p)); err != nil {
				t.Fatal(err)
			}
			return "regular"
		},
		"index outside": func(t *testing.T, dir string) string {
			p := filepath.Join(dir, "index.json")
			if err := errors.Join(os.Rename(p, dir+".json"), os.Symlink("../layout.json", p)); err != nil {
				t.Fatal(err)
			}
			return "escapes"
		},
		"two images": func(t *testing.T, dir string) string {
			if err := layout.Path(dir).AppendImage(empty.Image); err != nil {
				t.Fatal(err)
			}
			return "exactly one"
		},
		"digest climbs": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "index.json"),
				[]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../../../../etc/passwd","size":1,"mediaType":"application/vnd.oci.image.manifest.v1+json"}]}`), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := layoutDir(t)
			want := breakIt(t, dir)
			cache := filepath.Join(t.TempDir(), "cache")
			img, err := Open(dir, Options{Cache: cache})
			if err == nil {
				t.Fatalf("opened as %+v", img)
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q, want %q in it", err, want)
			}
			left, _ := filepath.Glob(filepath.Join(cache, "*", "rootfs"))
			if len(left) != 0 {
				t.Errorf("left in the cache: %v", left)
			}
		})
	}
	p := filepath.Join(t.TempDir(), "text")
	write(t, p, []byte("no image at all"), "")
	if _, err := Open(p, Options{Cache: t.TempDir()}); !errors.Is(err, ErrInvalid) {
		t.Errorf("text: %v", err)
	}
}

func TestBadCache(t *testing.T) {
	cache := t.TempDir()
	if err := os.Chmod(cache, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(layoutDir(t), Options{Cache: cache}); err == nil || !strings.Contains(err.Error(), "cache") {
		t.Errorf("a cache that anybody may write to: %v", err)
	}
}

func write(t *testing.T, p string, b []byte, want string) string {
	t.Helper()
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return want
}

func TestIdentify(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\n# no user\nweb:x:33:44::/srv:/bin/false\nbad:x:-1:0::/:\nshort:x\n"
	const group = "root:x:0:\nweb:x:44:\nlog:x:5:root,web\nsys:x:6:web\n"
	for user, want := range map[string]string{
		"":          "{0 0 [5] /root} <nil>",
		"web":       "{33 44 [5 6] /srv} <nil>",
		"33":        "{33 44 [5 6] /srv} <nil>",
		"web:log":   "{33 5 [] /srv} <nil>",
		"1000":      "{1000 0 [] } <nil>",
		"1000:2000": "{1000 2000 [] } <nil>",
		"1000:sys":  "{1000 6 [] } <nil>",
		"nobody":    "no such user", "bad": "no such user", "web:none": "no such group", "4294967295": "no such user", "-1": "no such user",
	} {
		id, err := identify(passwd, group, user)
		if got := fmt.Sprint(id, err); got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, want %s", user, got, want)
		}
	}
}

func TestLookupStaysInside(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(root, "root"); err == nil {
		t.Error("found a user without a passwd file")
	}
	// On the host /etc/hostname exists; inside, the link leads nowhere.
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "etc/group")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("me:x:7:8::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if id, err := Lookup(root, "me"); err != nil || id.UID != 7 || id.GID != 8 {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := Lookup(root, "daemon"); err == nil {
		t.Error("the host's users are seen")
	}
	if err := errors.Join(os.Remove(filepath.Join(root, "etc/passwd")), mkfifo(filepath.Join(root, "etc/passwd"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(root, "me"); !errors.Is(err, ErrInvalid) {
		t.Errorf("passwd is a FIFO: %v", err)
	}
}
