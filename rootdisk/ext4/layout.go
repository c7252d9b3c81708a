package ext4

// Sizes. A group is what one block of bitmap describes.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize
	inodeSize      = 256
	inodesPerBlock = blockSize / inodeSize
	maxGroupInodes = 8 * blockSize
	descSize       = 32
	descBlocks     = 64                                    // kept for group descriptors behind the superblock
	maxGroups      = descBlocks * blockSize / descSize     // 1 TiB
	firstData      = 1 + descBlocks                        // the first block that contents may have
	maxBlocks      = uint64(maxGroups) * blocksPerGroup    // of the file system
	journalBlocks  = 32 << 20 / blockSize                  // 32 MiB: what mke2fs gives to file systems of a few GiB
	bytesPerInode  = 16 << 10                              // of free space, as mke2fs has it
	extentMax      = 32768                                 // blocks of one extent
	rootExtents    = 4                                     // extents or indexes in an inode
	leafExtents    = (blockSize - 12) / 12                 // extents in a block
	maxFileBlocks  = rootExtents * leafExtents * extentMax // 170 GiB
)

// Inode numbers.
const (
	rootInode    = 2
	journalInode = 8
	firstInode   = 11
)

// Features (Documentation/filesystems/ext4/super.rst). Nothing here that Linux 3.16 has not got.
const (
	compatJournal      = 0x4
	compatXattr        = 0x8
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatFileType = 0x2
	incompatExtents  = 0x40
	incompatFlexBG   = 0x200

	roLargeFile  = 0x2
	roDirNlink   = 0x20
	roExtraISize = 0x40
)

// plan is where things are.
type plan struct {
	groups         uint32
	inodesPerGroup uint32
	tableBlocks    uint32 // of one group's inode table
	tables         uint32 // first block of the first inode table; the others follow
	blockBitmaps   uint32 // one block for each group
	inodeBitmaps   uint32
	end            uint32 // the first block behind all of it
}

// newPlan places the metadata behind the used blocks so that free bytes and as many inodes as suit them remain.
func newPlan(used uint32, inodes uint64, free uint64) (plan, error) {
	freeBlocks := (free + blockSize - 1) / blockSize
	want := inodes + free/bytesPerInode
	groups := max((uint64(used)+freeBlocks)/blocksPerGroup+1, (want+maxGroupInodes-1)/maxGroupInodes)
	for ; groups <= maxGroups; groups++ {
		perGroup := (want + groups - 1) / groups
		perGroup = (perGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
		table := perGroup / inodesPerBlock
		end := uint64(used) + groups*(table+2)
		if end+freeBlocks > groups*blocksPerGroup {
			continue
		}
		p := plan{groups: uint32(groups), inodesPerGroup: uint32(perGroup), tableBlocks: uint32(table), tables: used}
		p.blockBitmaps = p.tables + p.groups*p.tableBlocks
		p.inodeBitmaps = p.blockBitmaps + p.groups
		p.end = p.inodeBitmaps + p.groups
		return p, nil
	}
	return plan{}, errTooLarge
}

// inodeOffset is where in the file an inode is.
func (p plan) inodeOffset(number uint32) int64 {
	g, i := (number-1)/p.inodesPerGroup, (number-1)%p.inodesPerGroup
	return int64(p.tables+g*p.tableBlocks)*blockSize + int64(i)*inodeSize
}
