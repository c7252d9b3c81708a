package memmap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Discard gives the host's memory behind n bytes at gpa back; the guest reads zeroes there from then on. The range must
// lie inside one region; of pages that it covers only in part nothing is lost.
func (m *Memory) Discard(gpa, n uint64) error {
	if _, err := m.View(gpa, n); err != nil {
		return fmt.Errorf("discard %w", err)
	}
	first := (gpa + PageSize - 1) / PageSize * PageSize
	last := (gpa + n) / PageSize * PageSize
	if first >= last {
		return nil
	}
	// Regions lie in the file one behind the other.
	offset := first
	if first >= HoleEnd {
		offset -= HoleEnd - HoleStart
	}
	if err := unix.Fallocate(m.file, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(last-first)); err != nil {
		return fmt.Errorf("discard %d bytes at gpa %#x: punch a hole in the memory file: %w", last-first, first, err)
	}
	return nil
}
