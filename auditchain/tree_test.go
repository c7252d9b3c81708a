package auditchain

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// The edge of the tree and its tiles against x/mod's tree, which keeps all hashes.
func TestTree(t *testing.T) {
	var stored []tlog.Hash
	all := tlog.HashReaderFunc(func(list []int64) (hashes []tlog.Hash, err error) {
		for _, i := range list {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	full := map[string][]byte{}
	edge := &tree{}
	for n := range int64(70000) {
		if n < 600 || n%997 == 0 || n > 65500 && n < 65600 {
			want, err := tlog.TreeHash(n, all)
			if n == 0 {
				want, err = (&tree{}).root(), nil
			}
			if err != nil || edge.root() != want {
				t.Fatalf("%d leaves: root %v, want %v (%v)", n, edge.root(), want, err)
			}
			again, err := resume(uint64(n), func(level int, i uint64, width int) ([]byte, error) {
				want, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: level, N: int64(i), W: width}, all)
				if err != nil || !bytes.Equal(want, edge.tiles[level]) {
					return nil, fmt.Errorf("tile %d/%d.p/%d is not x/mod's (%v)", level, i, width, err)
				}
				return want, nil
			})
			if err != nil || again.root() != edge.root() {
				t.Fatalf("%d leaves, resumed: %v", n, err)
			}
		}
		data := fmt.Appendf(nil, "leaf %d", n)
		hashes, err := tlog.StoredHashes(n, data, all)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		edge.add(tlog.RecordHash(data), func(level int, n uint64, data []byte) { full[tilePath(level, n, tileWidth)] = data })
	}
	if len(full) != 70000/256+1 {
		t.Errorf("%d full tiles, want %d", len(full), 70000/256+1)
	}
	for _, tile := range tlog.NewTiles(tileHeight, 0, 70000) {
		if tile.W < tileWidth {
			continue
		}
		want, err := tlog.ReadTileData(tile, all)
		if got := full[tilePath(tile.L, uint64(tile.N), tile.W)]; err != nil || !bytes.Equal(got, want) {
			t.Errorf("tile %v is not x/mod's (%v)", tile, err)
		}
	}
}

func TestTilePath(t *testing.T) {
	for want, got := range map[string]string{
		"tile/0/000":                       tilePath(0, 0, 256),
		"tile/entries/x001/234":            tilePath(entriesLevel, 1234, 256),
		"tile/1/x001/x234/067.p/8":         tilePath(1, 1234067, 8),
		"tile/entries/x001/x000/000.p/255": tilePath(entriesLevel, 1000000, 255),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
