package rootdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what is to be done with what the user gave.
type Kind string

// Kinds.
const (
	Image Kind = "image" // files: for Build
	Raw   Kind = "raw"   // a disk, byte for byte
	Qcow2 Kind = "qcow2" // a disk in QEMU's format
)

// prefixes say outright what a path is.
var prefixes = map[string]Kind{
	"raw": Raw, "qcow2": Qcow2, "oci": Image, "docker-archive": Image, "tar": Image, "dir": Image,
}

// Recognise tells what spec, KIND:PATH or a path, is, and returns the path. KIND is one of raw, qcow2, oci, docker-archive, tar and dir. Without
// it directories are images, and of files the name decides what a disk is: .raw, .img and .ext4 are raw, .qcow2 is qcow2; any other file
// is an image if it begins as an archive, and raw if it has a partition table or an ext file system. A file is qcow2 only if the user says so
// by a prefix or by the name: the guest may have written the header of one onto its raw disk, and such a header names files of the host.
func Recognise(spec string) (Kind, string, error) {
	if before, path, ok := strings.Cut(spec, ":"); ok {
		if kind, ok := prefixes[before]; ok {
			if path == "" {
				return "", "", fmt.Errorf("image %q: there is no path behind the colon", spec)
			}
			return kind, path, nil
		}
	}
	kind, err := recognise(spec)
	if err != nil {
		return "", "", fmt.Errorf("image %s: %w", spec, err)
	}
	return kind, spec, nil
}

func recognise(path string) (Kind, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return Image, nil
	}
	if info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 {
		return Raw, nil
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("neither a directory, nor a regular file, nor a block device")
	}
	head := make([]byte, 2048)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return "", err
	}
	return byName(filepath.Ext(path), head[:n])
}

// byName decides by a file's suffix and its first 2 KiB, or all if it is shorter.
func byName(suffix string, head []byte) (Kind, error) {
	qcow2 := bytes.HasPrefix(head, []byte("QFI\xfb"))
	at := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	switch {
	case suffix == ".qcow2" && qcow2:
		return Qcow2, nil
	case suffix == ".qcow2":
		return "", errors.New("named .qcow2 and no qcow2 image; raw:PATH says that it is a raw disk")
	case qcow2:
		return "", errors.New("begins as a qcow2 image does, which a guest may have written onto a raw disk; say which it is: qcow2:PATH or raw:PATH")
	case suffix == ".raw", suffix == ".img", suffix == ".ext4":
		return Raw, nil
	case at(0, "\x1f\x8b"), at(0, "\x28\xb5\x2f\xfd"), at(257, "ustar"):
		return Image, nil
	case at(510, "\x55\xaa"), at(1080, "\x53\xef"):
		return Raw, nil
	}
	return "", errors.New("not an archive (tar, gzip, zstd), and no disk with a partition table or an ext file system; raw:PATH makes a raw disk of any file")
}
