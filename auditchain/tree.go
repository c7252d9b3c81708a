package auditchain

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// tree is the right edge of an RFC 6962 tree: what is needed to add leaves, and no more.
type tree struct {
	size  uint64
	nodes [64]tlog.Hash // nodes[l] is the root of the last complete subtree of 2^l leaves, where bit l of size is set
	tiles [][]byte      // tiles[i] has the hashes of the last tile of level i as long as it is not full
}

// add adds a leaf. full is called with every tile that it fills and may keep data.
func (t *tree) add(h tlog.Hash, full func(level int, n uint64, data []byte)) {
	for l := 0; ; l++ {
		if l%tileHeight == 0 {
			t.push(l/tileHeight, h, full)
		}
		if t.size>>l&1 == 0 {
			t.nodes[l] = h
			break
		}
		h = tlog.NodeHash(t.nodes[l], h)
	}
	t.size++
}

func (t *tree) push(level int, h tlog.Hash, full func(int, uint64, []byte)) {
	if level == len(t.tiles) {
		t.tiles = append(t.tiles, nil)
	}
	if t.tiles[level] == nil {
		t.tiles[level] = make([]byte, 0, tileWidth*tlog.HashSize)
	}
	t.tiles[level] = append(t.tiles[level], h[:]...)
	if len(t.tiles[level]) == tileWidth*tlog.HashSize {
		full(level, t.size>>(tileHeight*(level+1)), t.tiles[level])
		t.tiles[level] = nil
	}
}

// root returns the tree's root hash.
func (t *tree) root() tlog.Hash {
	h, some := tlog.Hash(sha256.Sum256(nil)), false
	for l := range t.nodes {
		switch {
		case t.size>>l&1 == 0:
		case some:
			h = tlog.NodeHash(t.nodes[l], h)
		default:
			h, some = t.nodes[l], true
		}
	}
	return h
}

// levels returns how many levels of tiles a tree of that size has.
func levels(size uint64) int {
	n := 0
	for ; size > 0; size >>= tileHeight {
		n++
	}
	return n
}

// resume makes the edge of a tree of that size from its last tiles, which read returns: width hashes each.
func resume(size uint64, read func(level int, n uint64, width int) ([]byte, error)) (*tree, error) {
	t := &tree{size: size, tiles: make([][]byte, levels(size))}
	for level := range t.tiles {
		width := int(size >> (tileHeight * level) % tileWidth)
		if width == 0 {
			continue
		}
		data, err := read(level, size>>(tileHeight*(level+1)), width)
		if err != nil {
			return nil, err
		}
		t.tiles[level] = append(make([]byte, 0, tileWidth*tlog.HashSize), data...)
		from := 0
		for l := tileHeight - 1; l >= 0; l-- {
			if width>>l&1 == 1 {
				t.nodes[level*tileHeight+l] = subtree(t.tiles[level][from*tlog.HashSize : (from+1<<l)*tlog.HashSize])
				from += 1 << l
			}
		}
	}
	return t, nil
}

// subtree returns the root over a power of two of hashes.
func subtree(data []byte) tlog.Hash {
	if len(data) == tlog.HashSize {
		return tlog.Hash(data)
	}
	return tlog.NodeHash(subtree(data[:len(data)/2]), subtree(data[len(data)/2:]))
}
