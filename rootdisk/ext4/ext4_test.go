package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need returns a program of e2fsprogs, which is the judge of what is made here.
func need(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{"/usr/sbin/" + name, "/sbin/" + name} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skipf("NOT TESTED: there is no %s here; install the package e2fsprogs", name)
	return ""
}

func fsck(t testing.TB, file string) string {
	t.Helper()
	out, err := exec.Command(need(t, "e2fsck"), "-fn", file).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	return string(out)
}

// debugfs runs commands on a file system and returns what they print.
func debugfs(t testing.TB, file string, commands ...string) string {
	t.Helper()
	c := exec.Command(need(t, "debugfs"), "-f", "-", file)
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	return string(out)
}

var when = time.Unix(1700000000, 123456789)

func dir(children map[string]*Inode) *Inode {
	return &Inode{Mode: TypeDir | 0o755, Atime: when, Mtime: when, Children: children}
}

// build writes the tree that make returns and the file's name.
func build(t testing.TB, free uint64, make func(w *Writer) *Inode) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f)
	if err := w.Finish(make(w), free, [32]byte{1, 2, 3}, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func regular(t testing.TB, w *Writer, data []byte) *Inode {
	t.Helper()
	n := &Inode{Mode: TypeRegular | 0o644, Atime: when, Mtime: when}
	if err := w.Contents(n, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEverything(t *testing.T) {
	data := make([]byte, 1<<20+5)
	r := rand.NewChaCha8([32]byte{7})
	r.Read(data)
	long := strings.Repeat("a/very/long/target/", 20)
	file := build(t, 64<<20, func(w *Writer) *Inode {
		f := regular(t, w, data)
		f.Mode, f.UID, f.GID = TypeRegular|0o4751, 100000, 1<<32-2
		f.Xattrs = map[string][]byte{"security.capability": []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
		garbage := regular(t, w, data)
		if garbage.start <= f.start {
			t.Error("contents overlap")
		}
		many := map[string]*Inode{}
		for i := range 3000 {
			many[fmt.Sprintf("a-file-with-some-name-%d", i)] = &Inode{Mode: TypeRegular | 0o600, Mtime: when}
		}
		many[strings.Repeat("n", 255)] = regular(t, w, []byte("last"))
		big := &Inode{Mode: TypeRegular | 0o600, Xattrs: map[string][]byte{
			"user.big": bytes.Repeat([]byte("v"), 3000), "user.a": []byte("1"), "trusted.t": nil,
			"system.posix_acl_access": []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\x05\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"),
		}}
		old := &Inode{Mode: TypeRegular, Mtime: time.Unix(-5, 0), Atime: time.Unix(1<<33, 7)}
		return dir(map[string]*Inode{
			"file": f, "again": f, "empty": {Mode: TypeRegular}, "many": dir(many), "big": big, "old": old,
			"short": {Mode: TypeSymlink | 0o777, Target: "file"}, "edge": {Mode: TypeSymlink | 0o777, Target: strings.Repeat("e", 60)},
			"under": {Mode: TypeSymlink | 0o777, Target: strings.Repeat("u", 59)}, "long": {Mode: TypeSymlink | 0o777, Target: long},
			"null": {Mode: TypeChar | 0o666, Major: 1, Minor: 3}, "disk": {Mode: TypeBlock | 0o660, Major: 259, Minor: 70000},
			"fifo": {Mode: TypeFIFO | 0o600}, "socket": {Mode: TypeSocket | 0o600},
			"a":                dir(map[string]*Inode{"b": dir(map[string]*Inode{"c": dir(nil)})}),
			"odd \n\xff\"name": {Mode: TypeRegular},
		})
	})
	fsck(t, file)
	out := debugfs(t, file, "stat /file", "stat /null", "stat /disk", "stat /old", "stat /long", "stat /edge", "stat /under", "ea_list /file", "ea_list /big",
		"stat /a", "ls -l /")
	for _, want := range []string{
		"Mode:  04751", "User: 100000   Group:    -2", "Links: 2", "security.capability (20)", "Device major/minor number: 01:03",
		"Device major/minor number: 259:70000", `Fast link dest: "` + strings.Repeat("u", 59) + `"`, "user.big (3000)", "user.a (1)", "trusted.t (0)",
		"system.posix_acl_access (28)", "Links: 3", " 0x6553f100:1d6f3454 -- ", // the time of when, of /file
	} {
		if !strings.Contains(out, want) {
			t.Errorf("debugfs does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	for name, want := range map[string][]byte{"/again": data, "/many/" + strings.Repeat("n", 255): []byte("last"), "/long": []byte(long)} {
		if got := debugfs(t, file, "cat "+name); !bytes.Equal([]byte(got), want) && !strings.HasSuffix(strings.TrimSuffix(got, "debugfs: "), string(want)) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
	if st, err := os.Stat(file); err != nil || st.Size()%(blocksPerGroup*blockSize) != 0 {
		t.Errorf("size %d, %v", st.Size(), err)
	}
}

// TestLarge has a file with more extents than an inode, which is all zeroes but for its end, and takes no room.
func TestLarge(t *testing.T) {
	const size = 5*extentMax*blockSize + 17
	file := build(t, 0, func(w *Writer) *Inode {
		n := &Inode{Mode: TypeRegular}
		if err := w.Contents(n, io.MultiReader(io.LimitReader(zero{}, size-1), strings.NewReader("x"))); err != nil {
			t.Fatal(err)
		}
		return dir(map[string]*Inode{"large": n, "next": regular(t, w, []byte("next"))})
	})
	fsck(t, file)
	if out := debugfs(t, file, "stat /large"); !strings.Contains(out, fmt.Sprintf("Size: %d", size)) {
		t.Error(out)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestManyInodes(t *testing.T) {
	file := build(t, 0, func(*Writer) *Inode {
		root := map[string]*Inode{}
		for i := range maxGroupInodes/1000 + 1 {
			sub := map[string]*Inode{}
			for j := range 1000 {
				sub[fmt.Sprint(j)] = &Inode{Mode: TypeFIFO}
			}
			root[fmt.Sprint(i)] = dir(sub)
		}
		return dir(root)
	})
	if out := fsck(t, file); !strings.Contains(out, "33044/") {
		t.Error(out)
	}
}

func TestDeterminism(t *testing.T) {
	var sums [2][32]byte
	for i := range sums {
		file := build(t, 1<<20, func(w *Writer) *Inode {
			c := map[string]*Inode{}
			for j := range 50 {
				c[fmt.Sprint(j)] = &Inode{Mode: TypeRegular, Xattrs: map[string][]byte{"user.a": {1}, "user.b": {2}, "security.c": {3}}}
			}
			return dir(c)
		})
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		h.Sum(sums[i][:0])
	}
	if sums[0] != sums[1] {
		t.Error("the same tree makes different bytes")
	}
}

func TestRefusals(t *testing.T) {
	deep := dir(nil)
	for name, root := range map[string]*Inode{
		"root is a file":       {Mode: TypeRegular},
		"long name":            dir(map[string]*Inode{strings.Repeat("x", 256): {Mode: TypeFIFO}}),
		"dot":                  dir(map[string]*Inode{".": dir(nil)}),
		"no name":              dir(map[string]*Inode{"": dir(nil)}),
		"long target":          dir(map[string]*Inode{"l": {Mode: TypeSymlink, Target: strings.Repeat("x", 4096)}}),
		"no target":            dir(map[string]*Inode{"l": {Mode: TypeSymlink}}),
		"no type":              dir(map[string]*Inode{"n": {Mode: 0o777}}),
		"directory twice":      dir(map[string]*Inode{"a": deep, "b": deep}),
		"lost+found is a file": dir(map[string]*Inode{"lost+found": {Mode: TypeRegular}}),
		"attribute's name":     dir(map[string]*Inode{"f": {Mode: TypeRegular, Xattrs: map[string][]byte{"odd.x": nil}}}),
		"attributes too large": dir(map[string]*Inode{"f": {Mode: TypeRegular, Xattrs: map[string][]byte{"user.x": make([]byte, 4096)}}}),
		"bad ACL":              dir(map[string]*Inode{"f": {Mode: TypeRegular, Xattrs: map[string][]byte{"system.posix_acl_access": {1}}}}),
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		if err := NewWriter(f).Finish(root, 0, [32]byte{}, time.Time{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		f.Close()
	}
	many := map[string]*Inode{}
	one := &Inode{Mode: TypeFIFO}
	for i := range MaxLinks + 1 {
		many[fmt.Sprint(i)] = one
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := NewWriter(f).Finish(dir(many), 0, [32]byte{}, time.Time{}); !errors.Is(err, ErrLimit) {
		t.Errorf("%d links: %v", MaxLinks+1, err)
	}
	if err := NewWriter(f).Contents(dir(nil), strings.NewReader("")); err == nil {
		t.Error("contents for a directory")
	}
	if _, err := newPlan(firstData, 1, maxBlocks*blockSize); !errors.Is(err, ErrLimit) {
		t.Errorf("too much free space: %v", err)
	}
}

// FuzzTree makes a file system of any shape and wants e2fsck to find nothing.
func FuzzTree(f *testing.F) {
	f.Add(uint64(1), uint16(20))
	f.Add(uint64(2), uint16(300))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16) {
		r := rand.New(rand.NewPCG(seed, 0))
		file := build(t, uint64(r.IntN(200<<20)), func(w *Writer) *Inode {
			root := dir(map[string]*Inode{})
			dirs, all := []*Inode{root}, []*Inode{}
			for range size % 1000 {
				n := &Inode{UID: r.Uint32(), GID: r.Uint32(), Mtime: time.Unix(r.Int64()>>r.IntN(40), r.Int64N(1e9)), Major: r.Uint32() % 4096, Minor: r.Uint32() % (1 << 20)}
				n.Mode = []uint16{TypeFIFO, TypeChar, TypeDir, TypeBlock, TypeRegular, TypeSymlink, TypeSocket}[r.IntN(7)] | uint16(r.IntN(0o10000))
				name := strings.Repeat(string(rune('a'+r.IntN(26))), 1+r.IntN(200)) + fmt.Sprint(r.Uint32())
				for range r.IntN(3) {
					if n.Xattrs == nil {
						n.Xattrs = map[string][]byte{}
					}
					n.Xattrs[[]string{"user.", "security.", "trusted."}[r.IntN(3)]+name] = bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(1200))
				}
				switch n.Mode & TypeMask {
				case TypeDir:
					n.Children = map[string]*Inode{}
				case TypeSymlink:
					n.Target = strings.Repeat("t", 1+r.IntN(200))
				case TypeRegular:
					n = regular(t, w, bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(20000)))
				}
				if len(all) > 0 && r.IntN(5) == 0 {
					if n = all[r.IntN(len(all))]; n.Dir() {
						continue
					}
				}
				dirs[r.IntN(len(dirs))].Children[name] = n
				if n.Dir() {
					dirs = append(dirs, n)
				}
				all = append(all, n)
			}
			return root
		})
		fsck(t, file)
	})
}
