package guestkernel

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/pagetable"
)

const (
	arenaSize = 1 << 30  // at most
	arenaStep = 64 << 20 // at first, and as much more each time that it is not enough
	chunkSize = 32 * pagetable.PageSize
)

// ErrTables says that programs hold so many address spaces that no memory for page tables is left.
var ErrTables = errors.New("no memory left for page tables")

// arena is the guest memory of the core and of all page tables, from gpa 0 on, given out in chunks. A
// chunk that was given back may still be cached by KVM or a TLB as somebody's page tables: it is used again only after
// flush, which forgets all translations and is dear.
type arena struct {
	mem   []byte
	flush func() error
	show  func(gpa, size uint64) error // makes more of mem visible to the guest

	mu   sync.Mutex
	next uint64   // never used from here on; protected by mu
	end  uint64   // visible to the guest up to here; protected by mu
	free []uint64 // used before, flushed since; protected by mu
	dead []uint64 // given back since the last flush; protected by mu
}

func newArena() (*arena, error) {
	mem, err := unix.Mmap(-1, 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for page tables: %w", arenaSize, err)
	}
	return &arena{mem: mem}, nil
}

func (a *arena) chunk() (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) == 0 && a.next+chunkSize > a.end {
		if err := a.more(); err != nil {
			return 0, err
		}
	}
	if n := len(a.free); n > 0 {
		c := a.free[n-1]
		a.free = a.free[:n-1]
		return c, nil
	}
	c := a.next
	a.next += chunkSize
	return c, nil
}

// more flushes what was given back if that is worth it, else it makes the arena larger. The caller holds mu.
func (a *arena) more() error {
	if len(a.dead) >= arenaStep/chunkSize/4 || a.end == arenaSize && len(a.dead) > 0 {
		if err := a.flush(); err != nil {
			return err
		}
		a.free, a.dead = a.dead, nil
		return nil
	}
	if a.end == arenaSize {
		return fmt.Errorf("%w: %d MiB are in use", ErrTables, arenaSize>>20)
	}
	if err := a.show(a.end, arenaStep); err != nil {
		return err
	}
	a.end += arenaStep
	return nil
}

// release takes chunks back and frees their host memory, so that they are zero when next used.
func (a *arena) release(chunks []uint64) error {
	for _, c := range chunks {
		if err := unix.Madvise(a.mem[c:c+chunkSize], unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("free page tables: %w", err)
		}
	}
	a.mu.Lock()
	a.dead = append(a.dead, chunks...)
	a.mu.Unlock()
	return nil
}

// tables gives one address space's page tables their pages.
type tables struct {
	arena  *arena
	chunks []uint64
	used   uint64 // bytes of the last chunk
}

// NewTable implements pagetable.Memory.
func (t *tables) NewTable() (uint64, error) {
	if len(t.chunks) == 0 || t.used == chunkSize {
		c, err := t.arena.chunk()
		if err != nil {
			return 0, err
		}
		t.chunks, t.used = append(t.chunks, c), 0
	}
	gpa := t.chunks[len(t.chunks)-1] + t.used
	t.used += pagetable.PageSize
	return gpa, nil
}

// Table implements pagetable.Memory.
func (t *tables) Table(gpa uint64) *pagetable.Table { return tableAt(t.arena.mem, gpa) }
