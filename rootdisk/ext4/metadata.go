package ext4

import (
	"encoding/binary"
)

// journal makes the journal's inode and superblock (Documentation/filesystems/ext4/journal.rst): empty.
func (w *Writer) journal(identity [32]byte) (*Inode, error) {
	b := make([]byte, 1024)
	be := binary.BigEndian
	be.PutUint32(b[0:], 0xc03b3998)
	be.PutUint32(b[4:], 4) // superblock, version 2
	be.PutUint32(b[12:], blockSize)
	be.PutUint32(b[16:], journalBlocks)
	be.PutUint32(b[20:], 1) // the first block of the log
	be.PutUint32(b[24:], 1) // the first commit expected
	copy(b[48:64], identity[:])
	be.PutUint32(b[64:], 1) // users
	start, err := w.take(journalBlocks)
	if err != nil {
		return nil, err
	}
	if _, err := w.file.WriteAt(b, int64(start)*blockSize); err != nil {
		return nil, err
	}
	return &Inode{Mode: TypeRegular | 0o600, number: journalInode, links: 1, start: start, blocks: journalBlocks, size: journalBlocks * blockSize}, nil
}

// metadata writes inode tables, bitmaps, group descriptors and the superblock.
func (w *Writer) metadata(p plan, root, journal *Inode, identity [32]byte) error {
	if err := w.file.Truncate(int64(p.groups) * blocksPerGroup * blockSize); err != nil {
		return err
	}
	if err := w.writeInodes(p, root, journal); err != nil {
		return err
	}
	usedDescs := (p.groups*descSize + blockSize - 1) / blockSize
	w.inUse = append(w.inUse, run{0, 1 + usedDescs}, run{p.tables, p.end})
	blocks := bitmaps(p.groups, blocksPerGroup, func(set func(uint32)) {
		for _, r := range w.inUse {
			for b := r.first; b < r.end; b++ {
				set(b)
			}
		}
	})
	lastInode := firstInode + uint32(len(w.numbered)) - 1
	inodes := bitmaps(p.groups, p.inodesPerGroup, func(set func(uint32)) {
		for i := range lastInode {
			set(i)
		}
	})
	dirs := make([]uint16, p.groups)
	for _, d := range w.dirs {
		dirs[(d.number-1)/p.inodesPerGroup]++
	}
	descs := make([]byte, p.groups*descSize)
	var freeBlocks, freeInodes uint32
	for g := range p.groups {
		d := descs[g*descSize:]
		le.PutUint32(d[0x0:], p.blockBitmaps+g)
		le.PutUint32(d[0x4:], p.inodeBitmaps+g)
		le.PutUint32(d[0x8:], p.tables+g*p.tableBlocks)
		le.PutUint16(d[0xc:], uint16(blocks[g].free))
		le.PutUint16(d[0xe:], uint16(inodes[g].free))
		le.PutUint16(d[0x10:], dirs[g])
		freeBlocks += blocks[g].free
		freeInodes += inodes[g].free
		if _, err := w.file.WriteAt(blocks[g].bits, int64(p.blockBitmaps+g)*blockSize); err != nil {
			return err
		}
		if _, err := w.file.WriteAt(inodes[g].bits, int64(p.inodeBitmaps+g)*blockSize); err != nil {
			return err
		}
	}
	if _, err := w.file.WriteAt(descs, blockSize); err != nil {
		return err
	}
	jb, err := journal.encode()
	if err != nil {
		return err
	}
	_, err = w.file.WriteAt(superblock(p, freeBlocks, freeInodes, identity, jb), 1024)
	return err
}

// bitmap is one group's.
type bitmap struct {
	bits []byte
	free uint32
}

// bitmaps makes a bitmap of perGroup bits for each group; the bits behind them are set.
func bitmaps(groups, perGroup uint32, each func(set func(uint32))) []bitmap {
	all := make([]bitmap, groups)
	for g := range all {
		all[g] = bitmap{make([]byte, blockSize), perGroup}
		for i := perGroup; i < 8*blockSize; i++ {
			all[g].bits[i/8] |= 1 << (i % 8)
		}
	}
	each(func(n uint32) {
		g, i := &all[n/perGroup], n%perGroup
		if g.bits[i/8]&(1<<(i%8)) == 0 {
			g.bits[i/8] |= 1 << (i % 8)
			g.free--
		}
	})
	return all
}

// superblock returns the superblock, which is at byte 1024.
func superblock(p plan, freeBlocks, freeInodes uint32, identity [32]byte, journal []byte) []byte {
	b := make([]byte, 1024)
	put := func(at int, v uint32) { le.PutUint32(b[at:], v) }
	put16 := func(at int, v uint16) { le.PutUint16(b[at:], v) }
	put(0x00, p.groups*p.inodesPerGroup)
	put(0x04, p.groups*blocksPerGroup)
	put(0x0c, freeBlocks)
	put(0x10, freeInodes)
	put(0x18, 2) // log2 of the block size in KiB
	put(0x1c, 2)
	put(0x20, blocksPerGroup)
	put(0x24, blocksPerGroup)
	put(0x28, p.inodesPerGroup)
	put16(0x36, 0xffff) // never check because of the number of mounts
	put16(0x38, 0xef53)
	put16(0x3a, 1) // clean
	put16(0x3c, 1) // go on after errors
	put(0x4c, 1)   // revision: dynamic inode sizes
	put(0x54, firstInode)
	put16(0x58, inodeSize)
	put(0x5c, compatJournal|compatXattr|compatDirIndex|compatSparseSuper2)
	put(0x60, incompatFileType|incompatExtents|incompatFlexBG)
	put(0x64, roLargeFile|roDirNlink|roExtraISize)
	copy(b[0x68:0x78], identity[:16])
	b[0x68+6] = b[0x68+6]&0x0f | 0x80 // a UUID of version 8, RFC 9562: made by a rule of one's own
	b[0x68+8] = b[0x68+8]&0x3f | 0x80
	put(0xe0, journalInode)
	copy(b[0xec:0xfc], identity[16:])
	b[0xfc] = 1         // directories are hashed by half MD4
	b[0xfd] = 1         // what follows at 0x10c is a copy of the journal's inode
	put(0x100, 0x4|0x8) // mount with user_xattr and acl
	copy(b[0x10c:0x148], journal[0x28:0x64])
	copy(b[0x148:0x14c], journal[0x6c:0x70])
	copy(b[0x14c:0x150], journal[0x04:0x08])
	put16(0x15c, extraSize)
	put16(0x15e, extraSize)
	put(0x160, 1) // names are hashed as signed chars
	b[0x174] = 4  // log2 of the groups of a flexible group
	return b
}
