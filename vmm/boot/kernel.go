package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Mode is the way into a kernel.
type Mode uint8

const (
	// Auto is Linux64 for a bzImage; for an ELF kernel PVH if it has the note, else Direct.
	Auto Mode = iota
	// Linux64 enters a bzImage at its 64-bit entry point; the kernel unpacks itself (boot.rst,
	// "64-bit Boot Protocol").
	Linux64
	// PVH enters an ELF kernel in 32-bit protected mode at its XEN_ELFNOTE_PHYS32_ENTRY.
	PVH
	// Direct enters an ELF kernel, or the one unpacked from a bzImage on the host, at its ELF entry
	// in long mode with the zero page of the 64-bit protocol.
	Direct
)

var modeNames = [...]string{Auto: "auto", Linux64: "linux64", PVH: "pvh", Direct: "direct"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// ParseMode reads a mode's name. The error wraps ErrMode.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("%w: unknown boot mode %q; it is one of %s", ErrMode, s, strings.Join(modeNames[:], ", "))
}

// Kernel is a recognised kernel file. It is immutable, and may be loaded any number of times
// while the reader given to Open stays usable.
type Kernel struct {
	file io.ReaderAt
	size uint64

	bz     *bzImage    // set for a bzImage
	elf    *elfFile    // set for a plain ELF file
	packed compression // set for a compressed ELF file
}

// Open recognises the kernel of size bytes behind r and checks its headers; the bulk is read by
// Load. The caller keeps and closes r. Errors wrap ErrNotKernel, ErrTruncated, ErrHeader or ErrRead.
func Open(r io.ReaderAt, size int64) (*Kernel, error) {
	if size <= 0 {
		return nil, fmt.Errorf("%w: the file is empty", ErrNotKernel)
	}
	k := &Kernel{file: r, size: uint64(size)}
	// A bzImage's header ends below 0x290, an ELF's program headers mostly too: one read does.
	head := make([]byte, min(k.size, 0x1000))
	if err := readAt(r, head, 0); err != nil {
		return nil, err
	}
	var err error
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		k.elf, err = parseELF(&image{at: r, size: k.size})
	case isBzImage(head):
		k.bz, err = parseBzImage(head, k.size)
	default:
		k.packed = detectCompression(head)
		if k.packed == uncompressed {
			return nil, fmt.Errorf("%w: it begins with % x, which is neither an ELF file, a bzImage nor compressed data; give a bzImage or a vmlinux", ErrNotKernel, head[:min(len(head), 8)])
		}
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Format describes the file, for example "bzImage, protocol 2.15".
func (k *Kernel) Format() string {
	switch {
	case k.bz != nil:
		return fmt.Sprintf("bzImage, protocol %d.%d", k.bz.version>>8, k.bz.version&0xff)
	case k.elf != nil:
		return "ELF"
	}
	return k.packed.String() + "-compressed ELF"
}

// UnpacksItself says whether the kernel is a bzImage, which unpacks itself unless it is entered as Direct.
func (k *Kernel) UnpacksItself() bool { return k.bz != nil }

// Packed says whether the kernel is compressed in one way or another.
func (k *Kernel) Packed() bool { return k.bz != nil || k.packed != uncompressed }

// Version returns the version string a bzImage carries ("6.1.0-56-cloud-amd64 (...) ..."), or "".
func (k *Kernel) Version() string {
	if k.bz == nil || k.bz.versionAt == 0 {
		return ""
	}
	b := make([]byte, min(256, k.size-min(k.size, k.bz.versionAt)))
	if readAt(k.file, b, k.bz.versionAt) != nil {
		return ""
	}
	s, _, found := bytes.Cut(b, []byte{0})
	if !found {
		return ""
	}
	return strings.ToValidUTF8(string(s), "?")
}

// readAt fills p from off. A file that ends early is ErrTruncated.
func readAt(r io.ReaderAt, p []byte, off uint64) error {
	n, err := r.ReadAt(p, int64(off))
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it ends %d bytes into the %d at offset %#x; fetch or build it again", ErrTruncated, n, len(p), off)
	}
	return fmt.Errorf("%w: %d bytes at offset %#x: %w", ErrRead, len(p), off, err)
}
