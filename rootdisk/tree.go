package rootdisk

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/qenex/qenex-kernel/oci/image"
	"github.com/qenex/qenex-kernel/rootdisk/ext4"
)

// Bounds of one archive entry and of the tree in memory.
const (
	maxPath     = 4096      // bytes
	maxSymlinks = 40        // followed on the way to one entry, as Linux has it
	maxMetadata = 512 << 20 // bytes of all names, link targets and extended attributes
)

// Whiteouts, as the OCI image specification's "layer" chapter has them.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// contents takes the bytes of regular files.
type contents interface {
	Contents(n *ext4.Inode, r io.Reader) error
}

// tree is a root directory being put together in memory. Symbolic links are resolved within it.
type tree struct {
	ctx    context.Context
	root   *ext4.Inode
	out    contents
	limits image.Limits // what is left
	meta   int64        // bytes of metadata that are left

	layered bool                     // whiteouts mean something
	made    map[*ext4.Inode]struct{} // what the layer at hand brought
}

func newTree(ctx context.Context, out contents, l image.Limits) *tree {
	root := &ext4.Inode{Mode: ext4.TypeDir | 0o755, Children: map[string]*ext4.Inode{}}
	return &tree{ctx: ctx, root: root, out: out, limits: l, meta: maxMetadata}
}

