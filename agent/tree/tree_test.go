package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry is one of a stream that is written by hand.
type entry struct {
	kind          byte
	name, content string // or the link's target
	mode          int64
}

func archive(t testing.TB, entries ...entry) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Mode: e.mode, ModTime: time.Unix(1e9, 0), Uid: 12, Gid: 34}
		if e.mode == 0 {
			h.Mode = 0o644
		}
		switch e.kind {
		case tar.TypeReg:
			h.Size = int64(len(e.content))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = e.content
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			io.WriteString(w, e.content)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// target is a directory inside another, which must never be touched.
func target(t testing.TB) (dir string, untouched func()) {
	outer := t.TempDir()
	dir = filepath.Join(outer, "in")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(outer, "out"), 0o755),
		os.WriteFile(filepath.Join(outer, "secret"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		names, _ := filepath.Glob(outer + "/*")
		inside, _ := filepath.Glob(outer + "/out/*")
		secret, _ := os.ReadFile(filepath.Join(outer, "secret"))
		st, _ := os.Stat(filepath.Join(outer, "secret"))
		if len(names) != 3 || len(inside) != 0 || string(secret) != "secret" || st.Mode() != 0o600 || st.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("written outside: %q %q, secret %q %v", names, inside, secret, st.Mode())
		}
	}
}

// TestEscapes: no stream writes outside the directory, or links what is outside into it.
func TestEscapes(t *testing.T) {
	reg, sym, link, dir := byte(tar.TypeReg), byte(tar.TypeSymlink), byte(tar.TypeLink), byte(tar.TypeDir)
	for name, stream := range map[string][]entry{
		"parent":                {{reg, "../secret", "x", 0}},
		"parent inside":         {{reg, "a/../../secret", "x", 0}},
		"absolute":              {{reg, "/tmp/qenex-escape", "x", 0}},
		"empty":                 {{dir, "a", "", 0}, {link, "b", "", 0}},
		"through a link":        {{sym, "a", "..", 0}, {reg, "a/secret", "x", 0}},
		"through two links":     {{sym, "a", ".", 0}, {sym, "a/b", "..", 0}, {reg, "b/secret", "x", 0}},
		"through an absolute":   {{sym, "a", "/", 0}, {reg, "a/tmp/qenex-escape", "x", 0}},
		"directory over a link": {{sym, "a", "../out", 0}, {reg, "a/b", "x", 0}},
		"hard link out":         {{link, "a", "../secret", 0}},
		"hard link through":     {{sym, "a", "..", 0}, {link, "b", "a/secret", 0}},
		"hard link absolute":    {{link, "a", "/etc/passwd", 0}},
		"device through":        {{sym, "a", "../out", 0}, {tar.TypeFifo, "a/f", "", 0}},
		"directory through":     {{sym, "a", "../out", 0}, {dir, "a/d", "", 0}},
		"link through":          {{sym, "a", "../out", 0}, {sym, "a/d", "x", 0}},
	} {
		for _, trusted := range []bool{true, false} {
			dir, untouched := target(t)
			if trusted && os.Getuid() != 0 {
				continue
			}
			err := Unpack(archive(t, stream...), dir, Options{Trusted: trusted})
			untouched()
			if err == nil && !strings.HasPrefix(name, "device") {
				t.Errorf("%s, trusted %t: no error", name, trusted)
			}
			if _, err := os.Stat("/tmp/qenex-escape"); err == nil {
				t.Errorf("%s: written to /tmp", name)
			}
		}
	}
}

// TestLinksAreReplaced: a file or directory that takes the place of a link does not go through it.
func TestLinksAreReplaced(t *testing.T) {
	dir, untouched := target(t)
	err := Unpack(archive(t,
		entry{tar.TypeSymlink, "a", "../secret", 0}, entry{tar.TypeReg, "a", "mine", 0},
		entry{tar.TypeSymlink, "d", "../out", 0}, entry{tar.TypeDir, "d", "", 0o750}, entry{tar.TypeReg, "d/f", "f", 0},
	), dir, Options{})
	untouched()
	if b, _ := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "d")); err != nil || st.Mode() != fs.ModeDir|0o750 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestUntrusted: a guest's stream makes no owners, set-user-ID bits and devices.
func TestUntrusted(t *testing.T) {
	dir := t.TempDir()
	var skipped []string
	err := Unpack(archive(t,
		entry{tar.TypeReg, "suid", "x", 0o6755}, entry{tar.TypeDir, "d", "", 0o3777},
		entry{tar.TypeChar, "c", "", 0}, entry{tar.TypeFifo, "d/p", "", 0},
	), dir, Options{Skipped: func(name string) { skipped = append(skipped, name) }})
	if err != nil || strings.Join(skipped, " ") != "c d/p" {
		t.Fatalf("skipped %q, %v", skipped, err)
	}
	for name, mode := range map[string]fs.FileMode{"suid": 0o755, "d": fs.ModeDir | 0o777} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode() != mode || int(st.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
			t.Errorf("%s: %v, owner %d, %v", name, st.Mode(), st.Sys().(*syscall.Stat_t).Uid, err)
		}
	}
}

