package memmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Sizes in bytes.
const (
	PageSize = 4096
	KiB      = 1 << 10
	MiB      = 1 << 20
	GiB      = 1 << 30

	// HoleStart and HoleEnd bound the guest-physical range that never holds RAM:
	// MMIO, the IOAPIC, the local APICs and firmware live there.
	HoleStart = 3 * GiB
	HoleEnd   = 4 * GiB

	// MinSize is the least RAM a guest can have.
	MinSize = 1 * MiB
	// MaxSize is the most RAM a guest can have: what 46 guest-physical address bits
	// leave below the hole's far end.
	MaxSize = 1<<46 - HoleEnd
)

// ErrBounds says that an access does not lie inside one RAM region.
var ErrBounds = errors.New("outside guest memory")

// ErrSize says that a guest memory size cannot be had.
var ErrSize = errors.New("bad guest memory size")

// Region is one contiguous range of guest RAM.
type Region struct {
	GPA  uint64 // guest-physical start, page-aligned
	Size uint64 // bytes, page-aligned

	host []byte // the mapping; valid until Memory.Close
}

// Memory is a guest's RAM. Reads and writes of plain bytes may race with the guest's
// own, as on hardware; whoever parses must copy first. Methods are safe for concurrent
// use, except Close.
type Memory struct {
	file    int      // memfd; immutable until Close
	size    uint64   // immutable
	regions []Region // sorted by GPA; immutable until Close
}

// New makes RAM of size bytes (a multiple of PageSize, MinSize to MaxSize): up to HoleStart
// below 4 GiB and the rest above. No page is touched. The caller closes it after the VM.
func New(size uint64) (*Memory, error) {
	if size < MinSize || size > MaxSize || size%PageSize != 0 {
		return nil, fmt.Errorf("%w: %d bytes; it must be a multiple of %d between %d MiB and %d TiB", ErrSize, size, PageSize, MinSize/MiB, MaxSize>>40)
	}
	file, err := unix.MemfdCreate("qenex-guest-ram", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create guest memory: memfd_create: %w", err)
	}
	m := &Memory{file: file, size: size}
	if err := unix.Ftruncate(file, int64(size)); err != nil {
		m.Close()
		return nil, fmt.Errorf("create guest memory of %d bytes: ftruncate: %w", size, err)
	}
	low := min(size, HoleStart)
	if err := m.add(0, low, 0); err != nil {
		m.Close()
		return nil, err
	}
	if size > low {
		if err := m.add(HoleEnd, size-low, int64(low)); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

func (m *Memory) add(gpa, size uint64, offset int64) error {
	host, err := unix.Mmap(m.file, offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map %d bytes of guest memory at gpa %#x: %w", size, gpa, err)
	}
	m.regions = append(m.regions, Region{GPA: gpa, Size: size, host: host})
	return nil
}

// Close unmaps the RAM. Every View becomes invalid; no vCPU may run any more.
func (m *Memory) Close() error {
	var errs []error
	for _, r := range m.regions {
		if err := unix.Munmap(r.host); err != nil {
			errs = append(errs, fmt.Errorf("unmap guest memory at gpa %#x: %w", r.GPA, err))
		}
	}
	m.regions = nil
	if m.file >= 0 {
		errs = append(errs, unix.Close(m.file))
		m.file = -1
	}
	return errors.Join(errs...)
}

// Size returns the RAM's size in bytes.
func (m *Memory) Size() uint64 { return m.size }

// Regions returns the RAM's regions, sorted by address.
func (m *Memory) Regions() []Region { return append([]Region(nil), m.regions...) }

// View returns the n bytes at gpa as a window onto guest memory, valid until Close. The range
// must lie inside one region. The guest may change the bytes at any time.
func (m *Memory) View(gpa, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if gpa >= r.GPA && gpa-r.GPA < r.Size && n <= r.Size-(gpa-r.GPA) {
			off := gpa - r.GPA
			return r.host[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at gpa %#x: %w", n, gpa, ErrBounds)
}

// Read copies len(p) bytes at gpa into p.
func (m *Memory) Read(gpa uint64, p []byte) error {
	v, err := m.View(gpa, uint64(len(p)))
	if err != nil {
		return fmt.Errorf("read %w", err)
	}
	copy(p, v)
	return nil
}

// Write copies p to gpa.
func (m *Memory) Write(gpa uint64, p []byte) error {
	v, err := m.View(gpa, uint64(len(p)))
	if err != nil {
		return fmt.Errorf("write %w", err)
	}
	copy(v, p)
	return nil
}

// Zero clears n bytes at gpa.
func (m *Memory) Zero(gpa, n uint64) error {
	v, err := m.View(gpa, n)
	if err != nil {
		return fmt.Errorf("zero %w", err)
	}
	clear(v)
	return nil
}

// ReadFromAt fills n bytes at gpa from r. A reader that ends early gives io.ErrUnexpectedEOF.
func (m *Memory) ReadFromAt(gpa uint64, r io.Reader, n uint64) error {
	v, err := m.View(gpa, n)
	if err != nil {
		return fmt.Errorf("fill %w", err)
	}
	if _, err := io.ReadFull(r, v); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("fill %d bytes at gpa %#x: %w", n, gpa, err)
	}
	return nil
}

// Uint8 reads the byte at gpa.
func (m *Memory) Uint8(gpa uint64) (uint8, error) {
	v, err := m.View(gpa, 1)
	if err != nil {
		return 0, err
	}
	return v[0], nil
}

// Uint16 reads the little-endian word at gpa.
func (m *Memory) Uint16(gpa uint64) (uint16, error) {
	v, err := m.View(gpa, 2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(v), nil
}

// Uint32 reads the little-endian doubleword at gpa.
func (m *Memory) Uint32(gpa uint64) (uint32, error) {
	v, err := m.View(gpa, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(v), nil
}

// Uint64 reads the little-endian quadword at gpa.
func (m *Memory) Uint64(gpa uint64) (uint64, error) {
	v, err := m.View(gpa, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(v), nil
}

// PutUint8 writes the byte at gpa.
func (m *Memory) PutUint8(gpa uint64, x uint8) error { return m.Write(gpa, []byte{x}) }

// PutUint16 writes the little-endian word at gpa.
func (m *Memory) PutUint16(gpa uint64, x uint16) error {
	return m.Write(gpa, binary.LittleEndian.AppendUint16(nil, x))
}

// PutUint32 writes the little-endian doubleword at gpa.
func (m *Memory) PutUint32(gpa uint64, x uint32) error {
	return m.Write(gpa, binary.LittleEndian.AppendUint32(nil, x))
}

// PutUint64 writes the little-endian quadword at gpa.
func (m *Memory) PutUint64(gpa uint64, x uint64) error {
	return m.Write(gpa, binary.LittleEndian.AppendUint64(nil, x))
}

// Touched returns how many bytes of the RAM hold pages of host memory.
func (m *Memory) Touched() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(m.file, &st); err != nil {
		return 0, fmt.Errorf("guest memory: fstat: %w", err)
	}
	return uint64(st.Blocks) * 512, nil
}
