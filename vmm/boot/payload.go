package boot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	bcjxz "github.com/therootcompany/xz" // ulikunitz/xz lacks the x86 filter that kernels use
	"github.com/ulikunitz/xz/lzma"
)

// compression is a format in which Linux packs its kernels.
type compression uint8

const (
	uncompressed compression = iota
	gzipped
	xzed
	lzmaed
	bzipped
	lz4ed // the legacy frame, the only one Linux knows
	lzoed // recognised to be refused by name
	zstded
)

var compressions = [...]struct{ name, magic string }{
	gzipped: {"gzip", "\x1f\x8b\x08"},
	xzed:    {"xz", "\xfd7zXZ\x00"},
	lzmaed:  {"lzma", "\x5d\x00\x00"},
	bzipped: {"bzip2", "BZh"},
	lz4ed:   {"lz4", "\x02\x21\x4c\x18"},
	lzoed:   {"lzo", "\x89LZO"},
	zstded:  {"zstd", "\x28\xb5\x2f\xfd"},
}

func (c compression) String() string {
	if c == uncompressed {
		return "plain"
	}
	return compressions[c].name
}

// detectCompression goes by the magic number that head begins with.
func detectCompression(head []byte) compression {
	for c := gzipped; int(c) < len(compressions); c++ {
		if bytes.HasPrefix(head, []byte(compressions[c].magic)) {
			return c
		}
	}
	return uncompressed
}

// maxWindow bounds the memory a decompressor takes: the 128 MiB window of zstd -22 --ultra, the
// largest that Linux's build uses.
const maxWindow = 128 << 20

// unpack returns the plain bytes of the n packed ones at off. Its Close releases the
// decompressor, never file.
func unpack(file io.ReaderAt, off, n uint64, c compression) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(file, int64(off), int64(n)), 128<<10)
	var out io.Reader
	var err error
	switch c {
	case gzipped:
		var z *gzip.Reader
		if z, err = gzip.NewReader(in); err == nil {
			z.Multistream(false)
			out = z
		}
	case xzed:
		var x *bcjxz.Reader
		if x, err = bcjxz.NewReader(in, maxWindow); err == nil {
			x.Multistream(false)
			out = x
		}
	case lzmaed:
		var head []byte
		if head, err = in.Peek(5); err == nil {
			if dict := le.Uint32(head[1:]); dict > maxWindow {
				err = fmt.Errorf("it wants a dictionary of %d bytes, more than %d", dict, maxWindow)
			} else {
				out, err = lzma.NewReader(in)
			}
		}
	case bzipped:
		out = bzip2.NewReader(in)
	case lz4ed:
		out = lz4.NewReader(in)
	case zstded:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			return z.IOReadCloser(), nil
		}
	default:
		return nil, fmt.Errorf("%w: %s compression is not supported; use gzip, xz, lzma, bzip2, lz4 or zstd, or boot the bzImage in mode linux64", ErrPayload, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s data at offset %#x: %w", ErrPayload, c, off, err)
	}
	return io.NopCloser(out), nil
}

// openPayload returns the ELF kernel inside a bzImage.
func (b *bzImage) openPayload(file io.ReaderAt) (io.ReadCloser, error) {
	if b.payloadLen < 8 {
		return nil, fmt.Errorf("%w: the bzImage names no payload, so it cannot be unpacked on the host; boot it in mode linux64", ErrMode)
	}
	head := make([]byte, 8)
	if err := readAt(file, head, b.payload); err != nil {
		return nil, err
	}
	tail := make([]byte, 4)
	if err := readAt(file, tail, b.payload+b.payloadLen-4); err != nil {
		return nil, err
	}
	c := detectCompression(head)
	n := b.payloadLen
	switch c {
	case uncompressed:
		return nil, fmt.Errorf("%w: the bzImage's payload begins with % x, no compression known here; boot it in mode linux64", ErrPayload, head)
	case gzipped: // its own trailer ends in the unpacked size
	default: // Linux's build appends the unpacked size
		n -= 4
	}
	if size := le.Uint32(tail); size > maxImage {
		return nil, fmt.Errorf("%w: the %s payload claims to unpack to %d bytes, more than %d", ErrPayload, c, size, maxImage)
	}
	return unpack(file, b.payload, n, c)
}

// unpack returns the ELF kernel that is the file, compressed, or lies in it.
func (k *Kernel) unpack() (io.ReadCloser, error) {
	if k.bz != nil {
		return k.bz.openPayload(k.file)
	}
	return unpack(k.file, 0, k.size, k.packed)
}

// image is an ELF file read in ascending order of offset: at random from a plain file, or once
// through from a decompressor.
type image struct {
	at   io.ReaderAt // plain file, or nil
	size uint64      // its size

	stream io.Reader
	head   []byte // the stream's first bytes, kept: a segment may cover the headers
	pos    uint64 // bytes taken from stream
}

// newStream begins to read an unpacked ELF file.
func newStream(r io.Reader) (*image, error) {
	f := &image{stream: r, head: make([]byte, pageSize)}
	n, err := io.ReadFull(r, f.head)
	f.head, f.pos = f.head[:n], uint64(n)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: after %d bytes unpacked: %w", ErrPayload, n, err)
	}
	return f, nil
}

// limit is the first offset that cannot be read.
func (f *image) limit() uint64 {
	if f.at != nil {
		return f.size
	}
	return maxImage
}

// read fills p from off. Behind a stream's head, off must not lie before the end of the last read.
func (f *image) read(off uint64, p []byte) error {
	if f.at != nil {
		return readAt(f.at, p, off)
	}
	if off < uint64(len(f.head)) {
		n := copy(p, f.head[off:])
		off, p = off+uint64(n), p[n:]
		if len(p) == 0 {
			return nil
		}
	}
	if off < f.pos {
		return fmt.Errorf("%w: the packed ELF file has something needed at offset %#x, before %#x; unpack it and use the vmlinux", ErrHeader, off, f.pos)
	}
	n, err := io.CopyN(io.Discard, f.stream, int64(off-f.pos))
	f.pos += uint64(n)
	if err == nil {
		var m int
		m, err = io.ReadFull(f.stream, p)
		f.pos += uint64(m)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it unpacks to %d bytes, and %d at offset %#x are needed; fetch or build it again", ErrTruncated, f.pos, len(p), off)
	}
	return fmt.Errorf("%w: after %d bytes unpacked: %w", ErrPayload, f.pos, err)
}

// finish reads a stream to its end, where the checksum is.
func (f *image) finish() error {
	if f.at != nil {
		return nil
	}
	n, err := io.CopyN(io.Discard, f.stream, int64(maxImage-f.pos))
	f.pos += uint64(n)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrPayload, maxImage)
	}
	return fmt.Errorf("%w: after %d bytes unpacked: %w", ErrPayload, f.pos, err)
}