func TestTrusted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: only root can make devices and give files away")
	}
	dir := t.TempDir()
	err := Unpack(archive(t,
		entry{tar.TypeReg, "suid", "x", 0o6755}, entry{tar.TypeSymlink, "s", "/nowhere", 0}, entry{tar.TypeDir, "d", "", 0o1777},
		entry{tar.TypeFifo, "d/p", "", 0o622}, entry{tar.TypeChar, "zero", "", 0o666},
	), dir, Options{Trusted: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{
		"suid": fs.ModeSetuid | fs.ModeSetgid | 0o755, "s": fs.ModeSymlink | 0o777, "d": fs.ModeDir | fs.ModeSticky | 0o777,
		"d/p": fs.ModeNamedPipe | 0o622, "zero": fs.ModeDevice | fs.ModeCharDevice | 0o666,
	} {
		st, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if s := st.Sys().(*syscall.Stat_t); st.Mode() != mode || s.Uid != 12 || s.Gid != 34 {
			t.Errorf("%s: %v, owner %d:%d", name, st.Mode(), s.Uid, s.Gid)
		}
	}
}

// TestName: only what was asked for comes out, under the name that it is to have.
func TestName(t *testing.T) {
	for _, tt := range []struct {
		name, as string
		entries  []entry
		want     string // "" is an error
	}{
		{"f", "g", []entry{{tar.TypeReg, "f", "x", 0}}, "g"},
		{"d", "e", []entry{{tar.TypeDir, "d", "", 0o755}, {tar.TypeReg, "d/f", "x", 0}, {tar.TypeLink, "d/h", "d/f", 0}}, "e e/f e/h"},
		{".", "r", []entry{{tar.TypeDir, "./", "", 0o755}, {tar.TypeReg, "f", "x", 0}}, "r r/f"},
		{"f", "g", []entry{{tar.TypeReg, ".bashrc", "x", 0}}, ""},
		{"f", "g", []entry{{tar.TypeReg, "ff", "x", 0}}, ""},
		{"f", "g", []entry{{tar.TypeReg, "f/../h", "x", 0}}, ""},
		{"f", "g", []entry{{tar.TypeReg, "f", "x", 0}, {tar.TypeLink, "f", "h", 0}}, ""},
		{"..", "g", []entry{{tar.TypeReg, "../f", "x", 0}}, ""},
	} {
		dir := t.TempDir()
		err := Unpack(archive(t, tt.entries...), dir, Options{Name: tt.name, As: tt.as})
		var got []string
		filepath.WalkDir(dir, func(name string, d fs.DirEntry, _ error) error {
			if rel, _ := filepath.Rel(dir, name); rel != "." {
				got = append(got, rel)
			}
			return nil
		})
		if (err == nil) != (tt.want != "") || err == nil && strings.Join(got, " ") != tt.want {
			t.Errorf("%v: %q, %v; want %q", tt.entries, got, err, tt.want)
		}
	}
}

func TestBase(t *testing.T) {
	for name, want := range map[string]string{"/": ".", "/a/b": "b", "/a/b/": "b", "/a/..": ".", "//": ".", "/a/.": "a"} {
		if got := Base(name); got != want {
			t.Errorf("Base(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestSparse: a stream of a few bytes cannot make a file of many.
func TestSparse(t *testing.T) {
	for _, h := range []*tar.Header{
		{Name: "f", Typeflag: tar.TypeGNUSparse}, {Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"GNU.sparse.major": "1"}},
	} {
		if u := (&unpacker{}); !errors.Is(u.entry(h, nil), ErrEntry) {
			t.Errorf("%+v is not refused", h)
		}
	}
}

// TestPack covers what a copy through an agent cannot show.
func TestPack(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "p"), 0o600), os.WriteFile(filepath.Join(dir, "f"), nil, 0o4711)); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(dir, "f"), fs.ModeSetuid|0o711)
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Pack(&b, dir, "x", false); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name+" "+string(h.Typeflag)+" "+h.FileInfo().Mode().String())
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
	}
	if want := "x/ 5 drwxr-xr-x|x/f 0 urwx--x--x|x/p 6 prw-------"; strings.Join(got, "|") != want {
		t.Errorf("packed %q, want %q", strings.Join(got, "|"), want)
	}
	b.Reset()
	if err := Pack(&b, "/proc/self/status", "status", false); err != nil || !bytes.Contains(b.Bytes(), []byte("Name:")) {
		t.Errorf("a file that says its size is 0: %v", err)
	}
	if err := Pack(io.Discard, dir, "../x", false); !errors.Is(err, ErrName) {
		t.Errorf("packed under a name that leads out: %v", err)
	}
	if err := Pack(io.Discard, filepath.Join(dir, "no"), "x", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("packed nothing: %v", err)
	}
}

// FuzzUnpack: no stream panics, or writes outside the directory.
func FuzzUnpack(f *testing.F) {
	for _, e := range [][]entry{
		{{tar.TypeReg, "a", "x", 0}},
		{{tar.TypeSymlink, "a", "..", 0}, {tar.TypeReg, "a/secret", "x", 0}},
		{{tar.TypeDir, "d", "", 0o755}, {tar.TypeReg, "d/f", "x", 0}, {tar.TypeLink, "h", "d/f", 0}},
		{{tar.TypeSymlink, "a", "../out", 0}, {tar.TypeDir, "a", "", 0}, {tar.TypeReg, "a/b", "x", 0}},
	} {
		b, _ := io.ReadAll(archive(f, e...))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, untouched := target(t)
		Unpack(bytes.NewReader(b), dir, Options{Limit: 1 << 20})
		untouched()
		filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error { // so that TempDir can be removed
			if d != nil && d.IsDir() {
				os.Chmod(name, 0o700)
			}
			return nil
		})
	})
}
