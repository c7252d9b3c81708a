package auditchain

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Anchor keeps, where who can change the log's files cannot change it, how many blocks there are and the hash of the last: so a log
// that was rolled back is told from the newest one. A TPM does it with a PCR and an NV index.
type Anchor interface {
	// Last returns how many blocks were anchored, and the last one's hash.
	Last() (blocks uint64, hash [32]byte, err error)
	// Extend is called for every block, in their order, when the block lasts on disk: blocks is its height plus one, hash its hash,
	// root that of the tree at its end. When it returns without error, Last says so, whatever happens. A block whose Extend did not
	// return is given again if Last does not know it.
	Extend(blocks uint64, hash, root [32]byte) error
}

// FileAnchor is an Anchor in a file. It protects against changes of the log by those who cannot write that file: keep it on
// another file system, or use it in tests.
type FileAnchor string

// Last reads the file; no file means no blocks.
func (a FileAnchor) Last() (blocks uint64, hash [32]byte, err error) {
	text, err := os.ReadFile(string(a))
	if errors.Is(err, os.ErrNotExist) {
		return 0, hash, nil
	}
	if err != nil {
		return 0, hash, err
	}
	var sum string
	if _, err := fmt.Sscanf(string(text), "%d %s\n", &blocks, &sum); err != nil {
		return 0, hash, fmt.Errorf("anchor %s: %w", string(a), err)
	}
	p, err := hex.DecodeString(strings.TrimSpace(sum))
	if err != nil || len(p) != len(hash) {
		return 0, hash, fmt.Errorf("anchor %s: %q is not a SHA-256 digest", string(a), sum)
	}
	return blocks, [32]byte(p), nil
}

// Extend replaces the file.
func (a FileAnchor) Extend(blocks uint64, hash, _ [32]byte) error {
	root, err := os.OpenRoot(filepath.Dir(string(a)))
	if err != nil {
		return err
	}
	defer root.Close()
	w := writer{storage: &dirStorage{FS: root.FS(), root: root}}
	name := filepath.Base(string(a))
	return w.replace(name, name+".new", fmt.Appendf(nil, "%d %x\n", blocks, hash))
}
