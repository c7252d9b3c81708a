package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The file of an overlay, all numbers little-endian:
//
//	0                     header: magic, version, block size, size of the disk, time of the base, CRC-32C of these
//	4096                  bitmap: one bit a block, the lowest first; a whole number of pages
//	a multiple of 64 KiB  the blocks, in the order of the disk, sparse
const (
	overlayMagic   = "QENEXCOW"
	overlayVersion = 1
	overlayHeader  = 4096
	overlayAlign   = 64 << 10

	// maxOverlay is the largest disk that can have an overlay: its bitmap takes at most 2 GiB.
	maxOverlay = 1 << 46
)

type overlayHead struct {
	Magic   [8]byte
	Version uint32
	Block   uint32 // bytes
	Size    uint64 // bytes
	Base    int64  // modification time of the base image, nanoseconds since 1970; 0 for a block device
	Sum     uint32 // CRC-32C of the encoding before it
}

func (h *overlayHead) encode() []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, h) // into memory, of fixed-size fields: cannot fail
	raw := b.Bytes()
	binary.LittleEndian.PutUint32(raw[len(raw)-4:], crc32.Checksum(raw[:len(raw)-4], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// places returns where data begins and ends in the file of an overlay of a disk of size bytes.
func places(size int64) (data, end int64) {
	n := (size + overlayBlock - 1) / overlayBlock
	pages := (n + bitPageBits - 1) / bitPageBits
	data = (overlayHeader + pages*bitPageSize + overlayAlign - 1) / overlayAlign * overlayAlign
	return data, data + n*overlayBlock
}

func newOverlay(base Disk, f *file) *overlay {
	data, end := places(base.Size())
	f.size = end
	return &overlay{base: base, file: f, data: data, size: base.Size(), bits: newBitmap(end/overlayBlock - data/overlayBlock)}
}

// throwaway makes an overlay in a file without a name, in dir.
func throwaway(base Disk, dir string, cache Cache) (*overlay, error) {
	if base.Size() > maxOverlay {
		return nil, fmt.Errorf("overlay: a disk of %d bytes is too large; the most is %d", base.Size(), int64(maxOverlay))
	}
	fd, err := unnamed(dir)
	if err != nil {
		return nil, fmt.Errorf("make an overlay in %s: %w", dir, err)
	}
	if cache == Writeback {
		cache = Unsafe // it ends with us: there is nothing to be made durable
	}
	if _, end := places(base.Size()); err == nil {
		err = unix.Ftruncate(fd, end)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make an overlay in %s: ftruncate: %w", dir, err), unix.Close(fd))
	}
	f, err := newFile(fd, "overlay in "+dir, cache)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return newOverlay(base, f), nil
}

// unnamed opens a new file in dir that has no name.
func unnamed(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return fd, err
	}
	f, err := os.CreateTemp(dir, "qenex-overlay-")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return -1, err
	}
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// openOverlay opens the overlay at path, or makes it.
func openOverlay(base Disk, stamp int64, path string, cache Cache) (*overlay, error) {
	if base.Size() > maxOverlay {
		return nil, fmt.Errorf("overlay %s: a disk of %d bytes is too large; the most is %d", path, base.Size(), int64(maxOverlay))
	}
	head := overlayHead{Version: overlayVersion, Block: overlayBlock, Size: uint64(base.Size()), Base: stamp}
	copy(head.Magic[:], overlayMagic)
	if err := makeOverlay(path, head); err != nil {
		return nil, err
	}
	f, err := openFile(path, cache, true)
	if err != nil {
		return nil, err
	}
	d := newOverlay(base, f)
	d.bitsAt = overlayHeader
	err = d.checkHead(head)
	if err == nil {
		err = d.loadBits()
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return d, nil
}

// makeOverlay makes the file of a new overlay, if there is none at path. It appears whole or not at all.
func makeOverlay(path string, head overlayHead) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".qenex-overlay-")
	if err != nil {
		return fmt.Errorf("make overlay %s: %w", path, err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	_, end := places(int64(head.Size))
	_, err = f.WriteAt(head.encode(), 0)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Link(f.Name(), path) // unlike a rename, not over a file that has come meanwhile
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("make overlay %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// checkHead says whether the file is an overlay of this base.
func (d *overlay) checkHead(want overlayHead) error {
	raw := want.encode()
	got := make([]byte, len(raw))
	if err := d.file.readAt([][]byte{got}, 0); err != nil {
		return err
	}
	if bytes.Equal(got, raw) {
		return d.file.room(0, d.file.size)
	}
	var h overlayHead
	if err := binary.Read(bytes.NewReader(got), binary.LittleEndian, &h); err != nil {
		return fmt.Errorf("overlay %s: %w", d.file.path, err)
	}
	sound := bytes.Equal(h.encode(), got)
	switch {
	case string(h.Magic[:]) != overlayMagic:
		return fmt.Errorf("overlay %s: %w: it is no overlay", d.file.path, ErrImage)
	case !sound:
		return fmt.Errorf("overlay %s: %w: its header is damaged", d.file.path, ErrImage)
	case h.Version != want.Version || h.Block != want.Block:
		return fmt.Errorf("overlay %s: %w: version %d with blocks of %d bytes; this program knows version %d with %d", d.file.path, ErrImage, h.Version, h.Block, want.Version, want.Block)
	case h.Size != want.Size:
		return fmt.Errorf("overlay %s: %w: it was made for a disk of %d bytes, the base has %d", d.file.path, ErrImage, h.Size, want.Size)
	}
	return fmt.Errorf("overlay %s: %w: its base was modified after the overlay was made, so that the two do not fit any more; make a new overlay, or give the base its old contents and time", d.file.path, ErrImage)
}

// loadBits reads the pages of the bitmap that are not holes.
func (d *overlay) loadBits() error {
	n := (d.size + overlayBlock - 1) / overlayBlock
	page := make([]byte, bitPageSize)
	for i := int64(0); i < int64(len(d.bits.pages)); i++ {
		at, err := unix.Seek(d.file.fd, d.bitsAt+i*bitPageSize, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err == nil {
			i = max(i, (at-d.bitsAt)/bitPageSize)
		}
		if i >= int64(len(d.bits.pages)) {
			return nil
		}
		if err := d.file.readAt([][]byte{page}, d.bitsAt+i*bitPageSize); err != nil {
			return err
		}
		if !d.bits.load(i, page, n) {
			return fmt.Errorf("overlay %s: %w: its bitmap names blocks behind the end of the disk", d.file.path, ErrImage)
		}
	}
	return nil
}
