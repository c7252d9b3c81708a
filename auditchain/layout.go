package auditchain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// The files of a log, after C2SP tlog-tiles, and ours beside them.
const (
	checkpointFile = "checkpoint"     // the newest signed tree head
	checkpointNew  = "checkpoint.new" // one that is being written
	blocksFile     = "blocks"         // the blocks, each of blockSize bytes
	cosignedDir    = "cosigned"       // SIZE: a checkpoint of that size with the witnesses' signatures
	lockFile       = "lock"           // who holds it writes
	entriesLevel   = -1               // the level of tilePath that means entry bundles
)

// tilePath is tile/LEVEL/N or, of a tile with fewer than 256 hashes, tile/LEVEL/N.p/WIDTH.
func tilePath(level int, n uint64, width int) string {
	if width == tileWidth {
		return tileStem(level, n)
	}
	return partialDir(level, n) + "/" + strconv.Itoa(width)
}

func partialDir(level int, n uint64) string { return tileStem(level, n) + ".p" }

func tileStem(level int, n uint64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	if level == entriesLevel {
		return "tile/entries/" + s
	}
	return "tile/" + strconv.Itoa(level) + "/" + s
}

// appendEntry appends an entry to a bundle.
func appendEntry(bundle, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
}

var errBundle = errors.New("an entry bundle ends within an entry")

// nextEntry takes the first entry off a bundle.
func nextEntry(bundle []byte) (entry, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, errBundle
	}
	n := 2 + int(binary.BigEndian.Uint16(bundle))
	if len(bundle) < n {
		return nil, nil, errBundle
	}
	return bundle[2:n], bundle[n:], nil
}