// layer puts one plain tar above what is there.
func (t *tree) layer(r io.Reader, whiteouts bool) error {
	t.layered, t.made = whiteouts, map[*ext4.Inode]struct{}{}
	for a := tar.NewReader(r); ; {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		h, err := a.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return invalid("broken tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := t.entry(h, a); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

// clean returns an archive's path relative to the root, "" for the root itself.
func clean(name string) (string, error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", invalid("a path longer than %d bytes or with a zero byte", maxPath)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", invalid("the path climbs with ..")
		}
		if len(part) > ext4.MaxName {
			return "", invalid("a name longer than %d bytes", ext4.MaxName)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (t *tree) entry(h *tar.Header, data io.Reader) error {
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	n, err := inodeOf(h)
	if err != nil {
		return err
	}
	if err := t.charge(h, n); err != nil {
		return err
	}
	if name == "" {
		if !n.Dir() {
			return invalid("the root is no directory")
		}
		n.Children = t.root.Children
		*t.root = *n
		return nil
	}
	dir, base := path.Split(name)
	if t.layered && strings.HasPrefix(base, whiteout) {
		return t.whiteout(dir, base)
	}
	parent, err := t.dir(dir, true)
	if err != nil {
		return err
	}
	old := parent.Children[base]
	switch {
	case h.Typeflag == tar.TypeLink:
		if n, err = t.target(h.Linkname); err != nil {
			return err
		}
	case n.Dir() && old != nil && old.Dir(): // a directory stays where a directory comes
		n.Children = old.Children
		*old = *n
		n = old
	case n.Mode&ext4.TypeMask == ext4.TypeRegular:
		if err := t.out.Contents(n, data); err != nil {
			return err
		}
	}
	parent.Children[base] = n
	t.made[n] = struct{}{}
	return nil
}

// charge counts an entry against the limits.
func (t *tree) charge(h *tar.Header, n *ext4.Inode) error {
	if t.limits.Entries--; t.limits.Entries < 0 {
		return invalid("the image has too many files")
	}
	if h.Size < 0 {
		return invalid("a size of %d", h.Size)
	}
	if t.limits.Bytes -= h.Size; t.limits.Bytes < 0 {
		return invalid("the image is larger than allowed")
	}
	t.meta -= int64(len(h.Name) + len(h.Linkname))
	for name, value := range n.Xattrs {
		t.meta -= int64(len(name) + len(value))
	}
	if t.meta < 0 {
		return invalid("the names, links and attributes of the image take more than %d MiB", maxMetadata>>20)
	}
	return nil
}

var types = map[byte]uint16{
	tar.TypeReg: ext4.TypeRegular, tar.TypeGNUSparse: ext4.TypeRegular, tar.TypeDir: ext4.TypeDir, tar.TypeSymlink: ext4.TypeSymlink,
	tar.TypeFifo: ext4.TypeFIFO, tar.TypeChar: ext4.TypeChar, tar.TypeBlock: ext4.TypeBlock, tar.TypeLink: ext4.TypeRegular,
}

// inodeOf translates a header.
func inodeOf(h *tar.Header) (*ext4.Inode, error) {
	typ, ok := types[h.Typeflag]
	if !ok {
		return nil, invalid("type %q is not known", h.Typeflag)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return nil, invalid("owner %d:%d", h.Uid, h.Gid)
	}
	n := &ext4.Inode{Mode: typ | uint16(h.Mode&0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Atime: h.AccessTime, Mtime: h.ModTime}
	if n.Atime.IsZero() {
		n.Atime = n.Mtime
	}
	switch typ {
	case ext4.TypeDir:
		n.Children = map[string]*ext4.Inode{}
	case ext4.TypeSymlink:
		if n.Target = h.Linkname; n.Target == "" || len(n.Target) > ext4.MaxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return nil, invalid("a symbolic link of %d bytes, or with a zero byte", len(n.Target))
		}
		n.Mode = typ | 0o777
	case ext4.TypeChar, ext4.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, invalid("device number %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	size := 0
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && ext4.HasXattr(name) {
			if size += len(name) + len(value); size > maxPath {
				return nil, invalid("extended attributes of more than %d bytes", maxPath)
			}
			if n.Xattrs == nil {
				n.Xattrs = map[string][]byte{}
			}
			n.Xattrs[name] = []byte(value)
		}
	}
	return n, nil
}

// errMissing says that a path leads nowhere.
var errMissing = fmt.Errorf("%w: there is no such directory", image.ErrInvalid)

// dir returns the directory that name leads to, links followed as if the tree were the file system, and makes what is missing if asked to.
func (t *tree) dir(name string, create bool) (*ext4.Inode, error) {
	way := []*ext4.Inode{t.root}
	links := 0
	for todo := strings.Split(name, "/"); len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		here := way[len(way)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		next := here.Children[part]
		switch {
		case next == nil && !create:
			return nil, errMissing
		case next == nil:
			if len(part) > ext4.MaxName {
				return nil, invalid("a name longer than %d bytes", ext4.MaxName)
			}
			if t.limits.Entries--; t.limits.Entries < 0 {
				return nil, invalid("the image has too many files")
			}
			next = &ext4.Inode{Mode: ext4.TypeDir | 0o755, Children: map[string]*ext4.Inode{}}
			here.Children[part] = next
			t.made[next] = struct{}{}
		case next.Mode&ext4.TypeMask == ext4.TypeSymlink:
			if links++; links > maxSymlinks {
				return nil, invalid("more than %d symbolic links on the way", maxSymlinks)
			}
			if strings.HasPrefix(next.Target, "/") {
				way = way[:1]
			}
			todo = append(strings.Split(next.Target, "/"), todo...)
			continue
		case !next.Dir():
			return nil, invalid("%.200q, on the way, is no directory", part)
		}
		way = append(way, next)
	}
	return way[len(way)-1], nil
}

// target returns what a hard link is to be a name of.
func (t *tree) target(linkname string) (*ext4.Inode, error) {
	name, err := clean(linkname)
	if err != nil {
		return nil, fmt.Errorf("a hard link to %.200q: %w", linkname, err)
	}
	dir, base := path.Split(name)
	parent, err := t.dir(dir, false)
	if err != nil {
		return nil, fmt.Errorf("a hard link to %.200q: %w", linkname, err)
	}
	n := parent.Children[base]
	if n == nil || n.Dir() {
		return nil, invalid("a hard link to %.200q, which is not there or is a directory", linkname)
	}
	return n, nil
}

// whiteout removes what the layers below have of an entry of dir, or of all.
func (t *tree) whiteout(dir, base string) error {
	parent, err := t.dir(dir, false)
	if err != nil {
		return nil // nothing to hide
	}
	if base == opaqueWhiteout {
		t.pruneBelow(parent)
		return nil
	}
	if strings.HasPrefix(base, whiteout+whiteout) {
		return nil // aufs' own files
	}
	name := strings.TrimPrefix(base, whiteout)
	if name == "" || name == "." || name == ".." {
		return invalid("a whiteout of %q", name)
	}
	t.prune(parent, name)
	return nil
}

// prune removes an entry of the layers below, but not what this layer brought nor directories that hold some of it.
func (t *tree) prune(parent *ext4.Inode, name string) {
	n := parent.Children[name]
	if n == nil {
		return
	}
	_, keep := t.made[n]
	if n.Dir() {
		t.pruneBelow(n)
		keep = keep || len(n.Children) > 0
	}
	if !keep {
		delete(parent.Children, name)
	}
}

func (t *tree) pruneBelow(dir *ext4.Inode) {
	for name := range dir.Children {
		t.prune(dir, name)
	}
}
