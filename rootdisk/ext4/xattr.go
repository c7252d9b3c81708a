package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Extended attributes (Documentation/filesystems/ext4/attributes.rst): in the inode if all fit, else in one block.
const (
	xattrMagic     = 0xea020000
	xattrEntry     = 16 // bytes before the name
	xattrBlockHead = 32
)

// namespaces are the prefixes that names have on disk as a number. The ones with a full name stand before the ones they begin with.
var namespaces = []struct {
	prefix string
	index  byte
}{
	{"system.posix_acl_access", 2}, {"system.posix_acl_default", 3},
	{"user.", 1}, {"trusted.", 4}, {"security.", 6}, {"system.", 7},
}

// HasXattr tells whether ext4 can hold an attribute of this name.
func HasXattr(name string) bool {
	_, _, ok := splitXattr(name)
	return ok && strings.IndexByte(name, 0) < 0
}

func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, ns := range namespaces {
		if rest, ok := strings.CutPrefix(name, ns.prefix); ok && len(rest) <= 255 && (rest == "") == !strings.HasSuffix(ns.prefix, ".") {
			return ns.index, rest, true
		}
	}
	return 0, "", false
}

type xattr struct {
	index byte
	name  string
	value []byte
}

// sortedXattrs returns the attributes in the order in which a block has them.
func (n *Inode) sortedXattrs() ([]xattr, error) {
	var list []xattr
	for name, value := range n.Xattrs {
		index, rest, ok := splitXattr(name)
		if !ok {
			return nil, fmt.Errorf("%w: an extended attribute named %.300q", ErrLimit, name)
		}
		if index == 2 || index == 3 {
			var err error
			if value, err = diskACL(value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		list = append(list, xattr{index, rest, value})
	}
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// room is how many bytes of entries, their end and values the list takes.
func room(list []xattr) int {
	n := 4
	for _, x := range list {
		n += xattrEntry + align4(len(x.name)) + align4(len(x.value))
	}
	return n
}

// inInode is the room for attributes in an inode.
const inInode = inodeSize - xattrStart - 4

// encodeXattrs writes entries from the beginning of b and values from its end. Offsets of values count from base bytes before b. It
// returns the hashes of the entries.
func encodeXattrs(b []byte, base int, list []xattr) []uint32 {
	var hashes []uint32
	at, end := 0, len(b)
	for _, x := range list {
		e := b[at:]
		e[0], e[1] = byte(len(x.name)), x.index
		le.PutUint32(e[8:], uint32(len(x.value)))
		copy(e[xattrEntry:], x.name)
		if len(x.value) > 0 {
			end -= align4(len(x.value))
			copy(b[end:], x.value)
			le.PutUint16(e[2:], uint16(base+end))
		}
		h := entryHash(x.name, b[end:end+align4(len(x.value))])
		le.PutUint32(e[12:], h)
		hashes = append(hashes, h)
		at += xattrEntry + align4(len(x.name))
	}
	return hashes
}

// entryHash is ext4_xattr_hash_entry: over the name, then over the value's words, padded with zeroes.
func entryHash(name string, padded []byte) uint32 {
	var h uint32
	for i := range len(name) {
		h = h<<5 ^ h>>27 ^ uint32(name[i])
	}
	for ; len(padded) >= 4; padded = padded[4:] {
		h = h<<16 ^ h>>16 ^ le.Uint32(padded)
	}
	return h
}

// inlineXattrs writes the attributes of an inode that has no block for them.
func (n *Inode) inlineXattrs(b []byte) error {
	if len(n.Xattrs) == 0 || n.acl != 0 {
		return nil
	}
	list, err := n.sortedXattrs()
	if err != nil {
		return err
	}
	le.PutUint32(b, xattrMagic)
	encodeXattrs(b[4:], 0, list)
	return nil
}

// xattrBlock writes the attributes of an inode that has no room for them.
func (w *Writer) xattrBlock(n *Inode) error {
	list, err := n.sortedXattrs()
	if err != nil || len(list) == 0 || room(list) <= inInode {
		return err
	}
	if room(list) > blockSize-xattrBlockHead {
		return fmt.Errorf("%w: extended attributes of %d bytes in all", ErrLimit, room(list))
	}
	b := make([]byte, blockSize)
	var hash uint32
	for _, h := range encodeXattrs(b[xattrBlockHead:], xattrBlockHead, list) {
		hash = hash<<16 ^ hash>>16 ^ h
	}
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[4:], 1) // references
	le.PutUint32(b[8:], 1) // blocks
	le.PutUint32(b[12:], hash)
	n.acl, err = w.put(b)
	return err
}

// diskACL turns a POSIX ACL as getxattr returns it (version 2, entries of 8 bytes) into ext4's (version 1, no ID where none is meant).
func diskACL(v []byte) ([]byte, error) {
	if len(v) < 4 || le.Uint32(v) != 2 || (len(v)-4)%8 != 0 {
		return nil, errors.New("not an access control list of version 2")
	}
	out := []byte{1, 0, 0, 0}
	for e := v[4:]; len(e) > 0; e = e[8:] {
		out = append(out, e[:4]...)
		if tag := le.Uint16(e); tag == 0x02 || tag == 0x08 { // a user, a group
			out = append(out, e[4:8]...)
		}
	}
	return out, nil
}
