package auditchain

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxDifficulty is the greatest Config.Difficulty: more leading zero bits than this nobody finds.
const MaxDifficulty = 32

const (
	blockMagic = "qenex-block/v1\n"
	headerSize = len(blockMagic) + 1 + 32 + 5*8 + 2*32
	blockSize  = headerSize + ed25519.SignatureSize + mldsa.MLDSA44SignatureSize
)

// SealedBlock is a block of the chain: it says which records the log had at a time. Its binary form has blockSize bytes:
//
//	"qenex-block/v1\n", difficulty (1)
//	SHA-256 of the log's name (32)
//	height, first, end, time, nonce (8 each, big-endian)
//	previous, root (32 each)
//	the signatures of all that, Ed25519 (64) and ML-DSA-44 (2420, context "qenex-block/v1\n")
type SealedBlock struct {
	Height     uint64 // of the first block: 0
	First, End uint64 // the block's records are First to End-1; First is the End of the block before
	Time       int64  // Unix time in nanoseconds, not before the time of the block before
	Previous   [32]byte
	Root       tlog.Hash // of the tree of the records 0 to End-1
	Difficulty uint8     // this many leading bits of Hash are zero
	Nonce      uint64    // what makes them so

	origin  [32]byte
	ed25519 [ed25519.SignatureSize]byte
	mldsa   [mldsa.MLDSA44SignatureSize]byte
}

func (b *SealedBlock) header() []byte {
	h := append(make([]byte, 0, blockSize), blockMagic...)
	h = append(append(h, b.Difficulty), b.origin[:]...)
	for _, n := range [...]uint64{b.Height, b.First, b.End, uint64(b.Time), b.Nonce} {
		h = binary.BigEndian.AppendUint64(h, n)
	}
	return append(append(h, b.Previous[:]...), b.Root[:]...)
}

// Hash is SHA-256 of the block without its signatures: what the next block names as Previous, and what is anchored.
func (b *SealedBlock) Hash() [32]byte { return sha256.Sum256(b.header()) }

func (b *SealedBlock) encode() []byte {
	return append(append(b.header(), b.ed25519[:]...), b.mldsa[:]...)
}

var errBlock = errors.New("not a block")

func decodeBlock(p []byte) (*SealedBlock, error) {
	if len(p) != blockSize || !bytes.HasPrefix(p, []byte(blockMagic)) {
		return nil, errBlock
	}
	p = p[len(blockMagic):]
	b := &SealedBlock{Difficulty: p[0], origin: [32]byte(p[1:])}
	p = p[33:]
	for i, f := range [...]*uint64{&b.Height, &b.First, &b.End, nil, &b.Nonce} {
		if f != nil {
			*f = binary.BigEndian.Uint64(p[8*i:])
		}
	}
	b.Time = int64(binary.BigEndian.Uint64(p[24:]))
	p = p[40:]
	b.Previous, b.Root = [32]byte(p), tlog.Hash(p[32:])
	p = p[64:]
	b.ed25519, b.mldsa = [ed25519.SignatureSize]byte(p), [mldsa.MLDSA44SignatureSize]byte(p[ed25519.SignatureSize:])
	return b, nil
}

// nextBlock makes the block after prev, which is nil for the first: unsigned, not mined.
func nextBlock(name string, prev *SealedBlock, head Head, now int64, difficulty int) *SealedBlock {
	b := &SealedBlock{End: head.Size, Root: head.Root, Time: now, Difficulty: uint8(difficulty), origin: sha256.Sum256([]byte(name))}
	if prev != nil {
		b.Height, b.First, b.Previous, b.Time = prev.Height+1, prev.End, prev.Hash(), max(now, prev.Time)
	}
	return b
}

// mine finds the nonce.
func (b *SealedBlock) mine() {
	h := b.header()
	nonce := h[headerSize-2*32-8:][:8]
	for b.Nonce = 0; ; b.Nonce++ {
		binary.BigEndian.PutUint64(nonce, b.Nonce)
		if leadingZeros(sha256.Sum256(h)) >= int(b.Difficulty) {
			return
		}
	}
}

func leadingZeros(h [32]byte) int {
	for i, c := range h {
		if c != 0 {
			return 8*i + bits.LeadingZeros8(c)
		}
	}
	return 256
}

func (b *SealedBlock) sign(k *Key) error {
	h := b.header()
	sig, err := k.mldsa.Sign(nil, h, &mldsa.Options{Context: blockMagic})
	if err != nil {
		return err
	}
	b.ed25519, b.mldsa = [ed25519.SignatureSize]byte(ed25519.Sign(k.ed25519, h)), [mldsa.MLDSA44SignatureSize]byte(sig)
	return nil
}

// check says whether the block is one of this key's and follows prev, which is nil for the first.
func (b *SealedBlock) check(p *Public, prev *SealedBlock) error {
	if err := b.checkOwn(p); err != nil {
		return err
	}
	if prev == nil {
		prev = &SealedBlock{Height: ^uint64(0)}
	} else if b.Previous != prev.Hash() {
		return errors.New("it does not name the block before")
	}
	if b.Height != prev.Height+1 || b.First != prev.End || b.Time < prev.Time {
		return fmt.Errorf("height %d, first record %d, time %d: it does not follow the block before", b.Height, b.First, b.Time)
	}
	return nil
}

// checkOwn is check without what comes before.
func (b *SealedBlock) checkOwn(p *Public) error {
	h := b.header()
	switch {
	case b.origin != sha256.Sum256([]byte(p.name)):
		return errors.New("it is of another log")
	case !ed25519.Verify(p.ed25519, h, b.ed25519[:]):
		return errors.New("its Ed25519 signature is wrong")
	case mldsa.Verify(p.mldsa, h, b.mldsa[:], &mldsa.Options{Context: blockMagic}) != nil:
		return errors.New("its ML-DSA-44 signature is wrong")
	case leadingZeros(b.Hash()) < int(b.Difficulty):
		return errors.New("its proof of work is wrong")
	case b.End <= b.First:
		return errors.New("it has no records")
	}
	return nil
}
