package blockdev

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

// A page of the bitmap is what is written to the overlay file at once.
const (
	bitPageSize = 4096
	bitPageBits = bitPageSize * 8
)

type bitPage [bitPageSize / 8]atomic.Uint64

// bitmap says which blocks of an overlay are its own. Bits are set and never cleared. Pages without a bit take no memory.
type bitmap struct {
	pages []atomic.Pointer[bitPage]

	mu    sync.Mutex
	dirty map[int64]bool // protected by mu; pages with bits that their file does not have
}

func newBitmap(n int64) *bitmap {
	return &bitmap{pages: make([]atomic.Pointer[bitPage], (n+bitPageBits-1)/bitPageBits), dirty: map[int64]bool{}}
}

func (b *bitmap) get(i int64) bool {
	p := b.pages[i/bitPageBits].Load()
	return p != nil && p[i%bitPageBits/64].Load()>>(i%64)&1 != 0
}

// run returns how many of the n bits from i on are the same as the first.
func (b *bitmap) run(i, n int64) (bool, int64) {
	first := b.get(i)
	k := int64(1)
	for k < n && b.get(i+k) == first {
		k++
	}
	return first, k
}

// set sets the n bits from i on.
func (b *bitmap) set(i, n int64) {
	if own, k := b.run(i, n); own && k == n {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for end := i + n; i < end; i++ {
		p := b.page(i / bitPageBits)
		p[i%bitPageBits/64].Or(1 << (i % 64))
		b.dirty[i/bitPageBits] = true
	}
}

// page returns page i, made if need be. b.mu is held.
func (b *bitmap) page(i int64) *bitPage {
	p := b.pages[i].Load()
	if p == nil {
		p = new(bitPage)
		b.pages[i].Store(p)
	}
	return p
}

// takeDirty returns copies of the pages whose bits are not in the file, and takes them for written.
func (b *bitmap) takeDirty() map[int64][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dirty) == 0 {
		return nil
	}
	out := make(map[int64][]byte, len(b.dirty))
	for i := range b.dirty {
		raw := make([]byte, 0, bitPageSize)
		p := b.pages[i].Load()
		for j := range p {
			raw = binary.LittleEndian.AppendUint64(raw, p[j].Load())
		}
		out[i] = raw
	}
	clear(b.dirty)
	return out
}

// giveBack says that pages of takeDirty were not written after all.
func (b *bitmap) giveBack(pages map[int64][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range pages {
		b.dirty[i] = true
	}
}

// load fills page i from a file, and says whether no bit from n on is set.
func (b *bitmap) load(i int64, raw []byte, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for j := range bitPageSize / 8 {
		w := binary.LittleEndian.Uint64(raw[j*8:])
		if w == 0 {
			continue
		}
		if i*bitPageBits+int64(j)*64+int64(bits.Len64(w)) > n {
			return false
		}
		b.page(i)[j].Store(w)
	}
	return true
}
