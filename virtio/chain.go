package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/qenex/qenex-kernel/memmap"
)

// Flags of a descriptor (virtio 1.2, 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	descSize = 16
)

// maxIndirect bounds the descriptors of an indirect table. A chain in the queue itself is bounded by the queue's size.
const maxIndirect = 1024

// maxChainLen is the most bytes that the buffers of one chain may have together (virtio 1.2, 2.7.5.2).
const maxChainLen = 1 << 32

// Chain is one request of the driver: views of guest memory, of which some are for the device to read and the others to
// write. The guest may change the bytes at any time: copy, then parse the copy. A chain belongs to whom Next gave it
// until Done; its methods are for one goroutine at a time.
type Chain struct {
	head               uint16
	readable, writable [][]byte
	readLen, writeLen  uint64

	// How far Read and Write have come: an index and an offset in that view.
	readAt, writeAt   int
	readOff, writeOff int
	written           uint64
}

// Readable returns what the driver gave to be read. No view is empty.
func (c *Chain) Readable() [][]byte { return c.readable }

// Writable returns what the driver gave to be written. No view is empty.
func (c *Chain) Writable() [][]byte { return c.writable }

// ReadLen returns the sum of the readable bytes, at most 2^32.
func (c *Chain) ReadLen() uint64 { return c.readLen }

// WriteLen returns the sum of the writable bytes, at most 2^32.
func (c *Chain) WriteLen() uint64 { return c.writeLen }

// Read copies the next readable bytes, as io.Reader.
func (c *Chain) Read(p []byte) (n int, err error) {
	for len(p) > n && c.readAt < len(c.readable) {
		view := c.readable[c.readAt]
		k := copy(p[n:], view[c.readOff:])
		n, c.readOff = n+k, c.readOff+k
		if c.readOff == len(view) {
			c.readAt, c.readOff = c.readAt+1, 0
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write copies to the next writable bytes; what does not fit is io.ErrShortWrite.
func (c *Chain) Write(p []byte) (n int, err error) {
	for len(p) > n && c.writeAt < len(c.writable) {
		view := c.writable[c.writeAt]
		k := copy(view[c.writeOff:], p[n:])
		n, c.writeOff = n+k, c.writeOff+k
		if c.writeOff == len(view) {
			c.writeAt, c.writeOff = c.writeAt+1, 0
		}
	}
	c.written += uint64(n)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Written returns how many bytes Write has written.
func (c *Chain) Written() uint32 { return uint32(min(c.written, maxUint32)) }

const maxUint32 = 1<<32 - 1

// reset empties the chain and keeps its storage.
func (c *Chain) reset(head uint16) {
	c.head = head
	c.readable, c.writable = c.readable[:0], c.writable[:0]
	c.readLen, c.writeLen = 0, 0
	c.readAt, c.readOff, c.writeAt, c.writeOff, c.written = 0, 0, 0, 0, 0
}

// descriptor is a copy of one, made before anything of it is looked at.
type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func readDescriptor(table []byte, i uint16) descriptor {
	b := table[int(i)*descSize:][:descSize]
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// Reasons to refuse a chain.
var (
	errIndex    = errors.New("descriptor index outside its table")
	errLoop     = errors.New("descriptors form a loop or are more than their table holds")
	errOrder    = errors.New("device-readable descriptor behind a device-writable one")
	errNested   = errors.New("indirect table inside an indirect table")
	errIndirect = errors.New("indirect descriptor, but the feature was not accepted")
	errBoth     = errors.New("descriptor is indirect and has a next one")
	errTable    = errors.New("indirect table's length is 0, no multiple of 16, or more than 1024 descriptors")
	errTotal    = errors.New("buffers of more than 2^32 bytes")
)

// fill reads the chain that begins at head of a descriptor table into c and checks all of it (virtio 1.2, 2.7.5).
// The driver can change descriptors meanwhile: each is copied once, and the count of steps ends every loop.
func (c *Chain) fill(mem *memmap.Memory, table []byte, head uint16, indirect bool) error {
	c.reset(head)
	entries := len(table) / descSize
	inside := false
	i, left := head, entries
	for {
		if int(i) >= entries {
			return fmt.Errorf("%w: %d of %d", errIndex, i, entries)
		}
		if left == 0 {
			return fmt.Errorf("%w: %d", errLoop, entries)
		}
		left--
		d := readDescriptor(table, i)
		if d.flags&descIndirect != 0 {
			switch {
			case !indirect:
				return errIndirect
			case inside:
				return errNested
			case d.flags&descNext != 0:
				return errBoth
			case d.len == 0 || d.len%descSize != 0 || d.len/descSize > maxIndirect:
				return fmt.Errorf("%w: %d bytes", errTable, d.len)
			}
			// Whether it is device-writable does not matter (virtio 1.2, 2.7.5.3.2).
			var err error
			if table, err = mem.View(d.addr, uint64(d.len)); err != nil {
				return fmt.Errorf("indirect table: %w", err)
			}
			entries, inside = len(table)/descSize, true
			i, left = 0, entries
			continue
		}
		if err := c.add(mem, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = d.next
	}
}

// add appends a descriptor's buffer.
func (c *Chain) add(mem *memmap.Memory, d descriptor) error {
	write := d.flags&descWrite != 0
	if !write && c.writeLen > 0 {
		return errOrder // virtio 1.2, 2.7.4.2
	}
	if d.len == 0 {
		return nil
	}
	view, err := mem.View(d.addr, uint64(d.len))
	if err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	if write {
		c.writable, c.writeLen = append(c.writable, view), c.writeLen+uint64(d.len)
	} else {
		c.readable, c.readLen = append(c.readable, view), c.readLen+uint64(d.len)
	}
	if c.readLen+c.writeLen > maxChainLen {
		return errTotal
	}
	return nil
}
