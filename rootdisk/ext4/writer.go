package ext4

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

var errTooLarge = fmt.Errorf("%w: it would be larger than %d GiB", ErrLimit, maxBlocks*blockSize>>30)

// Writer makes a file system in a file. Its methods are called by one goroutine: Contents for regular files, then Finish.
type Writer struct {
	file *os.File
	next uint64 // the next block to be given away
	buf  []byte

	dirs     []*Inode // in the order of their numbers
	numbered []*Inode // all, ditto; the first has firstInode, but for the root
	inUse    []run    // blocks, ascending
}

// run is blocks in use: first to end-1.
type run struct{ first, end uint32 }

// NewWriter returns a writer into f, an empty regular file, which stays the caller's.
func NewWriter(f *os.File) *Writer {
	return &Writer{file: f, next: firstData, buf: make([]byte, 256<<10)}
}

// take gives away n blocks.
func (w *Writer) take(n uint64) (uint32, error) {
	if n > maxBlocks-w.next {
		return 0, errTooLarge
	}
	first := w.next
	w.next += n
	return uint32(first), nil
}

// Contents reads r to its end and makes it the contents of n, a regular file. The contents of inodes that Finish does not find in the
// tree become free space.
func (w *Writer) Contents(n *Inode, r io.Reader) error {
	if n.Mode&TypeMask != TypeRegular {
		return fmt.Errorf("contents for an inode of mode %#o, which is no regular file", n.Mode)
	}
	start, size := w.next, uint64(0)
	for {
		got, err := io.ReadFull(r, w.buf)
		if got > 0 {
			if size+uint64(got) > maxFileBlocks*blockSize {
				return fmt.Errorf("%w: a file of more than %d GiB", ErrLimit, maxFileBlocks*blockSize>>30)
			}
			at := start*blockSize + size
			size += uint64(got)
			if (at+uint64(got)+blockSize-1)/blockSize > maxBlocks {
				return errTooLarge
			}
			if err := w.write(w.buf[:got], int64(at)); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	first, err := w.take((size + blockSize - 1) / blockSize)
	n.start, n.size, n.blocks = first, size, uint32((size+blockSize-1)/blockSize)
	return err
}

// write leaves holes where there are only zeroes.
func (w *Writer) write(p []byte, at int64) error {
	for c := range slices.Chunk(p, len(zeroBlock)) {
		if !zeroes(c) {
			if _, err := w.file.WriteAt(c, at); err != nil {
				return err
			}
		}
		at += int64(len(c))
	}
	return nil
}

var zeroBlock [64 << 10]byte

func zeroes(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }

// put writes p into new blocks and returns the first.
func (w *Writer) put(p []byte) (uint32, error) {
	first, err := w.take(uint64(len(p)+blockSize-1) / blockSize)
	if err != nil {
		return 0, err
	}
	_, err = w.file.WriteAt(p, int64(first)*blockSize)
	return first, err
}

// Finish writes the file system whose root directory is root, with at least free bytes for new files. identity makes its UUID, its
// first 16 bytes, and the seed of its directory hashes. now is the time of a lost+found that the tree has not got.
func (w *Writer) Finish(root *Inode, free uint64, identity [32]byte, now time.Time) error {
	if !root.Dir() {
		return fmt.Errorf("the root has mode %#o: it must be a directory", root.Mode)
	}
	const lostFound = "lost+found"
	if l := root.Children[lostFound]; l == nil {
		if root.Children == nil {
			root.Children = map[string]*Inode{}
		}
		root.Children[lostFound] = &Inode{Mode: TypeDir | 0o700, Atime: now, Mtime: now}
	} else if !l.Dir() {
		return fmt.Errorf("/%s is no directory: ext4 needs one there", lostFound)
	}
	if err := w.number(root, lostFound); err != nil {
		return err
	}
	if err := w.scatter(root); err != nil {
		return err
	}
	journal, err := w.journal(identity)
	if err != nil {
		return err
	}
	w.use(journal)
	if w.next > maxBlocks {
		return errTooLarge
	}
	p, err := newPlan(uint32(w.next), uint64(firstInode)-1+uint64(len(w.numbered)), free)
	if err != nil {
		return err
	}
	if err := w.punch(); err != nil {
		return err
	}
	return w.metadata(p, root, journal, identity)
}

// number gives the inodes of the tree their numbers and counts their links. lost+found comes first, where e2fsck expects it.
func (w *Writer) number(root *Inode, lostFound string) error {
	root.number, root.parent, root.links = rootInode, rootInode, 2
	w.dirs = []*Inode{root}
	for i := 0; i < len(w.dirs); i++ {
		d := w.dirs[i]
		names := slices.Sorted(maps.Keys(d.Children))
		if d == root {
			names = slices.DeleteFunc(names, func(s string) bool { return s == lostFound })
			names = slices.Insert(names, 0, lostFound)
		}
		for _, name := range names {
			n := d.Children[name]
			if name == "" || name == "." || name == ".." || len(name) > MaxName {
				return fmt.Errorf("%w: a name of %d bytes, %.300q", ErrLimit, len(name), name)
			}
			if n.number == 0 {
				n.number = firstInode + uint32(len(w.numbered))
				w.numbered = append(w.numbered, n)
				if n.Dir() {
					n.parent, n.links = d.number, 2
					w.dirs = append(w.dirs, n)
					d.links++
					continue
				}
			} else if n.Dir() {
				return fmt.Errorf("the directory %.300q is in the tree twice", name)
			}
			if n.links++; n.links > MaxLinks {
				return fmt.Errorf("%w: more than %d hard links to %.300q", ErrLimit, MaxLinks, name)
			}
		}
	}
	return nil
}

// scatter writes what of the inodes needs blocks of its own.
func (w *Writer) scatter(root *Inode) error {
	for _, n := range append([]*Inode{root}, w.numbered...) {
		var data []byte
		switch n.Mode & TypeMask {
		case TypeDir:
			data = n.entries()
		case TypeSymlink:
			if len(n.Target) == 0 || len(n.Target) > MaxTarget {
				return fmt.Errorf("%w: a symbolic link of %d bytes", ErrLimit, len(n.Target))
			}
			n.size = uint64(len(n.Target))
			if len(n.Target) >= inlineTarget {
				data = []byte(n.Target)
			}
		case TypeRegular, TypeFIFO, TypeSocket, TypeChar, TypeBlock:
		default:
			return fmt.Errorf("a file of type %#o", n.Mode&TypeMask)
		}
		if data != nil {
			first, err := w.put(data)
			if err != nil {
				return err
			}
			n.start, n.size, n.blocks = first, uint64(len(data)), uint32((len(data)+blockSize-1)/blockSize)
		}
		if err := w.leaves(n); err != nil {
			return err
		}
		if err := w.xattrBlock(n); err != nil {
			return err
		}
		w.use(n)
	}
	return nil
}

// use notes the blocks of an inode.
func (w *Writer) use(n *Inode) {
	if n.blocks > 0 {
		w.inUse = append(w.inUse, run{n.start, n.start + n.blocks})
	}
	for _, b := range n.leaves {
		w.inUse = append(w.inUse, run{b, b + 1})
	}
	if n.acl != 0 {
		w.inUse = append(w.inUse, run{n.acl, n.acl + 1})
	}
}

// punch gives the host back what contents without an inode took. Where the host's file system cannot, they stay.
func (w *Writer) punch() error {
	slices.SortFunc(w.inUse, func(a, b run) int { return int(int64(a.first) - int64(b.first)) })
	from := uint32(firstData)
	for _, r := range append(slices.Clone(w.inUse), run{uint32(w.next), 0}) {
		if r.first > from {
			err := unix.Fallocate(int(w.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(from)*blockSize, int64(r.first-from)*blockSize)
			if err != nil && err != unix.EOPNOTSUPP {
				return fmt.Errorf("free what is not used of %s: %w", w.file.Name(), err)
			}
		}
		from = r.end
	}
	return nil
}
