package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"filippo.io/mldsa"
)

const (
	blockMagic  = "qenex-block/v1\n"
	blockHeader = 152
	blockSize   = blockHeader + 64 + 2420
)

// block is what the verifier needs of a block, as auditchain.SealedBlock documents it.
type block struct {
	height, first, end uint64
	time               int64
	hash, root         [32]byte
}

// readBlock reads and checks the block after v.last, and makes it v.last; nil if there is none.
func (v *verifier) readBlock() error {
	prev := v.last
	height := uint64(0)
	if prev != nil {
		height = prev.height + 1
	}
	v.last = nil
	where := fmt.Sprintf("block %d", height)
	p := make([]byte, blockSize)
	switch n, err := io.ReadFull(v.next, p); {
	case err == io.EOF:
		return nil
	case err == io.ErrUnexpectedEOF:
		return bad(BadBlock, where, "it has %d bytes, not %d", n, blockSize)
	case err != nil:
		return bad(BadBlock, where, "%v", err)
	}
	header, sigs := p[:blockHeader], p[blockHeader:]
	if !bytes.HasPrefix(header, []byte(blockMagic)) {
		return bad(BadBlock, where, "it does not begin as a block")
	}
	name := sha256.Sum256([]byte(v.keys.name))
	if !bytes.Equal(header[16:48], name[:]) {
		return bad(OtherLog, where, "it is of a log with another name")
	}
	if !ed25519.Verify(v.keys.ed25519, header, sigs[:64]) {
		return bad(BlockSignature, where, "Ed25519")
	}
	if err := mldsa.Verify(v.keys.mldsa, header, sigs[64:], &mldsa.Options{Context: blockMagic}); err != nil {
		return bad(BlockSignature, where, "ML-DSA-44: %v", err)
	}
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(header[at:]) }
	b := &block{height: u64(48), first: u64(56), end: u64(64), time: int64(u64(72)), hash: sha256.Sum256(header)}
	copy(b.root[:], header[120:])
	if need := max(int(header[15]), v.opts.Difficulty); int(header[15]) < v.opts.Difficulty || !zeroBits(b.hash, need) {
		return bad(ProofOfWork, where, "it says %d bits, its hash is %x, %d are wanted", header[15], b.hash, need)
	}
	var previous [32]byte
	var first uint64
	var notBefore int64
	if prev != nil {
		previous, first, notBefore = prev.hash, prev.end, prev.time
	}
	switch {
	case b.height != height:
		return bad(BlockChain, where, "its height is %d", b.height)
	case !bytes.Equal(previous[:], header[88:120]):
		return bad(BlockChain, where, "it does not name the block before")
	case b.first != first || b.end <= b.first:
		return bad(BlockChain, where, "it has the records %d to %d, but %d is next", b.first, b.end, first)
	case b.time < notBefore:
		return bad(BlockChain, where, "it is older than the block before")
	}
	if v.opts.Anchored == height+1 && b.hash != v.opts.AnchorHash {
		return bad(Forked, where, "its hash is %x, but %x was anchored", b.hash, v.opts.AnchorHash)
	}
	v.last = b
	return nil
}

func zeroBits(h [32]byte, n int) bool {
	for i := range n {
		if i >= 256 || h[i/8]>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

// blockRecord checks the record that names a block: each block has one behind its own records, in their order, and only the last may lack it.
func (v *verifier) blockRecord(r record) error {
	where := fmt.Sprintf("record %d", v.size)
	if uint64(r.result) != v.named {
		return bad(BadRecord, where, "it names block %d, but %d is next", r.result, v.named)
	}
	if len(v.unnamed) == 0 {
		return bad(BlockChain, where, "it names block %d, which is not there", r.result)
	}
	if v.unnamed[0] != r.args {
		return bad(BlockChain, where, "it names another block %d than the one there", r.result)
	}
	v.unnamed = v.unnamed[1:]
	v.named++
	return nil
}
