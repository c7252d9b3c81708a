// Package ext4 writes ext4 file systems into files: from a tree of inodes in memory and file contents that are streamed in, without
// root, without a mount, and the same bytes for the same input.
//
// What it makes is an ordinary file system that Linux mounts read-write: with a journal, extents, free space and free inodes. It has 4 KiB
// blocks, one superblock, no checksums of metadata, and all metadata behind the data, for the size is known only at the end
// (flex_bg and sparse_super2 make that legal). The layout is described in the kernel's Documentation/filesystems/ext4.
//
// Why not what there is: hcsshim's tar2ext4 makes file systems that can only be read, without free inodes and without a journal, and brings forty
// packages for its log; go-diskfs has no hard links, devices or extended attributes; mke2fs -d takes owners from the host's files,
// which without root are the caller's, and must be installed.
//
// Archives, images and caches do not enter; nor does reading of file systems.
package ext4

import (
	"errors"
	"time"
)

// ErrLimit is wrapped by errors about a tree that ext4, or this writer, cannot hold.
var ErrLimit = errors.New("more than the ext4 file system can hold")

// File types, the upper bits of Inode.Mode (inode(7)).
const (
	TypeMask    = 0xf000
	TypeFIFO    = 0x1000
	TypeChar    = 0x2000
	TypeDir     = 0x4000
	TypeBlock   = 0x6000
	TypeRegular = 0x8000
	TypeSymlink = 0xa000
	TypeSocket  = 0xc000
)

// Limits of names and links.
const (
	MaxName   = 255   // bytes of a directory entry's name
	MaxTarget = 4095  // bytes of a symbolic link's target
	MaxLinks  = 65000 // hard links to an inode that is no directory
)

// Inode is a file of any type. Hard links are the same Inode in several places.
type Inode struct {
	Mode         uint16 // type and permissions
	UID, GID     uint32
	Major, Minor uint32 // of TypeChar and TypeBlock: 12 and 20 bits
	Atime, Mtime time.Time
	Target       string            // of TypeSymlink: 1 to MaxTarget bytes
	Xattrs       map[string][]byte // full names; values as getxattr(2) returns them; in all less than a block
	Children     map[string]*Inode // of TypeDir: names without a slash, not "." nor ".."; a tree

	size   uint64
	start  uint32 // first block of the contents, which are contiguous
	blocks uint32 // of the contents
	acl    uint32 // the block of the extended attributes; 0: in the inode or none
	leaves []uint32
	number uint32
	links  uint32
	parent uint32 // of a directory, its parent's number
}

// Dir tells whether n is a directory.
func (n *Inode) Dir() bool { return n.Mode&TypeMask == TypeDir }
