package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Format is how an image holds a disk.
type Format string

const (
	// Raw: the bytes of the disk are those of the file or block device.
	Raw Format = "raw"
	// Qcow2: QEMU's format, versions 2 and 3. It is only read: writing takes an overlay.
	Qcow2 Format = "qcow2"
)

// maxBacking is how many backing files may stand behind each other.
const maxBacking = 8

// Spec says what disk to open and how.
type Spec struct {
	// Path of the image: a regular file or a block device.
	Path string
	// Format of the image. "" looks at the image, and takes it for raw if it is not a qcow2. It cannot tell the two apart for a raw
	// image that the guest may write, because a guest could make it look like a qcow2: such an image is then refused.
	Format Format
	// ReadOnly opens the disk for reading. Several machines can share it.
	ReadOnly bool
	// Overlay is the path of a file that takes all writes, made if there is none. The image is only read; it must not change as long
	// as the overlay is used, which its time of modification tells.
	Overlay string
	// Throwaway sends all writes to a file without a name, which is gone with the disk.
	Throwaway bool
	// Dir is the directory of the file of Throwaway. "" is $TMPDIR, or /var/tmp.
	Dir string
	// Cache is Writeback, Direct or Unsafe. "" is Writeback.
	Cache Cache
	// Backing allows a qcow2 image to name a backing file, which is then opened, wherever it is. Never allow it for an image from a
	// stranger: it shows the guest any file that this process can read.
	Backing bool
}

// Open opens a disk. The caller closes it.
func Open(s Spec) (Disk, error) {
	switch s.Cache {
	case "":
		s.Cache = Writeback
	case Writeback, Direct, Unsafe:
	default:
		return nil, fmt.Errorf("disk image %s: there is no cache mode %q, but %s, %s and %s", s.Path, s.Cache, Writeback, Direct, Unsafe)
	}
	overlay := s.Overlay != "" || s.Throwaway
	switch {
	case s.ReadOnly && overlay:
		return nil, fmt.Errorf("disk image %s: an overlay takes writes; a read-only disk has none", s.Path)
	case s.Overlay != "" && s.Throwaway:
		return nil, fmt.Errorf("disk image %s: writes go to %s or are thrown away, not both", s.Path, s.Overlay)
	}
	base, f, err := openImage(s, !s.ReadOnly && !overlay, nil)
	if err != nil || !overlay {
		return base, err
	}
	var d Disk
	if s.Throwaway {
		d, err = throwaway(base, s.dir(), s.Cache)
	} else {
		var stamp int64
		if stamp, err = f.stamp(); err == nil {
			d, err = openOverlay(base, stamp, s.Overlay, s.Cache)
		}
	}
	if err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return d, nil
}

func (s *Spec) dir() string {
	if s.Dir != "" {
		return s.Dir
	}
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	return "/var/tmp" // on a disk; /tmp is memory on many hosts
}

// openImage opens the image itself. chain has the images whose backing file it is.
func openImage(s Spec, write bool, chain []*file) (Disk, *file, error) {
	f, err := openFile(s.Path, s.Cache, write)
	if err != nil {
		return nil, nil, err
	}
	d, err := newImage(s, f, write, chain)
	if err != nil {
		return nil, nil, errors.Join(err, f.close())
	}
	return d, f, nil
}

func newImage(s Spec, f *file, write bool, chain []*file) (Disk, error) {
	format := s.Format
	if format == "" {
		format = Raw
		magic := make([]byte, len(qcow2Magic))
		if f.size >= SectorSize {
			if err := f.readAt([][]byte{magic}, 0); err != nil {
				return nil, err
			}
		}
		if string(magic) == qcow2Magic {
			if write {
				return nil, fmt.Errorf("disk image %s looks like a qcow2: say its format; %s is written through an overlay only, %s may have been made to look so by a guest", s.Path, Qcow2, Raw)
			}
			format = Qcow2
		}
	}
	switch format {
	case Raw:
		d, err := newRaw(f, !write)
		if err != nil {
			return nil, err
		}
		return d, nil
	case Qcow2:
		if write {
			return nil, fmt.Errorf("disk image %s: a %s is not written: give it an overlay, or convert it: qemu-img convert -O raw", s.Path, Qcow2)
		}
		d, err := openQcow2(f)
		if err != nil {
			return nil, err
		}
		if d.head.backing != "" {
			if err := d.openBacking(s, append(chain, f)); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	return nil, fmt.Errorf("disk image %s: there is no format %q, but %s and %s", s.Path, format, Raw, Qcow2)
}

// openBacking opens the backing file that the header names. chain ends with d's own file.
func (d *qcow2) openBacking(s Spec, chain []*file) error {
	name := d.head.backing
	if !s.Backing {
		return fmt.Errorf("disk image %s: its backing file %q is not opened unless that is allowed; qemu-img convert writes an image without one", s.Path, name)
	}
	if len(chain) > maxBacking {
		return fmt.Errorf("disk image %s: %w: more than %d backing files", s.Path, ErrImage, maxBacking)
	}
	// A colon before any slash is QEMU's syntax for what is not a file.
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		return fmt.Errorf("disk image %s: backing file %q: %w: only files are supported", s.Path, name, ErrImage)
	}
	format := Format(d.head.backingFormat)
	if format != Raw && format != Qcow2 {
		return fmt.Errorf("disk image %s: backing file %q: %w: its format %q is neither %s nor %s; qemu-img rebase -u -F FORMAT sets it", s.Path, name, ErrImage, format, Raw, Qcow2)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(s.Path), name)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fmt.Errorf("disk image %s: backing file %s: %w", s.Path, name, err)
	}
	for _, f := range chain {
		var own unix.Stat_t
		if err := unix.Fstat(f.fd, &own); err != nil {
			return fmt.Errorf("disk image %s: fstat: %w", f.path, err)
		}
		if own.Dev == st.Dev && own.Ino == st.Ino {
			return fmt.Errorf("disk image %s: %w: its backing files go in a circle: %s", s.Path, ErrImage, name)
		}
	}
	s.Path, s.Format = name, format
	backing, _, err := openImage(s, false, chain)
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	d.backing = backing
	return nil
}

// stamp returns when the image was last modified, in nanoseconds since 1970; 0 for a block device.
func (f *file) stamp() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, fmt.Errorf("disk image %s: fstat: %w", f.path, err)
	}
	if f.device {
		return 0, nil
	}
	return st.Mtim.Nano(), nil
}
