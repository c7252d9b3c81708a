package initramfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// list reads an archive back, one line an entry: mode, size, name and what it holds.
func list(t *testing.T, archive []byte) []cpio.Record {
	t.Helper()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func write(t *testing.T, m *Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("on the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	var m Image
	m.Dir("/dev", 0o700)
	m.CharDev("/dev/console", 0o600, 5, 1)
	m.Text("/a/b/text", "in the archive", 0o644)
	m.Link("/a/link", "b/text")
	if err := m.File("/a/../program", file, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := write(t, &m)
	want := []struct {
		name, content string
		mode          uint64
	}{
		{"dev", "", cpio.S_IFDIR | 0o700},
		{"dev/console", "", cpio.S_IFCHR | 0o600},
		{"a", "", cpio.S_IFDIR | 0o755},
		{"a/b", "", cpio.S_IFDIR | 0o755},
		{"a/b/text", "in the archive", cpio.S_IFREG | 0o644},
		{"a/link", "b/text", cpio.S_IFLNK | 0o777},
		{"program", "on the host", cpio.S_IFREG | 0o755},
	}
	got := list(t, archive)
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d: %v", len(got), len(want), got)
	}
	for i, w := range want {
		content, err := io.ReadAll(io.NewSectionReader(got[i], 0, int64(got[i].FileSize)))
		if err != nil || got[i].Name != w.name || got[i].Mode != w.mode || string(content) != w.content {
			t.Errorf("entry %d: %v %q, %v; want %+v", i, got[i], content, err, w)
		}
	}
	if got[1].Rmajor != 5 || got[1].Rminor != 1 {
		t.Errorf("console is %d:%d", got[1].Rmajor, got[1].Rminor)
	}
	if !bytes.Equal(archive, write(t, &m)) {
		t.Error("written twice, the archive differs")
	}
}

func TestFileThatShrinks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("twelve bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	var m Image
	if err := m.File("/file", file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 3); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.cpio")
	if err := m.WriteFile(out); err == nil {
		t.Error("an archive with half a file was written")
	}
	if left, _ := filepath.Glob(filepath.Dir(out) + "/*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFileRefuses(t *testing.T) {
	var m Image
	if err := m.File("/x", "/nowhere", 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := m.File("/x", t.TempDir(), 0o644); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
}

func TestFromSpec(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "init"), []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := FromSpec(strings.NewReader(`
# a comment
dir /dev 0755 0 0
nod /dev/console 0600 0 0 c 5 1
file /init $BUILD/init 0755 0 0  # another
slink /bin/sh busybox 0777 0 0
`), func(name string) string { return map[string]string{"BUILD": dir}[name] })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range list(t, write(t, m)) {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "dev dev/console init bin bin/sh" {
		t.Errorf("entries %q", got)
	}
}

var badSpecs = []string{
	"pipe /x 0644 0 0",
	"dir /x 0755 0",
	"dir /x 0899 0 0",
	"dir /x 17777 0 0",
	"dir /x 0755 1000 0",
	"nod /x 0644 0 0 b 1 1",
	"nod /x 0644 0 0 c 5 -1",
	"nod /x 0644 0 0 c 99999 1",
}

func TestFromSpecRefuses(t *testing.T) {
	for _, spec := range badSpecs {
		if _, err := FromSpec(strings.NewReader("\n"+spec), os.Getenv); !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

func FuzzFromSpec(f *testing.F) {
	for _, s := range badSpecs {
		f.Add(s)
	}
	f.Add("dir / 0755 0 0\ndir /../a//b 7777 0 0\nslink a/b/c x 0777 0 0\nnod /d 0600 0 0 c 5 1 # x")
	f.Fuzz(func(t *testing.T, spec string) {
		if strings.Contains(spec, "file") {
			return // would read files of the host
		}
		m, err := FromSpec(strings.NewReader(spec), func(string) string { return "" })
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := m.Write(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b.Bytes()))); err != nil {
			t.Errorf("the archive cannot be read back: %v", err)
		}
	})
}
