package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func mkfifo(p string) error { return syscall.Mkfifo(p, 0o600) }

// FuzzLayer unpacks any bytes and wants nothing outside the root to change.
func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, file{name: "a/f", data: "1"}, file{name: "a/.wh..wh..opq"}, file{name: ".wh.a"}))
	f.Add(tarOf(f, file{name: "l", typ: '2', link: "/.."}, file{name: "l/victim", data: "2"}, file{name: "h", typ: '1', link: "l/victim"}))
	f.Add(tarOf(f, file{name: "../victim", data: "2"}, file{name: "n", typ: '3'}))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		root := filepath.Join(top, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, "victim"), []byte("safe"), 0o600); err != nil {
			t.Fatal(err)
		}
		u, err := newUnpacker(root, Limits{Bytes: 1 << 20, Entries: 100})
		if err != nil {
			t.Fatal(err)
		}
		_ = u.layer(bytes.NewReader(data), true)
		u.close()
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 2 {
			t.Errorf("beside the root: %v, %v", entries, err)
		}
		if b, err := os.ReadFile(filepath.Join(top, "victim")); string(b) != "safe" {
			t.Errorf("the file beside the root holds %q, %v", b, err)
		}
	})
}

// memSource is blobs by name.
type memSource map[string][]byte

func (m memSource) source() *tarSource {
	s := &tarSource{members: map[string]member{}}
	var all []byte
	for name, b := range m {
		s.members[name] = member{offset: int64(len(all)), size: int64(len(b))}
		all = append(all, b...)
	}
	s.file = bytes.NewReader(all)
	return s
}

// FuzzManifests parses any bytes as each of the documents of an image.
func FuzzManifests(f *testing.F) {
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + sumHex(nil) + `"]}}`)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":0}]}`,
		sumHex(config), len(config), sumHex(nil))
	index := fmt.Appendf(nil, `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":1}]}`, sumHex(manifest))
	f.Add(index, manifest, config)
	f.Add([]byte(`[{"Config":"c.json","Layers":["l.tar"]}]`), []byte(`[{"Config":"../c.json","Layers":null}]`), config)
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		s := memSource{
			"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index, "manifest.json": manifest, "c.json": config,
			"blobs/sha256/" + sumHex(manifest): manifest, "blobs/sha256/" + sumHex(config): config,
		}.source()
		for _, parse := range []func(source) (*contents, error){parseLayout, parseDockerArchive} {
			c, err := parse(s)
			if (c == nil) != (err != nil) {
				t.Errorf("%+v with error %v", c, err)
			}
			if c != nil && !isHex(c.digest) {
				t.Errorf("digest %q", c.digest)
			}
		}
	})
}

// FuzzArchive detects and indexes any bytes.
func FuzzArchive(f *testing.F) {
	f.Add(tarOf(f, file{name: "oci-layout", data: "{}"}, file{name: "blobs/"}))
	f.Add(dockerArchive(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := indexTar(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for name, m := range s.members {
			if m.offset < 0 || m.size < 0 || m.offset+m.size > int64(len(data)) {
				t.Errorf("%s is said to be at %d, %d bytes", name, m.offset, m.size)
			}
			if r, _, err := s.open(name); err == nil {
				r.Close()
			}
		}
	})
}

// FuzzIdentify parses any bytes as /etc/passwd and /etc/group.
func FuzzIdentify(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n", "root:x:0:root\n", "root:root")
	f.Add("::::::", ":::,", ":")
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		id, err := identify(passwd, group, user)
		if err == nil && (id.UID == 1<<32-1 || id.GID == 1<<32-1) {
			t.Errorf("%+v", id)
		}
	})
}
